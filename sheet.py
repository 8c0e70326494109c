"""A price list as a CSV file: each row is a product, or a fault with its line."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas import ProductIn

COLUMNS = ("sku", "title", "artist", "genre", "tracks", "release_year", "price_cents")
NEEDED = {"sku", "title", "price_cents"}
WHOLE = ("tracks", "release_year")
FIELDS = {"name": "title"}  # of a product → the column it comes from
DIGITS = re.compile(r"[0-9]{1,15}", re.ASCII)
Row = dict[str | None, Any]  # more cells than columns stand under None, missing ones are None


class BadSheet(Exception):
    """What is wrong with a file: a sentence for each fault, with its line."""

    def __init__(self, faults: list[str]) -> None:
        self.faults = faults
        super().__init__(faults[0])


def read(path: Path, currency: str) -> list[ProductIn]:
    """The products of a file in UTF-8 whose first line names the columns.

    Raises:
        BadSheet: something does not fit; nothing of it is to be used then.
        OSError: it cannot be read.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            if faults := _header_faults(list(reader.fieldnames or [])):
                raise BadSheet(faults)
            rows = [(reader.line_num, row) for row in reader]
        except csv.Error as error:
            raise BadSheet([f"line {reader.line_num}: {error}"]) from None
        except UnicodeDecodeError:
            raise BadSheet([f"after line {reader.line_num}: not UTF-8"]) from None
    return _products(rows, currency)


def _header_faults(names: list[str]) -> list[str]:
    unknown = [name for name in names if name not in COLUMNS]
    twice = sorted({name for name in names if names.count(name) > 1})
    missing = [name for name in COLUMNS if name in NEEDED and name not in names]
    return [
        *(f"line 1: there is no column '{name}'" for name in missing),
        *(f"line 1: '{name}' is none of {', '.join(COLUMNS)}" for name in unknown),
        *(f"line 1: '{name}' comes twice" for name in twice),
    ]


def _products(rows: list[tuple[int, Row]], currency: str) -> list[ProductIn]:
    found: dict[str, tuple[int, ProductIn]] = {}
    faults: list[str] = []
    for line, row in rows:
        try:
            product = _product(row, currency)
        except BadSheet as bad:
            faults += [f"line {line}: {fault}" for fault in bad.faults]
            continue
        first, _ = found.setdefault(product.sku, (line, product))
        if first != line:
            faults.append(f"line {line}: sku: {product.sku} stands in line {first} already")
    if faults:
        raise BadSheet(faults)
    return [product for _, product in found.values()]


def _product(row: Row, currency: str) -> ProductIn:
    if faults := list(_cell_faults(row)):
        raise BadSheet(faults)
    try:
        return ProductIn.model_validate(_body(row, currency))
    except ValidationError as error:
        raise BadSheet(list(_field_faults(error))) from None


def _cell_faults(row: Row) -> Iterator[str]:
    if None in row:
        yield "more cells than columns"
    if None in row.values():
        yield "fewer cells than columns"
    for name in WHOLE:
        if row.get(name) and not DIGITS.fullmatch(row[name]):
            yield f"{name}: must be a whole number"


def _body(row: Row, currency: str) -> dict[str, Any]:
    """A row as it would come over HTTP; an empty cell says nothing."""
    attributes: dict[str, Any] = {name: row[name] for name in ("artist", "genre") if row.get(name)}
    attributes |= {name: int(row[name]) for name in WHOLE if row.get(name)}
    price = row["price_cents"]
    return {
        "sku": row["sku"],
        "name": row["title"],
        "price_cents": int(price) if DIGITS.fullmatch(price) else price,
        "currency": currency,
        "attributes": attributes,
    }


def _field_faults(error: ValidationError) -> Iterator[str]:
    for fault in error.errors(include_input=False, include_context=False, include_url=False):
        name = str(fault["loc"][0])
        yield f"{FIELDS.get(name, name)}: {fault['msg']}"
