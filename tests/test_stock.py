"""Stock, decided without a database: all lines or none, and everything promised ends once."""

import json
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import errors
import moves
from catalogue import Terms
from stock import MAX_ON_HAND, Level, Origin, Shelf
from tests.life import DAY, EDGES, NOW, Store, purchase

Rows = dict[str, Any]
ORIGIN = Origin("01a1ff43-dd00-7b3e-8f21-4c5d6e7f8091", "admin")
SKUS = ["a", "b", "c", "d"]


def shelf(**levels: tuple[int, int]) -> Shelf:
    """A shelf with some SKUs: on hand and reserved."""
    rows = {
        sku: Level(sku, on_hand, reserved, None, 7, 3, NOW - DAY, NOW - DAY)
        for sku, (on_hand, reserved) in levels.items()
    }
    return Shelf(NOW, rows)


def told(found: Shelf | Store) -> list[Rows]:
    """Type and data of what the stock events of a shelf, or of a whole log, say."""
    events = found.events() if isinstance(found, Shelf) else found.log
    stock = [event for event in events if event.subject.startswith("stock:")]
    return [{"type": event.type, **json.loads(event.data)} for event in stock]


counted = st.dictionaries(
    st.sampled_from(SKUS),
    st.integers(0, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n))),
)
lines_of = st.lists(st.tuples(st.sampled_from(SKUS), st.integers(1, 5)), min_size=1, max_size=6)


# --- one reservation ------------------------------------------------------------------


@given(counted, lines_of)
def test_all_lines_or_none(
    levels: dict[str, tuple[int, int]], lines: list[tuple[str, int]]
) -> None:
    """A purchase reserves all it names of what is counted, or is refused and leaves no trace."""
    there, wanted = shelf(**levels), Counter[str]()
    before = deepcopy(there)
    for sku, n in lines:
        wanted[sku] += n if sku in levels else 0
    free = {sku: on_hand - reserved for sku, (on_hand, reserved) in levels.items()}
    short = {sku: n for sku, n in wanted.items() if n > free.get(sku, 0)}
    if not short:
        assert there.reserve(lines) == +wanted
        reserved = {sku: level.reserved for sku, level in there.levels.items()}
        assert reserved == {sku: n + wanted[sku] for sku, (_, n) in levels.items()}
        return
    with pytest.raises(errors.OutOfStock) as refused:
        there.reserve(lines)
    assert there == before
    assert there.events() == []
    assert {(one["sku"], one["requested"], one["available"]) for one in refused.value.errors} == {
        (sku, n, free[sku]) for sku, n in short.items()
    }


def test_one_sku_on_two_lines_counts_together() -> None:
    """Two and two of three is too much, and is told as four at the first of the two lines."""
    with pytest.raises(errors.OutOfStock) as refused:
        shelf(a=(3, 0), b=(1, 0)).reserve([("b", 1), ("a", 2), ("a", 2)])
    assert [(one["pointer"], one["requested"]) for one in refused.value.errors] == [
        ("#/items/1", 4)
    ]
    assert shelf(a=(4, 0)).reserve([("a", 2), ("a", 2)]) == {"a": 4}


def test_out_of_stock_says_what_is_wanted_and_what_is_left() -> None:
    """Every line that cannot be served is named; the sentence is about the first."""
    with pytest.raises(errors.OutOfStock) as refused:
        shelf(a=(9, 6), b=(2, 0), c=(1, 1)).reserve([("a", 5), ("b", 2), ("c", 1)])
    assert refused.value.detail == "a: 5 wanted, 3 left"
    assert refused.value.errors == [
        {
            "pointer": "#/items/0",
            "detail": "5 wanted, 3 left",
            "sku": "a",
            "requested": 5,
            "available": 3,
        },
        {
            "pointer": "#/items/2",
            "detail": "1 wanted, 0 left",
            "sku": "c",
            "requested": 1,
            "available": 0,
        },
    ]


