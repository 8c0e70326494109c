"""The catalogue: what is for sale, at which price, from when, how many at once."""

from collections.abc import Sequence
from dataclasses import dataclass

from database import Dialect, Session, as_array
from instants import stamp

# --- terms of sale --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Terms:
    """What decides whether a product can be sold, and at which price."""

    price_cents: int
    currency: str
    available_from: int | None
    max_per_order: int | None
    active: bool

    def on_sale(self, now: int) -> bool:
        return self.active and (self.available_from is None or self.available_from <= now)

    def why_not(self, now: int) -> str:
        if not self.active or self.available_from is None:
            return "not on sale"
        return f"on sale from {stamp(self.available_from)}"


TERMS = {
    dialect: f"SELECT {dialect.clock} AS now, p.sku, p.price_cents, p.currency,"
    " p.available_from, p.max_per_order, p.active FROM (SELECT 1) AS one"
    f" LEFT JOIN products p ON p.sku {wanted}"
    for dialect, wanted in (
        (Dialect.POSTGRES, "= ANY($1::text[])"),
        (Dialect.SQLITE, "IN (SELECT value FROM json_each($1))"),
    )
}


async def terms(session: Session, skus: Sequence[str]) -> tuple[int, dict[str, Terms]]:
    """The database's clock, and the terms of those SKUs that are products, of one instant."""
    rows = await session.fetch(TERMS[session.dialect], as_array(session.dialect, skus))
    found = {
        row["sku"]: Terms(
            row["price_cents"],
            row["currency"],
            row["available_from"],
            row["max_per_order"],
            bool(row["active"]),
        )
        for row in rows
        if row["sku"] is not None
    }
    return int(rows[0]["now"]), found
