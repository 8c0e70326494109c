"""A flash sale: whatever buyers and workers do at once, nothing is sold twice or lost."""

import random
from collections.abc import Iterator

import pytest

from tests import sale
from tests.house import House
from tests.ledger import Ledger
from tests.sale import Premises, Shop
from tests.services import Postgres, RedisServer


@pytest.fixture(scope="module")
def place(postgres_server: Postgres, redis_server: RedisServer) -> Iterator[Premises]:
    """Two processes of this file's own: they are killed."""
    with sale.premises(postgres_server, redis_server) as found:
        yield found


async def test_as_many_are_sold_as_there_are(place: Premises) -> None:
    """600 buyers at one moment over two processes, 500 copies: 500 get one, 100 are refused."""
    with Shop(place) as shop:
        await sale.rush(shop, shop.crowd(sale.BUYERS), random.Random(7))
    assert place.faults() == []


async def test_as_many_are_sold_as_there_are_on_sqlite(house_on_sqlite: House) -> None:
    """The same through one process on SQLite."""
    place = Premises(house_on_sqlite, Ledger.sqlite(house_on_sqlite.servers[0]))
    with Shop(place) as shop:
        await sale.rush(shop, shop.crowd(sale.BUYERS), random.Random(7))
    assert place.faults() == []


async def test_nothing_is_oversold_at_any_instant(place: Premises) -> None:
    """64 buyers for ten copies, with cancels, expiries and lost leases: right at each look."""
    assert place.eye is not None
    with place.eye() as eye:
        told = await sale.scramble(place, 20, 10, random.Random(7))
    assert (told.wrong, told.rounds, eye.sight.wrong) == ([], 20, [])
    assert eye.sight.looks > 5 * told.rounds
    assert eye.sight.levels > eye.sight.looks
    assert place.faults() == []


@pytest.mark.parametrize("number", [1, 2])
async def test_a_killed_process_sells_what_it_sold(place: Premises, number: int) -> None:
    """kill -9 in the middle of a sale: buyers ask again, and what was promised is there."""
    with Shop(place) as shop:
        await sale.struck(shop, random.Random(number))


async def test_everybody_sees_the_last_number(place: Premises) -> None:
    """50 streams on the hot product, some reconnecting: in order, never twice, right at last."""
    with Shop(place) as shop:
        found = await sale.watched(shop, 50, random.Random(7), buyers=64, linger=0.8)
    assert found.wrong == []
    assert found.events > found.streams * 5