# --- what is on hand ------------------------------------------------------------------


def test_what_comes_in_is_on_hand() -> None:
    """A receive is a line of the ledger with what is on hand after it and who brought it."""
    there = shelf(a=(5, 2))
    origin = Origin(ORIGIN.id, "admin", "restocked", "delivery 88")
    assert there.receive("a", 4, origin).on_hand == 9
    [line] = there.movements
    assert asdict(line) == {
        **asdict(origin),
        "sku": "a",
        "number": 4,
        "kind": "received",
        "change": 4,
        "on_hand": 9,
        "reserved": 2,
        "low_at": None,
        "version": 8,
        "created_at": NOW,
    }


def test_there_is_a_most_that_can_be_counted() -> None:
    """A receive past 10¹² is refused at its quantity; up to it, it is taken."""
    there = shelf(a=(MAX_ON_HAND - 1, 0))
    with pytest.raises(errors.Invalid) as refused:
        there.receive("a", 2, ORIGIN)
    assert [one["pointer"] for one in refused.value.errors] == ["#/quantity"]
    assert there.changed == []
    assert there.receive("a", 1, ORIGIN).on_hand == MAX_ON_HAND


@pytest.mark.parametrize(
    "sku, on_hand, expected, problem",
    [
        ("b", 4, 5, errors.NotFound),
        ("a", 4, 6, errors.VersionMismatch),
        ("a", 1, 6, errors.VersionMismatch),
        ("a", 1, 5, errors.BelowReserved),
        ("a", 0, 5, errors.BelowReserved),
    ],
)
def test_a_count_that_is_not_taken(
    sku: str, on_hand: int, expected: int, problem: type[errors.Problem]
) -> None:
    """An adjustment compares before it sets, and never takes what is promised."""
    there = shelf(a=(5, 2))
    with pytest.raises(problem):
        there.adjust(sku, on_hand, expected, ORIGIN)
    assert there == shelf(a=(5, 2))


@pytest.mark.parametrize("on_hand", [2, 4, 11])
def test_a_count_that_is_taken(on_hand: int) -> None:
    """The ledger gets the difference."""
    there = shelf(a=(5, 2))
    assert there.adjust("a", on_hand, 5, ORIGIN).on_hand == on_hand
    assert [(one.kind, one.change) for one in there.movements] == [("adjusted", on_hand - 5)]


def test_what_is_as_it_was_is_no_change() -> None:
    """The same count and the same low mark again write nothing."""
    there = shelf(a=(5, 2))
    assert there.adjust("a", 5, 5, ORIGIN).version == 7
    assert there.set_low("a", None).version == 7
    assert (there.changed, there.movements, there.events()) == ([], [], [])


# --- what is told ---------------------------------------------------------------------

step = st.tuples(
    st.sampled_from(["reserve", "reserve", "release", "commit", "receive", "adjust", "set_low"]),
    st.sampled_from(SKUS),
    st.integers(1, 5),
)


def take(there: Shelf, held: list[dict[str, int]], verb: str, sku: str, n: int) -> str | None:
    """One step on a shelf; the reason that it gives, None if it changes nothing."""
    before = deepcopy(there.levels[sku])
    if verb == "reserve":
        held.append(there.reserve([(sku, n)]))
        return "reserved"
    if verb in ("release", "commit"):
        mine = next((one for one in held if sku in one), None)
        if mine is None:
            return None
        held.remove(mine)
        if verb == "release":
            there.release(mine)
            return "released"
        there.commit(mine, {sku: Origin(ORIGIN.id, "w", message=ORIGIN.id)})
        return "committed"
    if verb == "receive":
        there.receive(sku, n, ORIGIN)
        return "received"
    if verb == "adjust":
        there.adjust(sku, n, before.on_hand, ORIGIN)
        return "adjusted" if before.on_hand != n else None
    there.set_low(sku, n)
    return "adjusted" if before.low_at != n else None


