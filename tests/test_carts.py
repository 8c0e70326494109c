"""Carts under attack: many tabs at once, the last copies, a held lock, a process that dies."""

import asyncio
import random
from collections.abc import Iterator

import pytest

import carts
import errors
from moves import Posted, Receive
from tests import tabs
from tests.house import House, running
from tests.services import Postgres
from tests.tabs import checkout, lines_of, product, scramble
from tests.test_writer import Stand, claim, copy, enqueue, migrated, on_postgres, place, stand

__all__ = ["copy", "migrated", "on_postgres", "place", "stand"]  # fixtures


async def filled(stand: Stand, customer: str, *skus: str) -> int:
    """A cart with one of each; its version."""
    for sku in skus:
        await product(stand.db, sku)
        await carts.put(stand.db, customer, sku, 1, None)
    return (await carts.get(stand.db, customer))["version"]


async def told(stand: Stand, *commands: tabs.Checkout) -> list[Posted | errors.Problem]:
    return await stand.writer.do_many(commands)


@pytest.mark.parametrize("number", [1, 2])
async def test_no_line_is_lost_or_bought_twice(stand: Stand, number: int) -> None:
    """Tabs that put, drop and buy at once, over two writers: each line ends up in one place."""
    writers = [stand.writer, await stand.second()]
    assert await scramble(stand.db, writers, random.Random(number)) == []
    await stand.check()


@pytest.mark.parametrize("apart", [False, True], ids=["one batch", "two processes"])
async def test_two_tabs_check_out_at_once(stand: Stand, apart: bool) -> None:
    """One order. The other is 412 if it said what it saw, else there is nothing left: 422."""
    other = await stand.second() if apart else stand.writer
    for insists, kind in ((True, errors.VersionMismatch), (False, errors.Invalid)):
        seen = await filled(stand, "c-1", "a", "b")
        wish = checkout("c-1", if_match=seen if insists else None)
        twin = checkout("c-1", if_match=seen if insists else None)
        first, second = await asyncio.gather(
            stand.writer.do(wish), other.do(twin), return_exceptions=True
        )
        refused, made = sorted((first, second), key=lambda one: isinstance(one, Posted))
        assert isinstance(refused, kind), refused
        assert isinstance(made, Posted)
        assert lines_of(made.shape) == [("a", 1), ("b", 1)]
        assert (await carts.get(stand.db, "c-1"))["items"] == []


async def test_a_key_in_one_batch_buys_once(stand: Stand) -> None:
    """The same call twice at the same moment is one order, and both are told which."""
    seen = await filled(stand, "c-1", "a")
    twins = [checkout("c-1", "key", seen) for _ in range(2)]
    one, two = await told(stand, *twins)
    assert isinstance(one, Posted)
    assert isinstance(two, Posted)
    assert (one.shape, one.replayed, two.replayed) == (two.shape, False, True)
    assert len(await stand.fetch("SELECT id FROM messages")) == 1


async def test_the_last_copies_go_to_as_many_carts(stand: Stand) -> None:
    """Ten carts at once for three copies: three orders, and seven carts as they were."""
    await product(stand.db, "rare")
    await stand.writer.do(Receive("rare", 3, "admin"))
    customers = [f"c-{n}" for n in range(10)]
    for customer in customers:
        await filled(stand, customer, "common", "rare")
    before = {one: await carts.get(stand.db, one) for one in customers}
    answers = await told(stand, *(checkout(one) for one in customers))
    winners = {
        one for one, answer in zip(customers, answers, strict=True) if isinstance(answer, Posted)
    }
    assert len(winners) == 3
    for one, answer in zip(customers, answers, strict=True):
        now = await carts.get(stand.db, one)
        if one in winners:
            assert (now["items"], now["version"]) == ([], before[one]["version"] + 1)
        else:
            assert isinstance(answer, errors.OutOfStock)
            assert answer.errors[0]["pointer"] == "#/items/1"
            assert (now["version"], lines_of(now)) == (2, lines_of(before[one]))
    await stand.check()


async def test_a_cart_that_is_held_holds_nobody_else(on_postgres: Stand) -> None:
    """Somebody holds the row: its checkout waits, others go on; it is done once he lets go."""
    await filled(on_postgres, "c-1", "a")
    line = await on_postgres.stranger()
    held = line.transaction()
    await held.start()
    await line.execute("SELECT 1 FROM carts FOR UPDATE")
    waiting = asyncio.create_task(on_postgres.writer.do(checkout("c-1")))
    async with asyncio.timeout(30):
        for _ in range(5):
            await on_postgres.writer.do(enqueue())
    assert not waiting.done()
    await held.rollback()
    assert lines_of((await waiting).shape) == [("a", 1)]


async def test_a_cart_that_stays_held_is_given_up(on_postgres: Stand) -> None:
    """Its checkout is 503 after 2 s, with nothing bought; the key can be used again."""
    await filled(on_postgres, "c-1", "a")
    line = await on_postgres.stranger()
    held = line.transaction()
    await held.start()
    await line.execute("SELECT 1 FROM carts FOR UPDATE")
    waiting = asyncio.ensure_future(on_postgres.writer.do(checkout("c-1", "key")))
    await on_postgres.writer.do(claim())  # begun after it, and in its batch
    on_postgres.clock.now += 1.9
    for _ in range(2):
        await on_postgres.writer.do(claim())
    assert not waiting.done()
    on_postgres.clock.now += 0.2
    with pytest.raises(errors.Unavailable):
        await waiting
    assert await on_postgres.fetch("SELECT id FROM keys UNION SELECT subject FROM events") == []
    await held.rollback()
    posted = await on_postgres.writer.do(checkout("c-1", "key"))
    assert (posted.replayed, lines_of(posted.shape)) == (False, [("a", 1)])


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request: pytest.FixtureRequest) -> Iterator[tuple[House, str]]:
    """A process to be killed, and where its database is."""
    if request.param == "sqlite":
        with running() as house:
            yield house, f"sqlite://{house.servers[0].settings['DATA_DIR']}/filaviva.db"
        return
    server: Postgres = request.getfixturevalue("postgres_server")
    name = server.create()
    with running(DATABASE_URL=server.url(name)) as house:
        yield house, server.url(name)
    server.drop(name)


async def test_a_killed_process_leaves_an_order_or_a_cart(shop: tuple[House, str]) -> None:
    """kill -9 while everybody checks out: never both, never neither, never half of either."""
    house, url = shop
    with tabs.regulars(house, 4) as found:
        await tabs.struck(house, url, random.Random(7), found)
