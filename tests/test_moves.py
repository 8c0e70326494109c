"""The life of a message, move by move, decided without a database."""

import json
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

import errors
import moves
from ids import Ids
from models import FINISHED, MOVES, Status
from moves import Message
from tests.life import DAY, NOW, PICTURE, Store, Walk, facts, purchase

NOBODY = "01a1ff43-dd00-7b3e-8f21-4c5d6e7f8091"
Rows = dict[str, Any]


@pytest.fixture
def store() -> Store:
    """Three queues: `a` gives up early, `b` and `c` have the defaults."""
    found = Store()
    found.add(1, "a", max_attempts=2, max_lost_leases=2, backoff_seconds=4)
    found.add(2, "b")
    found.add(3, "c")
    return found


def post(store: Store, queue: str = "a", key: str | None = None, **wish: Any) -> str:
    posted = store.one(moves.Enqueue(queue, purchase(**wish), "shop", key))
    return posted.shape["id"]


def claim(store: Store, queue: str = "a", most: int = 1, lease: int | None = None) -> list[Rows]:
    return store.one(moves.Claim(queue, most, lease, "w1", "worker"))


def leased(store: Store, queue: str = "a", **wish: Any) -> Rows:
    """A message that somebody works on, as he got it."""
    message = post(store, queue, **wish)
    found = claim(store, queue)[0]
    assert found["id"] == message
    return found


def expiring(store: Store, seconds: int, queue: str = "a") -> str:
    """A pending message that waits no longer than some seconds."""
    wish = purchase().model_copy(update={"expires_at": store.now + seconds * 1000})
    return store.one(moves.Enqueue(queue, wish, "shop")).shape["id"]


def reaped(store: Store, queue: str = "a", **wish: Any) -> Rows:
    """A message whose lease ran out and that was put back."""
    found = leased(store, queue, **wish)
    store.now += 31_000
    assert store.one(moves.Reap([found["id"]])) == 1
    return found


def in_status(store: Store, status: str) -> Rows:
    """A message in queue `a` that got into a status in the usual way, and its last receipt."""
    if status == "expired":
        message = expiring(store, 1)
        store.now += 1_000
        store.one(moves.Expire([message]))
        return {"id": message, "receipt": "none"}
    found = leased(store)
    if status == "pending":
        store.one(release(found))
    elif status == "cancelled":
        store.one(moves.Cancel(found["id"], "shop"))
        store.one(release(found))
    elif status != "processing":
        store.one(ack(found) if status == "completed" else nack(found, retry=False))
    assert store.rows[found["id"]].status == status
    return found


def ack(found: Rows, **more: Any) -> moves.Ack:
    return moves.Ack(found["id"], found["receipt"], "worker", **more)


def nack(found: Rows, draw: float = 0.5, **more: Any) -> moves.Nack:
    command = moves.Nack(found["id"], found["receipt"], "worker", error="broken", **more)
    command.draw = lambda: draw
    return command


def release(found: Rows) -> moves.Release:
    return moves.Release(found["id"], found["receipt"], "worker")


def extend(found: Rows, seconds: int = 60) -> moves.Extend:
    return moves.Extend(found["id"], found["receipt"], "worker", lease_seconds=seconds)


def row(store: Store, found: Rows | str) -> Message:
    return store.rows[found if isinstance(found, str) else found["id"]]


def last(store: Store) -> tuple[str, str | None]:
    """Type and reason of the last event."""
    return store.log[-1].type, json.loads(store.log[-1].data)["reason"]


def detail(store: Store) -> dict[str, Any]:
    return json.loads(store.log[-1].detail or "{}")


# --- the picture ----------------------------------------------------------------------


def test_the_legal_moves_are_the_ones_of_the_picture() -> None:
    """What the code calls legal is exactly what the drawing of a message's life shows."""
    drawn = {move for pairs in PICTURE.values() for move in pairs}
    assert {(None if a is None else a.value, b.value) for a, b in MOVES} == drawn


@pytest.mark.parametrize("to", list(Status))
@pytest.mark.parametrize("status", list(Status))
def test_an_illegal_move_cannot_be_made(store: Store, status: Status, to: Status) -> None:
    """A mistake in the code ends in an assertion, never in a row."""
    found = in_status(store, status.value)
    desk = store.desk([moves.Reap([found["id"]])])
    if (status, to) in MOVES:
        moves.move(desk, desk.rows[found["id"]], to, "order.test", moves.Cause())
        return
    with pytest.raises(AssertionError):
        moves.move(desk, desk.rows[found["id"]], to, "order.test", moves.Cause())


SETTLING: dict[str, Callable[[Rows], moves.Command]] = {
    "ack": ack,
    "forward": lambda found: ack(found, forward_to="b"),
    "nack": nack,
    "nack for good": lambda found: nack(found, retry=False),
    "release": release,
    "extend": extend,
}


