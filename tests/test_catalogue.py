"""Terms of sale and price lists as CSV files, without a database; the genres, with both."""

import csv
import unicodedata
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import catalogue
import sheet
from catalogue import Terms
from folding import folded
from schemas import ProductIn
from tests.services import ROOT
from tests.test_writer import Stand, copy, migrated, place, stand

__all__ = ["copy", "migrated", "place", "stand"]  # fixtures

FORMS: list[Literal["NFC", "NFD", "NFKC", "NFKD"]] = ["NFC", "NFD", "NFKC", "NFKD"]
HEADER = "sku,title,artist,genre,tracks,price_cents"
SKUS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", fullmatch=True)
# What a cell may hold: anything that can be stored, line ends, quotes and commas too.
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=40)
ROWS = st.lists(
    st.tuples(
        SKUS,
        CELLS.filter(bool),
        CELLS,
        CELLS,
        st.none() | st.integers(0, 99),
        st.integers(0, 10**12),
    ),
    max_size=8,
    unique_by=lambda row: row[0],
)


def faults(path: Path, text: str | bytes, currency: str = "BRL") -> list[str]:
    """What is said of a file."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(sheet.BadSheet) as caught:
        sheet.read(path, currency)
    return caught.value.faults


# --- terms of sale --------------------------------------------------------------------


@given(st.booleans(), st.none() | st.integers(0, 10), st.integers(0, 10))
def test_what_is_on_sale(active: bool, available_from: int | None, now: int) -> None:
    """Active, and not before its instant; else there is a sentence that says which."""
    terms = Terms(990, "BRL", available_from, None, active)
    early = available_from is not None and now < available_from
    assert terms.on_sale(now) == (active and not early)
    if active and early:
        assert terms.why_not(now).startswith("on sale from 1970-01-01T00:00:00.0")
    elif not active:
        assert terms.why_not(now) == "not on sale"


@pytest.mark.parametrize(
    "upper, lower",
    [
        ("ÇÃO", "ção"),
        ("ACUSTICO", "Acústico"),
        ("STRASSE", "straße"),
        ("ΟΔΟΣ", "οδός"),
        ("ᾼ", "ᾳ"),
        ("ДИСК", "диск"),
        ("CAFE\N{COMBINING ACUTE ACCENT}", "café"),
        ("№ ℍ", "no h"),
    ],
)
def test_case_and_accents_are_folded_in_every_script(upper: str, lower: str) -> None:
    """Whoever searches need not know how it was written; databases fold ASCII alone."""
    assert folded(upper) == folded(lower)
    assert folded(upper) in folded(f"a{lower}z")


@st.composite
def sought(draw: st.DrawFn) -> tuple[str, str]:
    """A text, and a part of it in another case and with other accents."""
    # Without the dotless i, which has no capital of its own.
    text = draw(st.text(st.characters(codec="utf-8", exclude_characters="ı"), min_size=1))
    start = draw(st.integers(0, len(text) - 1))
    part = text[start : draw(st.integers(start + 1, len(text)))]
    case = draw(st.sampled_from([str, str.upper, str.lower, str.title, str.swapcase]))
    form = draw(st.sampled_from(FORMS))
    marks = st.sampled_from(["", "", *"\u0300\u0301\u0302\u0303\u0308\u0327"])
    spelled = "".join(one + draw(marks) for one in case(part))
    return text, unicodedata.normalize(form, spelled)


@given(sought())
def test_a_part_is_found_whatever_its_case_and_accents(sought: tuple[str, str]) -> None:
    """What is a part of a text is one of it folded, and folding twice changes nothing."""
    text, part = map(folded, sought)
    assert part in text
    assert folded(text) == text


# --- price lists ----------------------------------------------------------------------


def test_the_sample_is_a_price_list() -> None:
    """The project's own discs are read, each with what its row says."""
    products = sheet.read(ROOT / "samples" / "discs.csv", "BRL")
    assert len({product.sku for product in products}) == len(products) == 347
    assert products[0].model_dump() == {
        "sku": "disc-001",
        "name": "For Those About To Rock We Salute You",
        "price_cents": 990,
        "currency": "BRL",
        "attributes": {"artist": "AC/DC", "genre": "Rock", "tracks": 10},
        "available_from": None,
        "max_per_order": None,
        "active": True,
    }


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(rows=ROWS)
def test_what_a_sheet_holds_arrives(rows: list[tuple[Any, ...]], tmp_path: Path) -> None:
    """Whatever stands in a cell comes through as it is; an empty one says nothing."""
    path = tmp_path / "list.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER.split(","))
        writer.writerows(rows)
    found = [
        (one.sku, one.name, one.attributes, one.price_cents) for one in sheet.read(path, "USD")
    ]
    told = [
        (
            sku,
            title,
            {
                name: value
                for name, value in (("artist", artist), ("genre", genre), ("tracks", tracks))
                if value is not None and value != ""
            },
            price,
        )
        for sku, title, artist, genre, tracks, price in rows
    ]
    assert found == told