@given(st.lists(step, max_size=12))
def test_one_event_for_each_sku_and_transaction(steps: list[tuple[str, str, int]]) -> None:
    """However much happens: one `stock.changed`, from what was to what is, and one version."""
    there = shelf(a=(9, 0), b=(3, 0), c=(1, 0), d=(0, 0))
    before = {sku: (level.available, level.state) for sku, level in there.levels.items()}
    held: list[dict[str, int]] = []
    reasons: dict[str, str] = {}
    for verb, sku, n in steps:
        try:
            reason = take(there, held, verb, sku, n)
        except errors.Problem:
            continue
        if reason is not None:
            reasons[sku] = reason
    expected: list[Rows] = []
    for sku in sorted(reasons):
        level, (left, state) = there.levels[sku], before[sku]
        data = {"sku": sku, "available": level.available, "previous_available": left}
        data |= {"state": level.state, "reason": reasons[sku], "version": 8}
        kinds = ["stock.changed", EDGES.get((state, level.state))]
        expected += [{"type": kind, **data} for kind in kinds if kind]
    assert told(there) == expected
    assert [one.sku for one in there.changed] == sorted(reasons)
    assert {one.version for one in there.levels.values() if one not in there.changed} <= {7}


@pytest.mark.parametrize(
    "low_at, before, after, edges",
    [
        (3, 5, 4, []),
        (3, 5, 3, ["stock.low"]),
        (3, 4, 1, ["stock.low"]),
        (3, 3, 2, []),
        (3, 2, 0, ["stock.depleted"]),
        (3, 9, 0, ["stock.depleted"]),
        (None, 9, 1, []),
        (None, 1, 0, ["stock.depleted"]),
        (3, 0, 2, ["stock.replenished"]),
        (3, 0, 9, ["stock.replenished"]),
        (None, 0, 1, ["stock.replenished"]),
        (3, 2, 9, []),
        (0, 1, 0, ["stock.depleted"]),
    ],
)
def test_edges_are_told_when_they_are_crossed(
    low_at: int | None, before: int, after: int, edges: list[str]
) -> None:
    """Low on the way down, depleted at nothing, replenished on the way up; each only once."""
    there = shelf(a=(before, 0))
    there.levels["a"].low_at = low_at
    there.adjust("a", after, before, ORIGIN)
    events = told(there)
    assert [one.pop("type") for one in events] == ["stock.changed", *edges]
    assert all(one == events[0] for one in events)


def test_a_new_low_mark_may_be_an_edge() -> None:
    """Raised over what is available it is low at once; lowered again it says so silently."""
    there = shelf(a=(4, 0))
    there.set_low("a", 4)
    assert [(one["type"], one["state"]) for one in told(there)] == [
        ("stock.changed", "low"),
        ("stock.low", "low"),
    ]
    again = Shelf(NOW, there.levels)
    again.set_low("a", 3)
    assert [(one["type"], one["state"]) for one in told(again)] == [("stock.changed", "in_stock")]


# --- the moves ------------------------------------------------------------------------


@pytest.fixture
def store() -> Store:
    """Two queues, of which `a` gives up early; five of `disc`, and nothing else, is counted."""
    found = Store()
    found.add(1, "a", max_attempts=2, max_lost_leases=2, backoff_seconds=0)
    found.add(2, "b")
    receive(found, "disc", 5)
    return found


def receive(
    store: Store, sku: str, n: int, key: str | None = None, account: str = "admin"
) -> moves.Posted:
    return store.one(moves.Receive(sku, n, account, key=key, fingerprint=str(n)))


def wish(*lines: tuple[str, int], queue: str = "a", key: str | None = None) -> moves.Enqueue:
    return moves.Enqueue(queue, purchase(*lines), "shop", key)


def bought(store: Store, n: int = 2, seconds: int | None = None) -> str:
    """The id of a purchase of some discs; it waits no longer than some seconds."""
    command = wish(("disc", n))
    if seconds is not None:
        until = {"expires_at": store.now + seconds * 1000}
        command.purchase = command.purchase.model_copy(update=until)
    return store.one(command).shape["id"]