@pytest.mark.parametrize("verb", SETTLING)
@pytest.mark.parametrize("status", ["pending", "completed", "failed", "cancelled", "expired"])
def test_a_used_receipt_settles_nothing(store: Store, status: str, verb: str) -> None:
    """P2: whatever became of a message, a receipt that is over changes nothing by another verb."""
    found = in_status(store, status)
    before, events = row(store, found), len(store.log)
    found = {**found, "receipt": "another"}
    with pytest.raises(errors.LeaseLost) as told:
        store.one(SETTLING[verb](found))
    assert told.value.data == {"current": status}
    assert (row(store, found), len(store.log)) == (before, events)


@pytest.mark.parametrize("status", ["pending", "processing", "completed"])
def test_only_what_ended_badly_is_retried(store: Store, status: str) -> None:
    """Retry is for failed, cancelled and expired messages."""
    found = in_status(store, status)
    with pytest.raises(errors.IllegalTransition) as told:
        store.one(moves.Retry(found["id"], "admin"))
    assert told.value.data == {"current": status}


@pytest.mark.parametrize("status", ["completed", "failed", "expired"])
def test_what_is_over_is_not_cancelled(store: Store, status: str) -> None:
    """A finished message cannot be taken back."""
    found = in_status(store, status)
    with pytest.raises(errors.IllegalTransition):
        store.one(moves.Cancel(found["id"], "shop"))


@pytest.mark.parametrize("status", [status.value for status in Status])
@pytest.mark.parametrize("kind", ["reap", "expire", "purge", "redrive"])
def test_a_sweep_looks_again_at_each_row(store: Store, kind: str, status: str) -> None:
    """A row that changed since it was found is left alone."""
    found = in_status(store, status)
    sweep = {
        "reap": moves.Reap([found["id"]]),
        "expire": moves.Expire([found["id"]]),
        "purge": moves.Purge([found["id"]], "admin", queue_id=1),
        "redrive": moves.Redrive([found["id"]], "admin", queue_id=1),
    }[kind]
    meant = {"purge": "pending", "redrive": "failed"}
    moved = int(meant.get(kind) == status)
    assert store.one(sweep) == ((moved, 0) if kind == "redrive" else moved)
    store.check()


@pytest.mark.parametrize("command", [ack, nack, release, extend])
def test_what_is_not_there_is_not_found(store: Store, command: Any) -> None:
    """An unknown id is 404, whatever the receipt."""
    with pytest.raises(errors.NotFound):
        store.one(command({"id": NOBODY, "receipt": "x"}))


# --- enqueue --------------------------------------------------------------------------


def test_a_post_is_pending_and_counted(store: Store) -> None:
    """A purchase enters its queue with one event, one count, all its fields."""
    found = row(store, post(store, reference="1042", priority=7, group="g", metadata={"a": [1]}))
    assert (found.status, found.version, found.queue_id) == (Status.PENDING, 1, 1)
    assert (found.reference, found.priority, found.group) == ("1042", 7, "g")
    assert (found.available_at, found.entered_at, found.created_at) == (NOW, NOW, NOW)
    assert (found.total_cents, found.metadata) == (1980, '{"a":[1]}')
    assert last(store) == ("order.created", None)
    assert json.loads(store.log[-1].data)["items"] == json.loads(found.items)
    store.check()


def test_a_delayed_post_waits_and_wakes_nobody(store: Store) -> None:
    """`delay_seconds` keeps a message from claims until then."""
    message = post(store, delay_seconds=10)
    assert store.log[-1].wakes is None
    assert claim(store) == []
    store.now += 9_999
    assert claim(store) == []
    store.now += 1
    assert [one["id"] for one in claim(store)] == [message]


def test_a_post_into_no_queue(store: Store) -> None:
    """An unknown queue is 404, and the desk says that its registry may be old."""
    desk = store.desk([])
    outcome = moves.run(desk, moves.Enqueue("nowhere", purchase(), "shop"))
    assert isinstance(outcome, errors.NotFound)
    assert desk.queue_missed


@pytest.mark.parametrize("seconds", [-1, 0])
def test_a_post_that_is_over_already(store: Store, seconds: int) -> None:
    """`expires_at` lies in the future, by the database's clock."""
    with pytest.raises(errors.Invalid) as told:
        expiring(store, seconds)
    assert told.value.errors[0]["pointer"] == "#/expires_at"
    assert store.rows == {}


def test_a_refused_post_keeps_its_key_free(store: Store) -> None:
    """Only a success is kept: after a refusal the same key may make something else."""
    late = purchase().model_copy(update={"expires_at": NOW})
    refused, made, again = store.run(
        moves.Enqueue("a", late, "shop", "k"),
        moves.Enqueue("a", purchase(), "shop", "k"),
        moves.Enqueue("a", purchase(), "shop", "k"),
    )
    assert isinstance(refused, errors.Invalid)
    assert not made.replayed
    assert again == moves.Posted(made.shape, replayed=True)
    assert len(store.rows) == 1


