"""Attacks: killed, frozen, cut off, everything at once. Nothing is lost, nothing is doubled."""

import random
from collections.abc import Iterator

import pytest

from tests import chaos, tallies
from tests.chaos import Load, Pair
from tests.house import running
from tests.ledger import Ledger
from tests.proxy import Place
from tests.services import Postgres, RedisServer


@pytest.fixture(scope="module")
def found(postgres_server: Postgres, redis_server: RedisServer) -> Iterator[Pair]:
    """Two processes of this file's own: it ill-treats them."""
    with chaos.pair(postgres_server, redis_server) as pair:
        yield pair


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "lost"])
@pytest.mark.parametrize("verb", chaos.CUTS)
def test_a_line_cut_at_the_commit_does_it_once(found: Pair, verb: str, committed: bool) -> None:
    """Whether COMMIT arrived or not, the caller gets his answer and there is one effect."""
    chaos.cut(found, verb, committed=committed)
    assert found.ledger.faults() == []


@pytest.mark.parametrize(
    "what, place",
    [
        ("head", Place.AFTER),
        ("head", Place.HALF),
        ("row", Place.AFTER),
        ("key", Place.AFTER),
        ("stock", Place.AFTER),
    ],
)
def test_a_frozen_process_does_not_stop_the_others(found: Pair, what: str, place: Place) -> None:
    """Frozen with the head, a message, a key or a product: the others answer all the same.

    Stopped half-way through a request its backend is `active`: no timeout of PostgreSQL
    ends that, only the other processes do.
    """
    chaos.FREEZES[what](found, place)


def test_killed_processes_lose_and_double_nothing(found: Pair) -> None:
    """kill -9 under load, Redis too: each 2xx is there once, each stream has every event once.

    The rates count each event once too.
    """
    draw = random.Random(7)
    with Load(found.house, found.ledger, draw) as load:
        for process in (0, 1, 0):
            chaos.killed(load, found.process(process), draw)
            assert found.ledger.sql(chaos.DIFFERING) == ["0"]
        chaos.killed(load, found.redis, draw)
        assert load.finish() == []
    assert len(load.posted) >= 4 * chaos.POSTS
    assert tallies.wrong(found.ledger.sql) == []


def test_a_killed_process_on_sqlite_loses_and_doubles_nothing() -> None:
    """kill -9 of the one process, started again on the same folder: the same promise."""
    draw = random.Random(7)
    with running() as house:
        [server] = house.servers
        with Load(house, Ledger.sqlite(server), draw) as load:
            for _ in range(2):
                chaos.killed(load, server, draw)
            assert load.finish() == []
        assert len(load.posted) >= 2 * chaos.POSTS
        assert tallies.wrong(Ledger.sqlite(server).sql) == []


def test_a_key_posted_many_times_at_once_is_one_message(found: Pair) -> None:
    """32 copies at once over two processes: one message, the same bytes for everybody."""
    assert chaos.posted_once(found, [f"key-{n}" for n in range(100)]) == []


def test_a_receipt_is_worth_nothing_once_another_has_claimed(found: Pair) -> None:
    """Workers who slept through their leases are refused; nothing is completed twice."""
    assert chaos.stale(found, workers=6, rounds=1, draw=random.Random(7), leases=30) == []