def leased(store: Store, n: int = 2, seconds: int | None = None) -> Rows:
    message = bought(store, n, seconds)
    [found] = store.one(moves.Claim("a", 1, None, "w1", "worker"))
    assert found["id"] == message
    return found


def ack(found: Rows, forward_to: str | None = None) -> moves.Ack:
    return moves.Ack(found["id"], found["receipt"], "worker", forward_to=forward_to)


def nack(found: Rows, *, retry: bool = True) -> moves.Nack:
    return moves.Nack(found["id"], found["receipt"], "worker", error="broken", retry=retry)


def release(found: Rows) -> moves.Release:
    return moves.Release(found["id"], found["receipt"], "worker")


def failed(store: Store, n: int = 2) -> str:
    found = leased(store, n)
    store.one(nack(found, retry=False))
    return found["id"]


def level(store: Store, sku: str = "disc") -> tuple[int, int]:
    """On hand and reserved."""
    return store.levels[sku].on_hand, store.levels[sku].reserved


def since(store: Store, version: int) -> list[Rows]:
    """The stock events after a version of `disc`."""
    return [one for one in told(store) if one["version"] > version]


def test_a_purchase_reserves_what_it_names(store: Store) -> None:
    """What is held stands with the purchase, and the event follows that of the order."""
    message = bought(store)
    assert level(store) == (5, 2)
    assert store.rows[message].held() == {"disc": 2}
    assert [event.type for event in store.log[-2:]] == ["order.created", "stock.changed"]
    assert told(store)[-1] == {
        "type": "stock.changed",
        "sku": "disc",
        "available": 3,
        "previous_available": 5,
        "state": "in_stock",
        "reason": "reserved",
        "version": 2,
    }


def cancelled_while_processing(store: Store) -> None:
    found = leased(store)
    store.one(moves.Cancel(found["id"], "shop"))
    store.one(release(found))


def forwarded_after_a_wish_to_cancel(store: Store) -> None:
    found = leased(store)
    store.one(moves.Cancel(found["id"], "shop"))
    store.one(ack(found, forward_to="b"))


def given_up(store: Store) -> None:
    for _ in range(2):
        [found] = store.one(moves.Claim("a", 1, None, "w1", "worker")) or [leased(store)]
        store.one(nack(found))


def lost(store: Store) -> None:
    found = leased(store)
    for _ in range(2):
        store.now += 31_000
        assert store.one(moves.Reap([found["id"]])) == 1
        store.one(moves.Claim("a", 1, None, "w1", "worker"))


def late_and_cancelled(store: Store) -> None:
    found = leased(store)
    store.one(moves.Cancel(found["id"], "shop"))
    store.now += 31_000
    store.one(moves.Reap([found["id"]]))


def expired(store: Store) -> None:
    message = bought(store, seconds=1)
    store.now += 1_000
    assert store.one(moves.Expire([message])) == 1


def expired_while_processing(store: Store) -> None:
    found = leased(store, seconds=1)
    store.now += 1_000
    store.one(nack(found))


def put_back_into_a_deleted_queue(store: Store) -> None:
    found = leased(store)
    store.change(1, deleted=True)
    store.one(release(found))