@pytest.mark.parametrize("together", [True, False])
def test_a_key_makes_one_message(store: Store, together: bool) -> None:
    """P2: the same key again, in the same batch or later, answers as the first time."""
    commands = [moves.Enqueue("a", purchase(metadata={"n": 1.5}), "shop", "k") for _ in range(3)]
    found = store.run(*commands) if together else [store.one(command) for command in commands]
    assert [one.replayed for one in found] == [False, True, True]
    assert found[0].shape == found[1].shape == found[2].shape
    assert len(store.rows) == 1


@pytest.mark.parametrize("together", [True, False])
def test_a_key_with_another_purchase(store: Store, together: bool) -> None:
    """A key that came with another purchase is refused."""
    first = moves.Enqueue("a", purchase(), "shop", "k")
    second = moves.Enqueue("a", purchase(customer="c-8"), "shop", "k")
    outcomes = store.run(first, second) if together else [*store.run(first), *store.run(second)]
    assert isinstance(outcomes[1], errors.IdempotencyKeyReused)
    assert len(store.rows) == 1


@pytest.mark.parametrize("other", [("a", "other shop"), ("b", "shop")])
def test_a_key_belongs_to_account_and_queue(store: Store, other: tuple[str, str]) -> None:
    """Another account's key, or one of another queue, is another key."""
    queue, account = other
    store.one(moves.Enqueue("a", purchase(), "shop", "k"))
    assert not store.one(moves.Enqueue(queue, purchase(), account, "k")).replayed


def test_a_replay_is_the_first_answer_for_ever(store: Store) -> None:
    """After delay, claim, nack, forward and ack the first answer is still the same bytes."""
    wish = purchase(delay_seconds=3, reference="r").model_copy(
        update={"expires_at": NOW + 3_600_000}
    )
    first = store.one(moves.Enqueue("a", wish, "shop", "k"))
    store.now += 4_000
    store.one(nack(claim(store)[0], delay_seconds=0))
    store.one(ack(claim(store)[0], forward_to="b"))
    store.one(nack(claim(store, "b")[0], delay_seconds=0))
    found = claim(store, "b")[0]
    store.one(moves.Cancel(found["id"], "shop"))
    store.one(ack(found, result={"ok": True}))
    again = store.one(moves.Enqueue("a", wish, "shop", "k"))
    assert again.replayed
    assert moves.to_json(again.shape) == moves.to_json(first.shape)


def test_a_replay_after_a_retry(store: Store) -> None:
    """Also when the retry cleared what had run out."""
    wish = purchase().model_copy(update={"expires_at": NOW + 1_000})
    first = store.one(moves.Enqueue("a", wish, "shop", "k"))
    store.now += 2_000
    store.one(moves.Expire([first.shape["id"]]))
    store.one(moves.Retry(first.shape["id"], "admin"))
    again = store.one(moves.Enqueue("a", wish, "shop", "k"))
    assert moves.to_json(again.shape) == moves.to_json(first.shape)


def test_a_replay_after_its_time(store: Store) -> None:
    """A repetition is answered also when the purchase would be too late today."""
    wish = purchase().model_copy(update={"expires_at": NOW + 1_000})
    store.one(moves.Enqueue("a", wish, "shop", "k"))
    store.now += 2_000
    assert store.one(moves.Enqueue("a", wish, "shop", "k")).replayed


# --- claim ----------------------------------------------------------------------------


def test_a_claim_leases_in_order(store: Store) -> None:
    """Higher priority first, then what is due longer, then what came first."""
    late = post(store, priority=3, delay_seconds=1)
    low = post(store, priority=0)
    early = post(store, priority=3)
    same = post(store, priority=3)
    store.now += 1_000
    assert [one["id"] for one in claim(store, most=10)] == [early, same, late, low]


def test_a_claim_gives_a_fresh_receipt_and_a_higher_number(store: Store) -> None:
    """`lease_epoch` rises with every claim, and no receipt comes twice."""
    found = leased(store)
    for epoch in range(1, 5):
        assert found["lease_epoch"] == row(store, found).lease_epoch == epoch
        store.one(release(found))
        following = claim(store)[0]
        assert following["receipt"] != found["receipt"]
        found = following


@pytest.mark.parametrize("asked, seconds", [(None, 30), (1, 1), (43_200, 43_200)])
def test_how_long_a_lease_is(store: Store, asked: int | None, seconds: int) -> None:
    """The claim's own lease, else the queue's."""
    post(store)
    found = claim(store, lease=asked)[0]
    assert row(store, found).lease_expires_at == NOW + seconds * 1000


def test_a_paused_queue_hands_out_nothing(store: Store) -> None:
    """Claims of a paused queue answer with nothing; what is leased is settled as ever."""
    found = leased(store)
    post(store)
    store.change(1, paused=True)
    assert claim(store) == []
    desk = store.desk([])
    desk.candidates[1] = sorted(store.rows)  # as if the pause came after the probe
    assert moves.run(desk, moves.Claim("a", 1, None, "w1", "worker")) == []
    assert store.one(ack(found))["status"] == "completed"


def test_a_caller_who_has_gone_gets_nothing(store: Store) -> None:
    """What nobody waits for any more is not leased."""
    message = post(store)
    assert store.one(moves.Claim("a", 1, None, "w1", "worker", lambda: True)) == []
    assert row(store, message).status is Status.PENDING


