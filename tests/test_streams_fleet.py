"""Several processes: what one commits the others show, with Redis at once, without it soon."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import Any

import pytest

from tests.house import House, running
from tests.live import head, ticket, watch
from tests.services import Postgres, until
from tests.sse import Stream

AT_ONCE = 0.5  # seconds; a process that is not told finds out after one second at the earliest
SOON = 5.0
MENDED = 3.0


@pytest.fixture(scope="module")
def pair(postgres_server: Postgres) -> Iterator[House]:
    """Two processes on one PostgreSQL, without Redis."""
    name = postgres_server.create()
    with running(2, DATABASE_URL=postgres_server.url(name)) as found:
        yield found
    postgres_server.drop(name)


def fresh_queue(house: House) -> str:
    """A new queue that both processes have heard of: "now" is the same at both."""
    queue = house.queue()

    def level() -> bool:
        with watch(house, f"queue:{queue}", process=1) as stream:
            return stream.first("hello").id == head(house)

    until(level, 5, "both know the queue")
    return queue


@contextmanager
def both(house: House, topic: str) -> Iterator[tuple[Stream, Stream]]:
    """The same topic watched at both processes."""
    with ExitStack() as stack:
        one, two = (stack.enter_context(watch(house, topic, process=process)) for process in (0, 1))
        one.first("hello")
        two.first("hello")
        yield one, two


def numbers(stream: Stream) -> list[int]:
    return [int((block.id or "").partition("-")[2]) for block in stream.facts]


def post_at(house: House, process: int, queue: str) -> str:
    body = {"customer": "c-1", "items": [{"sku": "disc-001", "quantity": 1}]}
    answer = house.client("producer", process).post(f"/queues/{queue}/messages", json=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def claimed_while_waiting(house: House, queue: str, act: Callable[[], Any]) -> float:
    """How long after `act` a claim that waits at process 1 got its message."""
    client, answers = house.client("worker", 1), list[tuple[float, Any]]()

    def wait() -> None:
        answer = client.post(f"/queues/{queue}/claim", json={"wait_seconds": 10})
        answers.append((time.monotonic(), answer.json()["messages"]))

    worker = threading.Thread(target=wait)
    worker.start()
    # Nothing outside shows that a claim waits: a few requests of its own have gone by.
    for _ in range(20):
        house.client("viewer", 1).get(f"/queues/{queue}")
    began = time.monotonic()
    act()
    worker.join(12)
    ((ended, messages),) = answers
    assert len(messages) == 1
    return ended - began


# --- with Redis -----------------------------------------------------------------------


def test_a_start_is_quiet(twins: House) -> None:
    """What Redis says first finds everything in its place: no warning before it serves."""
    for server in twins.servers:
        before, serves, _ = server.log.partition('"serving at')
        assert serves
        assert "WARNING" not in before


def test_what_one_commits_the_other_shows_at_once(twins: House) -> None:
    """A browser may be connected anywhere: the event comes in milliseconds, in order."""
    queue = fresh_queue(twins)
    twins.token("producer")
    times: list[float] = []
    with both(twins, f"queue:{queue}") as (one, two):
        for turn in range(6):
            seen = len(one.facts)
            began = time.monotonic()
            post_at(twins, turn % 2, queue)
            one.events(seen + 1)
            two.events(seen + 1)
            times.append(time.monotonic() - began)
        assert median(times) < AT_ONCE
        assert one.raw.partition(b"event: order")[2] == two.raw.partition(b"event: order")[2]


def test_writers_at_both_make_one_order(twins: House) -> None:
    """Two processes that write at the same time: each reader sees all, in the same order."""
    queue = fresh_queue(twins)
    with both(twins, f"queue:{queue}") as (one, two):
        writers = [
            threading.Thread(target=lambda p=p: [post_at(twins, p, queue) for _ in range(40)])
            for p in (0, 1)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        one.events(80)
        two.events(80)
        assert numbers(one) == numbers(two)
        assert numbers(one) == list(range(numbers(one)[0], numbers(one)[0] + 80))


def test_a_reader_moves_between_processes(twins: House) -> None:
    """A cursor from one process works at the other, also right after the commit."""
    queue = fresh_queue(twins)
    cursor, got = head(twins), list[int]()
    for turn in range(10):
        post_at(twins, turn % 2, queue)
        with watch(twins, f"queue:{queue}", process=(turn + 1) % 2, cursor=cursor) as stream:
            assert stream.first("hello").id == cursor
            cursor = stream.events(1)[-1].id
            got += numbers(stream)
            assert not stream.named("reset")
    assert got == list(range(got[0], got[0] + 10))


def test_a_claim_is_woken_by_a_post_elsewhere(twins: House) -> None:
    """A worker that waits at one process gets at once what is posted at the other."""
    queue = fresh_queue(twins)

    def post() -> None:
        post_at(twins, 0, queue)

    assert median(claimed_while_waiting(twins, queue, post) for _ in range(3)) < AT_ONCE


def test_a_claim_is_woken_by_a_forward_and_a_release(twins: House) -> None:
    """Whatever makes a message claimable wakes those who wait for it."""
    first, second = fresh_queue(twins), fresh_queue(twins)

    def claimed() -> dict[str, Any]:
        post_at(twins, 0, first)
        (message,) = twins.claim(first)
        return message

    def forward_time() -> float:
        message = claimed()
        act = partial(twins.settle, "ack", message, forward_to=second)
        return claimed_while_waiting(twins, second, act)

    def release_time() -> float:
        act = partial(twins.settle, "release", claimed())
        return claimed_while_waiting(twins, first, act)

    assert median(forward_time() for _ in range(3)) < AT_ONCE
    assert median(release_time() for _ in range(3)) < AT_ONCE


def test_a_revocation_reaches_the_other_process(twins: House) -> None:
    """A ticket that is ended at one process ends its streams at the other within seconds."""
    text = ticket(twins, ["queues"])
    with Stream(twins.servers[1].url, ticket=text) as stream:
        stream.first("hello")
        body = {"ticket": text}
        answer = twins.client("producer").post("/events/tickets/revoke", json=body)
        assert answer.status_code == 204
        assert stream.end(MENDED).json == {"reason": "revoked", "reconnect_ms": None}

    def gone() -> bool:
        params = {"ticket": text}
        return twins.client(None, 1).head("/events", params=params).status_code == 401

    until(gone, 2, "the ticket is refused")


def test_a_frozen_process_misses_nothing(twins: House) -> None:
    """A process that stood still for a while reads what it missed; the other does not wait."""
    queue = fresh_queue(twins)
    with both(twins, f"queue:{queue}") as (one, two):
        frozen = twins.servers[1]
        frozen.kill(signal.SIGSTOP)
        try:
            for _ in range(5):
                post_at(twins, 0, queue)
            one.events(5, SOON)
        finally:
            frozen.resume()
        two.events(5, MENDED)
        assert numbers(one) == numbers(two)


# --- without Redis --------------------------------------------------------------------


def test_without_redis_everything_comes_a_second_later(pair: House) -> None:
    """The database alone is enough: each event at both processes, once, in order."""
    queue = fresh_queue(pair)
    with both(pair, f"queue:{queue}") as (one, two):
        began = time.monotonic()
        for turn in range(10):
            post_at(pair, turn % 2, queue)
        one.events(10, SOON)
        two.events(10, SOON)
        assert time.monotonic() - began < SOON
        assert numbers(one) == numbers(two) == list(range(numbers(one)[0], numbers(one)[0] + 10))


def test_without_redis_a_reader_may_move_at_once(pair: House) -> None:
    """A cursor that is ahead of a process is judged by the log, not refused."""
    queue = fresh_queue(pair)
    post_at(pair, 0, queue)
    cursor = head(pair)
    with watch(pair, f"queue:{queue}", process=1, cursor=cursor) as stream:
        assert stream.first("hello").id == cursor
        post_at(pair, 0, queue)
        stream.events(1, SOON)
        assert not stream.named("reset")


def test_without_redis_a_waiting_claim_is_served(pair: House) -> None:
    """A worker that waits at one process gets what is posted at the other within a second."""
    queue = fresh_queue(pair)
    assert claimed_while_waiting(pair, queue, lambda: post_at(pair, 0, queue)) < SOON


def test_without_redis_counts_and_revocations_arrive(pair: House) -> None:
    """What is read once a second needs no Redis either."""
    queue, text = fresh_queue(pair), ticket(pair, ["queues"])
    with Stream(pair.servers[1].url, ticket=text) as stream:
        stream.first("counts")
        for _ in range(3):
            post_at(pair, 0, queue)

        def pending(one: Stream) -> bool:
            found = [q for b in one.named("counts") for q in b.json["queues"]]
            mine = [q["counts"]["pending"] for q in found if q["name"] == queue]
            return mine[-1:] == [3]

        stream.wait(pending, 4, "three pending")
        pair.client("producer").post("/events/tickets/revoke", json={"ticket": text})
        assert stream.end(MENDED).json["reason"] == "revoked"


def test_a_killed_process_leaves_no_hole(pair: House) -> None:
    """`kill -9` of one process: its readers go on at the other, with everything it committed."""
    queue = fresh_queue(pair)
    victim = pair.servers[1]
    with watch(pair, f"queue:{queue}", process=1) as stream:
        cursor = stream.first("hello").id
        posted = [post_at(pair, 1, queue) for _ in range(5)]
        victim.kill()
        stream.end()
        seen = [block.json["subject"] for block in stream.facts]
        cursor = stream.ids[-1] if stream.ids else cursor
    try:
        with watch(pair, f"queue:{queue}", process=0, cursor=cursor) as stream:
            seen += [block.json["subject"] for block in stream.events(5 - len(seen), SOON)]
        assert seen == posted
    finally:
        victim.start()