def test_a_sheet_as_a_spreadsheet_writes_it(tmp_path: Path) -> None:
    """A mark at its beginning, other columns' order, CRLF, empty lines and no artist: all fine."""
    path = tmp_path / "list.csv"
    path.write_bytes("\ufeffprice_cents,sku,title\r\n\r\n5,a,Canção\r\n\r\n".encode())
    (product,) = sheet.read(path, "EUR")
    assert (product.sku, product.name, product.price_cents) == ("a", "Canção", 5)
    assert (product.currency, product.attributes) == ("EUR", {})


@pytest.mark.parametrize(
    "row, wrong",
    [
        ("-a,b,,,,1", "sku: "),
        ("a,,,,,1", "title: "),
        ("a," + "b" * 201 + ",,,,1", "title: "),
        ("a,b,,,x,1", "tracks: must be a whole number"),
        ("a,b,,,1.5,1", "tracks: must be a whole number"),
        ("a,b,,,,", "price_cents: "),
        ("a,b,,,,-1", "price_cents: "),
        ("a,b,,,,9.90", "price_cents: "),
        ("a,b,,,,1000000000001", "price_cents: "),
        ("a,b,,,,٣", "price_cents: "),
        ("a,b," + "x" * 17_000 + ",,,1", "attributes: larger than 16 KiB"),
        ("a,b\x00,,,,1", "title: "),
        ("a,b,,,,1,2", "more cells than columns"),
        ("a,b", "fewer cells than columns"),
        ("ok,b,,,,2", "sku: ok stands in line 2 already"),
    ],
    ids=lambda text: text[:16],
)
def test_a_fault_has_its_line(tmp_path: Path, row: str, wrong: str) -> None:
    """A row that does not fit is named by its line and cell, and none of the others is taken."""
    found = faults(tmp_path / "list.csv", f"{HEADER}\nok,Fine,,,,1\n\n{row}\nfine,too,,,3,1\n")
    assert len(found) == 1
    assert found[0].startswith(f"line 4: {wrong}"), found


@pytest.mark.parametrize(
    "text, wrong",
    [
        ("", "there is no column 'sku'"),
        ("sku,title\n", "there is no column 'price_cents'"),
        ("sku,title,price_cents,colour\n", "'colour' is none of"),
        ("sku,title,price_cents,sku\n", "'sku' comes twice"),
        ('sku,title,price_cents\na,"b,1\n', "unexpected end of data"),
        (b"sku,title,price_cents\na,\xe9t\xe9,1\n", "not UTF-8"),
        (b"\xff\xfe", "not UTF-8"),
    ],
    ids=str,
)
def test_what_is_no_price_list(tmp_path: Path, text: str | bytes, wrong: str) -> None:
    """A file that cannot be understood is refused in a sentence."""
    assert any(wrong in fault for fault in faults(tmp_path / "list.csv", text))


def test_every_fault_is_told(tmp_path: Path) -> None:
    """Who mends a list mends it once."""
    found = faults(tmp_path / "list.csv", f"{HEADER}\n-,,,,x,1\n-,,,,,y\n")
    assert [fault.partition(":")[0] for fault in found] == ["line 2"] + ["line 3"] * 3


# --- genres ---------------------------------------------------------------------------


async def test_genres_are_those_of_what_is_sold(stand: Stand) -> None:
    """Each once, as it is written, in their order; not those of what nobody can buy."""
    for sku, genre in (("a", "Rock"), ("b", "jazz"), ("c", "Rock"), ("d", "Ária"), ("e", None)):
        about = {} if genre is None else {"genre": genre}
        made = ProductIn(sku=sku, name=sku, price_cents=1, attributes=about)
        await catalogue.create(stand.db, made)
    gone = ProductIn(sku="f", name="f", price_cents=1, active=False, attributes={"genre": "Polka"})
    await catalogue.create(stand.db, gone)
    async with stand.db.read() as session:
        assert await catalogue.genres(session, 9) == ["Ária", "jazz", "Rock"]
        assert len(await catalogue.genres(session, 2)) == 2