def test_an_expired_message_is_never_handed_out(store: Store) -> None:
    """Not even when the sweep has not come by yet, or a probe saw it a moment earlier."""
    message = expiring(store, 1)
    store.now += 1_000
    command = moves.Claim("a", 1, None, "w1", "worker")
    desk = store.desk([moves.Expire([message])])
    desk.candidates[1] = [message]
    assert moves.run(desk, command) == []


@pytest.mark.parametrize("change", ["delayed", "cancelled", "claimed", "elsewhere"])
def test_a_claim_sees_what_the_batch_decided_before(store: Store, change: str) -> None:
    """A candidate of the probe that an earlier command took away is not leased."""
    found = reaped(store, "a")
    claiming = moves.Claim("a", 1, None, "w2", "worker")
    first = {
        "delayed": nack(found, delay_seconds=5),
        "cancelled": moves.Cancel(found["id"], "shop"),
        "claimed": moves.Claim("a", 1, None, "w3", "worker"),
        "elsewhere": ack(found, forward_to="b"),
    }[change]
    outcome, taken = store.run(first, claiming)
    assert not isinstance(outcome, errors.Problem)
    assert taken == []
    store.check()


def test_two_claims_in_one_batch_share(store: Store) -> None:
    """P2: one live lease per message, also among claims of the same moment."""
    wanted = {post(store) for _ in range(5)}
    claims = [moves.Claim("a", 3, None, f"w{n}", "worker") for n in range(3)]
    taken = [[one["id"] for one in outcome] for outcome in store.run(*claims)]
    assert [len(one) for one in taken] == [3, 2, 0]
    assert {one for some in taken for one in some} == wanted


# --- ack, forward ---------------------------------------------------------------------


def test_an_ack_completes(store: Store) -> None:
    """processing → completed, with the result in staff's history only."""
    found = leased(store)
    answer = store.one(ack(found, result={"n": 1}))
    assert answer == {"id": found["id"], "queue": "a", "status": "completed", "version": 3}
    assert last(store) == ("order.completed", None)
    assert detail(store)["result"] == {"n": 1}
    assert "result" not in json.loads(store.log[-1].data)
    assert row(store, found).finished_at == store.now


def test_a_plain_ack_wins_over_a_wish_to_cancel(store: Store) -> None:
    """Who is done first is done."""
    found = leased(store)
    store.one(moves.Cancel(found["id"], "shop"))
    assert store.one(ack(found))["status"] == "completed"
    assert row(store, found).cancel_requested_at is None


def test_a_forward_starts_over_in_the_next_queue(store: Store) -> None:
    """One id, one history; attempts, lost leases and the place in the line begin anew."""
    found = leased(store, priority=2)
    store.one(nack(found, delay_seconds=0))
    store.now += 500
    answer = store.one(ack(claim(store)[0], forward_to="b"))
    assert (answer["queue"], answer["status"]) == ("b", "pending")
    there = row(store, found)
    assert (there.queue_id, there.attempts, there.lost_leases) == (2, 0, 0)
    assert (there.available_at, there.entered_at, there.created_at) == (NOW + 500, NOW + 500, NOW)
    assert (store.log[-1].from_queue, store.log[-1].queue) == ("a", "b")
    assert store.log[-1].wakes == "b"
    store.check()


@pytest.mark.parametrize("target", ["nowhere", "a"])
def test_a_forward_to_nowhere(store: Store, target: str) -> None:
    """An unknown queue and the same one are refused; the lease stays."""
    found = leased(store)
    with pytest.raises(errors.Invalid) as told:
        store.one(ack(found, forward_to=target))
    assert told.value.errors[0]["pointer"] == "#/forward_to"
    assert store.one(ack(found))["status"] == "completed"


def test_a_forward_to_a_deleted_queue(store: Store) -> None:
    """What was deleted takes nothing in."""
    store.change(2, deleted=True)
    with pytest.raises(errors.Invalid):
        store.one(ack(leased(store), forward_to="b"))


def test_a_forward_to_a_paused_queue(store: Store) -> None:
    """A pause stops claims and nothing else."""
    store.change(2, paused=True)
    assert store.one(ack(leased(store), forward_to="b"))["queue"] == "b"


def test_a_forward_of_what_shall_be_cancelled(store: Store) -> None:
    """A wish to cancel ends the journey; the message stays where it was."""
    found = leased(store)
    store.one(moves.Cancel(found["id"], "shop"))
    answer = store.one(ack(found, forward_to="b"))
    assert (answer["status"], answer["queue"]) == ("cancelled", "a")
    store.check()


# --- nack -----------------------------------------------------------------------------


