"""The present state of topics as of an exact cursor: what a stream with `snapshot=1` begins with.

All topics of a stream are read in one short transaction into memory; it is over before the
first byte is written, however slowly the client reads.
"""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import events
import favourites
import queues
import stock
from auth import FAVOURITES, is_favourites
from database import Database, Session
from hub import Snapshot, control, event_id
from moves import Message

ShowOrders = Callable[[Session, Sequence[tuple[Message, str]]], Awaitable[list[dict[str, Any]]]]

ITEMS_A_FRAME = 50
MAX_ITEMS = 1_000  # of a topic
MAX_ORDERS = 200  # of a customer, the newest


async def read(database: Database, topics: Collection[str], orders: ShowOrders) -> Snapshot:
    """One `snapshot` frame or more for each topic; only the last one of all has an id.

    `orders` shapes orders as of the session it is given.
    """
    async with database.snapshot() as session:
        log = await events.look(session)
        found = {topic: await _items(session, topic, orders) for topic in sorted(topics)}
    as_of = event_id(log.epoch, log.head)
    shapes = [shape for topic, items in found.items() for shape in _shapes(topic, items, as_of)]
    frames = [control("snapshot", shape) for shape in shapes[:-1]]
    frames += [control("snapshot", shape, as_of) for shape in shapes[-1:]]
    return Snapshot(log.epoch, log.head, frames)


def _shapes(
    topic: str, found: tuple[list[dict[str, Any]], bool], as_of: str
) -> Iterator[Mapping[str, Any]]:
    items, truncated = found
    for start in range(0, max(1, len(items)), ITEMS_A_FRAME):
        yield {
            "topic": FAVOURITES if is_favourites(topic) else topic,
            "as_of": as_of,
            "items": items[start : start + ITEMS_A_FRAME],
            "more": start + ITEMS_A_FRAME < len(items),
            "truncated": truncated,
        }


async def _items(
    session: Session, topic: str, orders: ShowOrders
) -> tuple[list[dict[str, Any]], bool]:
    """The rows of a topic, and whether there are more than it may show."""
    kind, _, name = topic.partition(":")
    most = MAX_ORDERS if kind == "customer" else MAX_ITEMS
    if kind in _ORDERS:
        rows = await _ORDERS[kind](session, name, most + 1)
        return await orders(session, rows[:most]), len(rows) > most
    found = await _READERS[kind](session, name, most + 1)
    return found[:most], len(found) > most


async def _order(session: Session, name: str, limit: int) -> list[tuple[Message, str]]:
    found = await queues.find_or_none(session, name)
    return [] if found is None else [found]


async def _orders(session: Session, customer: str, limit: int) -> list[tuple[Message, str]]:
    return await queues.list_messages(session, None, {"customer": customer}, None, limit)


async def _queues(session: Session, name: str, limit: int) -> list[dict[str, Any]]:
    return await queues.live(session, name or None, limit)


async def _stock(session: Session, sku: str, limit: int) -> list[dict[str, Any]]:
    levels = await stock.find(session, [sku]) if sku else None
    shown = await stock.first(session, limit) if levels is None else levels.values()
    return [stock.stock_shape(level, staff=False) for level in shown]


async def _favourites(session: Session, customer: str, limit: int) -> list[dict[str, Any]]:
    skus = await favourites.skus(session, customer)
    levels = await stock.find(session, skus)
    return [stock.stock_shape(levels[sku], staff=False) for sku in skus if sku in levels]


_ORDERS = {"order": _order, "customer": _orders}
_READERS = {
    "queue": _queues,
    "queues": _queues,
    "stock": _stock,
    "favourites": _favourites,
}