ENDINGS: dict[str, Callable[[Store], object]] = {
    "cancelled": lambda store: store.one(moves.Cancel(bought(store), "shop")),
    "cancelled while processing": cancelled_while_processing,
    "forwarded after a wish to cancel": forwarded_after_a_wish_to_cancel,
    "failed for good": failed,
    "given up": given_up,
    "lost": lost,
    "late and cancelled": late_and_cancelled,
    "expired": expired,
    "expired while processing": expired_while_processing,
    "purged": lambda store: store.one(moves.Purge([bought(store)], "admin", queue_id=1)),
    "in a deleted queue": put_back_into_a_deleted_queue,
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_other_end_releases(store: Store, ending: str) -> None:
    """What was not sold is free again, at once and once, and the ledger is as it was."""
    ENDINGS[ending](store)
    [row] = store.rows.values()
    assert row.status in ("failed", "cancelled", "expired")
    assert row.reserved is None
    assert level(store) == (5, 0)
    last = told(store)[-1]
    assert (last["reason"], last["previous_available"], last["available"]) == ("released", 3, 5)
    assert len(since(store, 1)) == 2
    assert [one.kind for one in store.ledger] == ["received"]
    store.check()


def test_a_purchase_that_is_done_is_sold(store: Store) -> None:
    """It leaves what is on hand; what is available was told when it was reserved."""
    found = leased(store)
    store.one(ack(found))
    assert level(store) == (3, 0)
    assert store.rows[found["id"]].reserved is None
    sold = store.ledger[-1]
    assert (sold.kind, sold.change, sold.on_hand) == ("committed", -2, 3)
    assert (sold.message, sold.actor, sold.reason) == (found["id"], "worker", None)
    last = told(store)[-1]
    assert (last["reason"], last["previous_available"], last["available"]) == ("committed", 3, 3)
    assert store.one(ack(found))["status"] == "completed"
    assert level(store) == (3, 0)
    store.check()


def test_what_is_under_way_keeps_what_it_holds(store: Store) -> None:
    """Forward, nack, release, extend and a lost lease change nothing on the shelf."""
    found = leased(store)
    store.one(moves.Extend(found["id"], found["receipt"], "worker", lease_seconds=60))
    for settle in (release, nack):
        store.one(settle(found))
        [found] = store.one(moves.Claim("a", 1, None, "w1", "worker"))
    store.now += 61_000
    store.one(moves.Reap([found["id"]]))
    [found] = store.one(moves.Claim("a", 1, None, "w1", "worker"))
    store.one(ack(found, forward_to="b"))
    [found] = store.one(moves.Claim("b", 1, None, "w1", "worker"))
    assert level(store) == (5, 2)
    assert len(since(store, 2)) == 0
    store.one(ack(found))
    assert level(store) == (3, 0)


@pytest.mark.parametrize("reaped", [False, True])
def test_a_late_ack_sells(store: Store, reaped: bool) -> None:
    """The lease ran out, nobody else claimed: what was done is done, and was held all the time."""
    found = leased(store)
    store.now += 31_000
    if reaped:
        assert store.one(moves.Reap([found["id"]])) == 1
    assert store.one(ack(found))["status"] == "completed"
    assert level(store) == (3, 0)
    store.check()


def test_a_purchase_of_what_was_not_counted_settles_nothing(store: Store) -> None:
    """What it did not reserve it neither sells nor frees, though the SKU is counted now."""
    first, second = (store.one(wish(("vinyl", 2))).shape["id"] for _ in range(2))
    assert store.rows[first].reserved is None
    receive(store, "vinyl", 5)
    [found] = store.one(moves.Claim("a", 1, None, "w1", "worker"))
    store.one(ack(found))
    store.one(moves.Cancel(second, "shop"))
    assert level(store, "vinyl") == (5, 0)
    assert {one["reason"] for one in told(store) if one["sku"] == "vinyl"} == {"received"}
    store.one(moves.Retry(second, "admin"))
    assert level(store, "vinyl") == (5, 2)
    store.check()


# --- back to pending ------------------------------------------------------------------


def test_a_retry_reserves_again(store: Store) -> None:
    """As when it was accepted, and in the same transaction."""
    message = failed(store)
    store.one(moves.Retry(message, "admin"))
    assert level(store) == (5, 2)
    assert store.rows[message].held() == {"disc": 2}
    assert told(store)[-1]["reason"] == "reserved"


def test_a_retry_of_what_was_sold_meanwhile_is_refused(store: Store) -> None:
    """409 with the status it stays in; nothing of it moved."""
    message = failed(store)
    bought(store, 4)
    before = deepcopy(store)
    with pytest.raises(errors.OutOfStock) as refused:
        store.one(moves.Retry(message, "admin"))
    assert refused.value.data == {"current": "failed"}
    assert [(one["requested"], one["available"]) for one in refused.value.errors] == [(2, 1)]
    assert store == before


def test_a_redrive_counts_what_lacks_stock(store: Store) -> None:
    """What there is stock for goes back, oldest first; the others are counted and stay."""
    messages = [failed(store, n) for n in (3, 3, 2, 1)]
    assert store.one(moves.Redrive(messages, "admin", queue_id=1)) == (2, 2)
    assert [store.rows[one].status for one in messages] == [
        "pending",
        "failed",
        "pending",
        "failed",
    ]
    assert level(store) == (5, 5)
    assert store.one(moves.Redrive(messages, "admin", queue_id=1)) == (0, 2)
    store.check()


def test_a_retry_in_the_batch_in_which_it_failed(store: Store) -> None:
    """Whether two calls meet in one transaction makes no difference to what is reserved."""
    message = store.one(wish(("vinyl", 2))).shape["id"]
    receive(store, "vinyl", 5)
    [found] = store.one(moves.Claim("a", 1, None, "w1", "worker"))
    store.run(nack(found, retry=False), moves.Retry(message, "admin"))
    assert level(store, "vinyl") == (5, 2)
    store.check()


# --- several in one transaction -------------------------------------------------------


def test_first_come_first_served(store: Store) -> None:
    """Buyers of one transaction stand or fall alone, in the order in which they came."""
    wanted = [wish(("disc", n)) for n in (2, 2, 2, 1, 1)]
    outcomes = store.run(*wanted)
    assert [isinstance(one, errors.OutOfStock) for one in outcomes] == [
        False,
        False,
        True,
        False,
        True,
    ]
    assert [one["available"] for one in outcomes[2].errors] == [1]
    [changed, edge] = since(store, 1)
    assert (changed["type"], edge["type"]) == ("stock.changed", "stock.depleted")
    assert (changed["previous_available"], changed["available"]) == (5, 0)
    assert store.levels["disc"].version == 2


def test_there_and_back_in_one_transaction(store: Store) -> None:
    """The event says that nothing is different, and what was done last."""
    command = wish(("disc", 2))
    store.run(command, moves.Cancel(command.id, "shop"))
    [changed] = since(store, 1)
    assert (changed["previous_available"], changed["available"]) == (5, 5)
    assert changed["reason"] == "released"
    assert level(store) == (5, 0)


def test_a_sku_is_counted_from_its_first_receive_on(store: Store) -> None:
    """What came before it in its transaction found nothing that is counted, what came after did."""
    early, late, much = (wish(("vinyl", n)) for n in (9, 2, 4))
    adjusted = moves.Adjust("vinyl", 7, 0, "counted", "admin")
    low = moves.SetLow("vinyl", 3)
    outcomes = store.run(early, adjusted, low, moves.Receive("vinyl", 5, "admin"), late, much, low)
    assert [getattr(one, "code", None) for one in outcomes] == [
        None,
        "not_found",
        "not_found",
        None,
        None,
        "out_of_stock",
        None,
    ]
    assert store.rows[early.id].reserved is None
    assert level(store, "vinyl") == (5, 2)
    store.check()


def test_a_row_held_elsewhere_holds_on_to_its_stock(store: Store) -> None:
    """A purge that passes by a row leaves what it holds."""
    first, second = bought(store), bought(store)
    [done] = store.run(moves.Purge([first, second], "admin", queue_id=1), held=[first])
    assert done == 1
    assert level(store) == (5, 2)
    store.check()


# --- idempotency ----------------------------------------------------------------------


def test_a_receive_with_a_key_happens_once(store: Store) -> None:
    """Again, later or in the same transaction, it answers what it answered the first time."""
    keyed = [moves.Receive("disc", 4, "admin", key="k", fingerprint="4") for _ in range(3)]
    first, _, again = store.run(keyed[0], moves.Receive("disc", 1, "admin"), keyed[1])
    bought(store)
    later = store.one(keyed[2])
    assert [one.replayed for one in (first, again, later)] == [False, True, True]
    assert first.shape == again.shape == later.shape
    assert (first.shape["on_hand"], first.shape["reserved"]) == (9, 0)
    assert level(store) == (10, 2)


def test_another_receive_under_the_key_is_refused(store: Store) -> None:
    """Later and in the same transaction."""
    keyed = [moves.Receive("disc", n, "admin", key="k", fingerprint=str(n)) for n in (4, 5, 6)]
    _, second = store.run(*keyed[:2])
    assert isinstance(second, errors.IdempotencyKeyReused)
    with pytest.raises(errors.IdempotencyKeyReused):
        store.one(keyed[2])
    assert level(store) == (9, 0)


def test_a_key_of_a_receive_belongs_to_account_and_sku(store: Store) -> None:
    """The same key of another account, for another SKU or on a purchase is another call."""
    receive(store, "disc", 4, "k")
    assert not receive(store, "vinyl", 4, "k").replayed
    assert not receive(store, "disc", 4, "k", account="second").replayed
    assert not store.one(wish(("disc", 1), key="k")).replayed
    assert level(store) == (13, 1)


def test_a_receive_that_was_refused_keeps_no_key(store: Store) -> None:
    """Only a success is kept."""
    refused = moves.Receive("disc", MAX_ON_HAND, "admin", key="k", fingerprint="much")
    with pytest.raises(errors.Invalid):
        store.one(refused)
    assert not receive(store, "disc", 4, "k").replayed


def test_a_purchase_with_a_key_reserves_once(store: Store) -> None:
    """A replay holds nothing more; a refusal leaves its key free."""
    with pytest.raises(errors.OutOfStock):
        store.one(wish(("disc", 6), key="k"))
    receive(store, "disc", 1)
    outcomes = store.run(*(wish(("disc", 6), key="k") for _ in range(2)))
    assert [one.replayed for one in outcomes] == [False, True]
    assert store.one(wish(("disc", 6), key="k")).replayed
    assert level(store) == (6, 6)


# --- terms of sale --------------------------------------------------------------------


def terms(**changes: Any) -> Terms:
    plain = Terms(990, "BRL", available_from=None, max_per_order=None, active=True)
    return replace(plain, **changes)


@pytest.mark.parametrize(
    "product, why",
    [
        (terms(active=False), "not on sale"),
        (terms(available_from=NOW + 1), "on sale from 2026-11-21T18:00:00.001Z"),
        (terms(active=False, available_from=NOW + 1), "not on sale"),
        (terms(available_from=NOW), None),
    ],
)
def test_what_is_not_on_sale_is_not_sold(store: Store, product: Terms, why: str | None) -> None:
    """Inactive, or before its time: 409 at its line, and nothing is reserved."""
    store.terms = {"disc": product}
    [outcome] = store.run(wish(("vinyl", 1), ("disc", 1)))
    if why is None:
        assert level(store) == (5, 1)
        return
    assert isinstance(outcome, errors.NotOnSale)
    assert outcome.errors == [{"pointer": "#/items/1", "sku": "disc", "detail": why}]
    assert level(store) == (5, 0)


def test_a_product_has_a_most_an_order(store: Store) -> None:
    """Lines of one SKU count together; 422 at the line that is too much."""
    desk = store.desk([])
    desk.terms = {"disc": terms(max_per_order=3)}
    fits = [("disc", 1), ("vinyl", 9)]
    moves.check_terms(desk, purchase(*fits, ("disc", 2)).items)
    with pytest.raises(errors.Invalid) as refused:
        moves.check_terms(desk, purchase(*fits, ("disc", 3)).items)
    assert [one["pointer"] for one in refused.value.errors] == ["#/items/2"]