@given(
    seconds=st.integers(0, 900),
    attempts=st.integers(1, 100),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_a_backoff_has_bounds(seconds: int, attempts: int, draw: float) -> None:
    """Doubling with full jitter: from nothing to the ceiling, and never above 900 s."""
    queue = facts(1, "a", backoff_seconds=seconds)
    wait = moves.backoff_ms(queue, attempts, lambda: draw)
    assert 0 <= wait <= min(seconds * 2 ** (attempts - 1), 900) * 1000
    assert wait == int(draw * min(seconds * 2 ** (attempts - 1), 900) * 1000)


def test_a_nack_puts_back_after_a_backoff(store: Store) -> None:
    """processing → pending, later; the error is in staff's history only."""
    found = leased(store)
    answer = store.one(nack(found, draw=0.5))
    there = row(store, found)
    assert (answer["status"], there.attempts, there.available_at) == ("pending", 1, NOW + 2_000)
    assert last(store) == ("order.requeued", "nack")
    assert detail(store)["error"] == "broken"
    assert "broken" not in store.log[-1].data
    assert store.log[-1].wakes is None


@pytest.mark.parametrize("delay", [0, 7])
def test_a_nack_that_says_when(store: Store, delay: int) -> None:
    """`delay_seconds` stands for the backoff."""
    found = leased(store)
    store.one(nack(found, delay_seconds=delay))
    assert row(store, found).available_at == NOW + delay * 1000


def test_the_last_attempt_fails(store: Store) -> None:
    """Nack number `max_attempts` makes a dead letter."""
    found = leased(store)
    assert store.one(nack(found, delay_seconds=0))["status"] == "pending"
    assert store.one(nack(claim(store)[0], delay_seconds=0))["status"] == "failed"
    assert last(store) == ("order.failed", None)
    assert (row(store, found).attempts, row(store, found).last_error) == (2, "broken")


def test_a_nack_without_retry_fails_at_once(store: Store) -> None:
    """A worker may say that there is no point."""
    assert store.one(nack(leased(store, "b"), retry=False))["status"] == "failed"


@pytest.mark.parametrize("retry", [True, False])
def test_a_nack_of_what_shall_be_cancelled(store: Store, retry: bool) -> None:
    """A wish to cancel is heard on the way back, also on the way to the dead letters."""
    found = leased(store)
    store.one(moves.Cancel(found["id"], "shop"))
    assert store.one(nack(found, retry=retry))["status"] == "cancelled"


# --- release, extend ------------------------------------------------------------------


def test_a_release_is_not_counted(store: Store) -> None:
    """processing → pending, at once, with nothing held against it."""
    found = leased(store)
    store.now += 5
    assert store.one(release(found))["status"] == "pending"
    there = row(store, found)
    assert (there.attempts, there.lost_leases, there.available_at) == (0, 0, NOW + 5)
    assert last(store) == ("order.requeued", "released")


def test_a_release_of_what_shall_be_cancelled(store: Store) -> None:
    """A wish to cancel is heard on the way back."""
    found = leased(store)
    store.one(moves.Cancel(found["id"], "shop"))
    assert store.one(release(found))["status"] == "cancelled"


def test_an_extend_moves_the_end_and_tells_of_a_cancel(store: Store) -> None:
    """Counted from now; no event; the worker learns there that he should stop."""
    found = leased(store)
    events = len(store.log)
    store.now += 1_000
    assert store.one(extend(found, 60))["cancel_requested"] is False
    assert row(store, found).lease_expires_at == NOW + 61_000
    assert len(store.log) == events
    store.one(moves.Cancel(found["id"], "shop"))
    assert store.one(extend(found, 1))["cancel_requested"] is True


@pytest.mark.parametrize("command", [release, extend])
def test_release_and_extend_need_a_lease_that_lives(store: Store, command: Any) -> None:
    """From the very millisecond on that it ran out they are refused."""
    found = leased(store)
    store.now += 30_000
    with pytest.raises(errors.LeaseLost):
        store.one(command(found))
    store.now -= 1
    store.one(command(found))


# --- late: after the lease ran out ----------------------------------------------------


@pytest.mark.parametrize("back", [False, True], ids=["before the reaper", "after the reaper"])
@pytest.mark.parametrize(
    "verb, status",
    [
        ("ack", "completed"),
        ("forward", "pending"),
        ("nack", "pending"),
        ("nack for good", "failed"),
    ],
)
def test_a_late_worker_is_still_heard(store: Store, verb: str, status: str, back: bool) -> None:
    """Until somebody else claims it, work that took too long still counts."""
    found = reaped(store, "c") if back else leased(store, "c")
    store.now += 60_000
    assert store.one(SETTLING[verb](found))["status"] == status
    assert row(store, found).receipt is None
    store.check()


@pytest.mark.parametrize("verb", SETTLING)
def test_a_late_worker_after_the_next_claim(store: Store, verb: str) -> None:
    """P2: from the next claim on the old receipt changes nothing, and the new one works."""
    found = reaped(store, "c")
    following = claim(store, "c")[0]
    with pytest.raises(errors.LeaseLost):
        store.one(SETTLING[verb](found))
    assert store.one(ack(following))["status"] == "completed"


@pytest.mark.parametrize("verb", SETTLING)
@pytest.mark.parametrize("end", ["cancel", "expire", "purge"])
def test_a_late_worker_after_the_end(store: Store, end: str, verb: str) -> None:
    """A message that ended meanwhile stays as it ended."""
    found = leased(store, "c")
    store.rows[found["id"]].expires_at = store.now + 31_500
    store.now += 31_000
    store.one(moves.Reap([found["id"]]))
    store.now += 1_000
    ending: dict[str, moves.Command] = {
        "cancel": moves.Cancel(found["id"], "shop"),
        "expire": moves.Expire([found["id"]]),
        "purge": moves.Purge([found["id"]], queue_id=3),
    }
    store.one(ending[end])
    with pytest.raises(errors.LeaseLost):
        store.one(SETTLING[verb](found))


def test_a_lost_lease_counts_and_keeps_the_receipt(store: Store) -> None:
    """The reaper puts back at once; the worker is not shown any more."""
    found = reaped(store)
    there = row(store, found)
    assert (there.lost_leases, there.attempts, there.available_at) == (1, 0, store.now)
    assert there.receipt == found["receipt"]
    assert last(store) == ("order.requeued", "lease_expired")
    assert moves.message_shape(there, "a")["worker"] is None


def test_the_last_lost_lease_fails(store: Store) -> None:
    """Lost lease number `max_lost_leases` makes a dead letter, and late work is over then."""
    reaped(store)
    found = claim(store)[0]
    store.now += 31_000
    store.one(moves.Reap([found["id"]]))
    assert row(store, found).status is Status.FAILED
    with pytest.raises(errors.LeaseLost):
        store.one(ack(found))


def test_a_lost_lease_of_what_shall_be_cancelled(store: Store) -> None:
    """A worker who is gone cannot hold a cancel up."""
    found = leased(store)
    store.one(moves.Cancel(found["id"], "shop"))
    store.now += 31_000
    assert store.one(moves.Reap([found["id"]])) == 1
    assert row(store, found).status is Status.CANCELLED


def test_a_lease_that_lives_is_not_reaped(store: Store) -> None:
    """Up to its last millisecond a lease is its worker's."""
    found = leased(store)
    store.now += 29_999
    assert store.one(moves.Reap([found["id"]])) == 0


# --- receipts and their replay --------------------------------------------------------


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("verb", ["ack", "forward", "nack", "nack for good", "release"])
def test_the_same_call_again_gets_the_first_answer(store: Store, verb: str, together: bool) -> None:
    """A worker whose line broke repeats himself, and nothing happens a second time."""
    found = leased(store)
    once, twice = SETTLING[verb](found), SETTLING[verb](found)
    answers = store.run(once, twice) if together else [store.one(once), store.one(twice)]
    assert answers[0] == answers[1]
    events = len(store.log)
    store.now += 100_000
    assert store.one(SETTLING[verb](found)) == answers[0]
    assert len(store.log) == events


@pytest.mark.parametrize("verb", ["forward", "nack", "release"])
def test_a_repetition_after_others_went_on(store: Store, verb: str) -> None:
    """Also when others have claimed and finished it since."""
    found = leased(store, "c")
    first = store.one(SETTLING[verb](found))
    store.now += 1_000_000
    store.one(ack(claim(store, first["queue"])[0]))
    assert store.one(SETTLING[verb](found)) == first


@pytest.mark.parametrize("verb", SETTLING)
def test_another_call_with_a_used_receipt(store: Store, verb: str) -> None:
    """A receipt that ended by a release ends by nothing else."""
    found = leased(store)
    store.one(release(found))
    if verb == "release":
        return
    with pytest.raises(errors.LeaseLost):
        store.one(SETTLING[verb](found))


def test_a_result_cannot_pass_for_a_receipt(store: Store) -> None:
    """What a worker writes into his result is no proof of anything."""
    found = leased(store)
    mark = moves.receipt_mark("guessed")
    store.one(ack(found, result={"receipt": mark, "verb": "nack"}))
    with pytest.raises(errors.LeaseLost):
        store.one(nack({**found, "receipt": "guessed"}))


@pytest.mark.parametrize("text", ["é", "\u2028", "x" * 128, "🧾"])
def test_a_strange_receipt_is_only_wrong(store: Store, text: str) -> None:
    """Any text is a try: it is refused and harms nobody else in its batch."""
    found, other = leased(store), leased(store)
    wrong, right = store.run(ack({**found, "receipt": text}), ack(other))
    assert isinstance(wrong, errors.LeaseLost)
    assert right["status"] == "completed"


def test_the_log_keeps_no_receipt(store: Store) -> None:
    """Who reads the log cannot use what he finds there."""
    found = leased(store)
    store.one(ack(found))
    written = "".join(event.data + (event.detail or "") for event in store.log)
    assert found["receipt"] not in written
    assert moves.receipt_mark(found["receipt"]) in written


# --- cancel, retry, expire ------------------------------------------------------------


def test_a_cancel_of_what_waits(store: Store) -> None:
    """pending → cancelled; the reason is staff's."""
    message = post(store)
    shape, done = store.one(moves.Cancel(message, "shop", reason="changed my mind"))
    assert (shape["status"], done) == ("cancelled", True)
    assert detail(store) == {"actor": "shop", "error": "changed my mind"}


def test_a_cancel_of_what_is_worked_on(store: Store) -> None:
    """It is only asked for, once, with an event of its own."""
    found = leased(store)
    shape, done = store.one(moves.Cancel(found["id"], "shop"))
    assert (shape["status"], shape["cancel_requested"], done) == ("processing", True, False)
    assert last(store) == ("order.cancel_requested", None)
    events = len(store.log)
    _, done = store.one(moves.Cancel(found["id"], "shop"))
    assert (done, len(store.log)) == (False, events)


def test_a_cancel_again(store: Store) -> None:
    """What is cancelled already is cancelled, without a second event."""
    found = in_status(store, "cancelled")
    events = len(store.log)
    _, done = store.one(moves.Cancel(found["id"], "shop"))
    assert (done, len(store.log)) == (True, events)


@pytest.mark.parametrize("command", [moves.Cancel, moves.Retry])
def test_a_version_that_moved(store: Store, command: Any) -> None:
    """`If-Match` is compared under the row's lock."""
    found = in_status(store, "cancelled")
    with pytest.raises(errors.VersionMismatch):
        store.one(command(found["id"], "shop", row(store, found).version - 1))
    store.one(command(found["id"], "shop", row(store, found).version))


def test_another_customers_order_is_not_there(store: Store) -> None:
    """P10: not a word about what is not his, the version included."""
    message = post(store, customer="c-7")
    for match in (None, 1, 99):
        with pytest.raises(errors.NotFound):
            store.one(moves.Cancel(message, "ana", match, customer="c-8"))


@pytest.mark.parametrize("status", ["failed", "cancelled", "expired"])
def test_a_retry_starts_over(store: Store, status: str) -> None:
    """Back to pending, now, with nothing held against it."""
    found = in_status(store, status)
    store.now += 5_000
    shape = store.one(moves.Retry(found["id"], "admin"))
    there = row(store, found)
    assert (shape["status"], shape["expires_at"]) == ("pending", None)
    assert (there.attempts, there.lost_leases, there.finished_at) == (0, 0, None)
    assert (there.available_at, there.entered_at) == (store.now, store.now)
    assert last(store) == ("order.requeued", "retried")
    assert claim(store)[0]["id"] == found["id"]


def test_a_retry_keeps_an_expiry_that_is_ahead(store: Store) -> None:
    """Only an `expires_at` that is past is cleared."""
    message = expiring(store, 60)
    store.one(moves.Cancel(message, "shop"))
    store.one(moves.Retry(message, "admin"))
    assert row(store, message).expires_at == NOW + 60_000


@pytest.mark.parametrize(
    "verb, status",
    [
        ("nack", "expired"),
        ("release", "expired"),
        ("nack for good", "failed"),
        ("ack", "completed"),
    ],
)
def test_expiry_on_the_way_back(store: Store, verb: str, status: str) -> None:
    """`expires_at` counts while pending: who would go back to pending past it expires."""
    message = expiring(store, 10)
    found = claim(store)[0]
    assert found["id"] == message
    store.now += 10_000
    assert store.one(SETTLING[verb](found))["status"] == status
    assert last(store) == (f"order.{status}", None)


def test_a_lost_lease_past_the_expiry(store: Store) -> None:
    """A lease that runs out past `expires_at` ends in expired."""
    expiring(store, 10)
    found = claim(store)[0]
    store.now += 31_000
    store.one(moves.Reap([found["id"]]))
    assert row(store, found).status is Status.EXPIRED


def test_a_late_nack_past_the_expiry(store: Store) -> None:
    """Reaped in time, nacked too late: expired."""
    expiring(store, 40)
    found = claim(store)[0]
    store.now += 31_000
    store.one(moves.Reap([found["id"]]))
    store.now += 9_000
    assert store.one(nack(found))["status"] == "expired"


# --- deleted queues -------------------------------------------------------------------


@pytest.mark.parametrize(
    "verb, status",
    [
        ("ack", "completed"),
        ("forward", "pending"),
        ("nack", "cancelled"),
        ("nack for good", "failed"),
        ("release", "cancelled"),
    ],
)
def test_what_a_deleted_queue_had_in_work(store: Store, verb: str, status: str) -> None:
    """It may still be finished or sent on; back to pending it cannot go."""
    found = leased(store)
    store.change(1, deleted=True)
    assert store.one(SETTLING[verb](found))["status"] == status
    store.check()


def test_a_lost_lease_in_a_deleted_queue(store: Store) -> None:
    """It is cancelled where it would go back to pending."""
    found = leased(store)
    store.change(1, deleted=True)
    store.now += 31_000
    store.one(moves.Reap([found["id"]]))
    assert row(store, found).status is Status.CANCELLED


@pytest.mark.parametrize("command", [moves.Retry, moves.Redrive])
def test_no_way_back_into_a_deleted_queue(store: Store, command: Any) -> None:
    """Retry is refused, redrive leaves it."""
    found = in_status(store, "failed")
    store.change(1, deleted=True)
    if command is moves.Redrive:
        assert store.one(moves.Redrive([found["id"]], "admin", queue_id=1)) == (0, 0)
        return
    with pytest.raises(errors.IllegalTransition):
        store.one(moves.Retry(found["id"], "admin"))


def test_a_new_queue_of_an_old_name_starts_empty(store: Store) -> None:
    """The messages of a deleted queue are not the new one's; its keys neither."""
    old = post(store, key="k")
    store.change(1, deleted=True)
    store.add(4, "a")
    assert claim(store) == []
    assert post(store, key="k") != old


# --- many at once ---------------------------------------------------------------------


def test_a_purge_takes_its_own_queue_only(store: Store) -> None:
    """pending → cancelled in one queue."""
    mine, other = post(store), post(store, "b")
    assert store.one(moves.Purge([mine, other], "admin", queue_id=1)) == 1
    assert row(store, other).status is Status.PENDING
    assert detail(store) == {"actor": "admin", "error": "purged"}


def test_a_redrive_starts_over(store: Store) -> None:
    """failed → pending, with attempts and lost leases at 0 and a past expiry cleared."""
    found = in_status(store, "failed")
    store.rows[found["id"]].expires_at = store.now - 1
    assert store.one(moves.Redrive([found["id"]], "admin", queue_id=1)) == (1, 0)
    there = row(store, found)
    assert (there.attempts, there.expires_at) == (0, None)
    assert last(store) == ("order.requeued", "redriven")


@pytest.mark.parametrize("days", [1, 30])
def test_pruning_waits_for_the_retention(store: Store, days: int) -> None:
    """A finished message is kept as long as its queue says, then goes with its key."""
    message = post(store, key="k")
    store.one(moves.Cancel(message, "shop"))
    prune = moves.Prune([message], retention_days={1: days})
    store.now += days * DAY - 1
    assert store.one(prune) == 0
    store.now += 1
    assert store.one(prune) == 1
    assert (store.rows, store.keys) == ({}, {})
    store.check_counts()


def test_pruning_leaves_what_the_batch_just_touched(store: Store) -> None:
    """A message cannot be written and removed by the same transaction."""
    found = in_status(store, "failed")
    store.now += 2 * DAY
    commands = moves.Retry(found["id"], "admin"), moves.Cancel(found["id"], "shop")
    store.rows[found["id"]].finished_at = 0
    prune = moves.Prune([found["id"]], retention_days={1: 0})
    assert store.run(*commands, prune)[2] == 0
    assert row(store, found).status is Status.CANCELLED


def test_a_held_row_defers_the_command_and_not_the_sweep(store: Store) -> None:
    """A call waits for a row that another process holds; long work passes by."""
    first, second = post(store), post(store)
    desk = store.desk([moves.Purge([first, second], queue_id=1)], held=[first])
    with pytest.raises(moves.Held):
        moves.run(desk, moves.Cancel(first, "shop"))
    assert moves.run(desk, moves.Purge([first, second], queue_id=1)) == 1


# --- ids and the walk -----------------------------------------------------------------

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def test_ids_are_uuids_of_version_7() -> None:
    """RFC 9562: version, variant and the millisecond stand where they belong."""
    before = time.time_ns() // 1_000_000
    text = Ids().next()
    after = time.time_ns() // 1_000_000
    assert UUID7.fullmatch(text)
    found = uuid.UUID(text)
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert before <= found.int >> 80 <= after


@settings(max_examples=50)
@given(st.lists(st.integers(-5_000, 5_000), min_size=2, max_size=60))
def test_ids_rise_whatever_the_clock_does(steps: list[int]) -> None:
    """Monotonic within a process: also when the clock stands, or is set back."""
    moment = 1_795_284_000_000_000_000
    made: list[str] = []
    ids = Ids()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: moment)
        for step in steps:
            moment += step * 1_000_000
            made += [ids.next() for _ in range(3)]
    assert made == sorted(set(made))
    assert all(UUID7.fullmatch(text) for text in made)


def test_ids_rise_through_a_full_counter() -> None:
    """More ids in a millisecond than the counter holds run ahead of the clock, in order."""
    ids = Ids()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: 1_795_284_000_000_000_000)
        made = [ids.next() for _ in range(10_000)]
    assert made == sorted(set(made))


def test_receipts_fit_and_differ() -> None:
    """A receipt has 144 random bits and fits its column."""
    made = {moves.new_receipt() for _ in range(1_000)}
    assert len(made) == 1_000
    assert {len(text) for text in made} == {24}


def test_finished_is_what_the_picture_ends_in() -> None:
    """The four last statuses are those that only a person leads out of."""
    assert {status.value for status in FINISHED} == {
        "completed",
        "failed",
        "cancelled",
        "expired",
    }


def test_any_order_of_commands() -> None:
    """P2–P5, P8: in any order, alone and in batches, all commands do what the model does."""
    profile = settings(
        max_examples=200,
        stateful_step_count=50,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    run_state_machine_as_test(Walk, settings=profile)
