"""Attacks on the running service, and what must be true after them.

Two processes on one PostgreSQL and one Redis; the first reaches its database through a
`Proxy`, so that it can be stopped or cut off at an exact statement.
"""

import argparse
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import signal
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests import forks, services
from tests.house import ADMIN_PASSWORD, API, CUSTOMER, DISC, SECRET_KEY, House
from tests.ledger import Ledger
from tests.live import head
from tests.proxy import Place, Proxy, Trap
from tests.services import Postgres, RedisServer, Server, until
from tests.sse import CONTROL

STATE = (
    "SELECT state || ' ' || wait_event FROM pg_stat_activity WHERE xact_start IS NOT NULL"
    " AND application_name = 'filaviva-writer' AND datname = current_database()"
    " AND wait_event_type = 'Client'"
)
STATES = {Place.HALF: "active ClientRead", Place.AFTER: "idle in transaction ClientRead"}
OWN_SECONDS = 2.0  # so long at least whoever is frozen holds what he has; the others end him then
FIRST, SECOND = 0, 1  # processes; the first is behind the proxy
ANSWER_SECONDS = 30.0  # in which a process answers while another is frozen for longer
COMMON = {
    "SECRET_KEY": SECRET_KEY,
    "ADMIN_PASSWORD": ADMIN_PASSWORD,
    "RATE_LIMITS": "off",
    "PUBLIC_URL": "http://filaviva.test",
}
DIFFERING = """
SELECT count(*) FROM queue_counts c, LATERAL (
    SELECT count(*) FILTER (WHERE status = 'pending') AS pending,
        count(*) FILTER (WHERE status = 'processing') AS processing,
        count(*) FILTER (WHERE status = 'completed') AS completed,
        count(*) FILTER (WHERE status = 'failed') AS failed,
        count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
        count(*) FILTER (WHERE status = 'expired') AS expired
    FROM messages m WHERE m.queue_id = c.queue_id) AS n
WHERE (c.pending, c.processing, c.completed, c.failed, c.cancelled, c.expired)
    <> (n.pending, n.processing, n.completed, n.failed, n.cancelled, n.expired)"""


@dataclass
class Pair:
    """Two processes, what is behind them, and a thread for calls that take a while."""

    house: House
    ledger: Ledger
    proxy: Proxy
    redis: RedisServer
    pool: ThreadPoolExecutor

    def process(self, number: int) -> Server:
        return self.house.servers[number]

    def later(self, call: Callable[[], httpx.Response]) -> Future[httpx.Response]:
        return self.pool.submit(call)


@contextmanager
def pair(cluster: Postgres, redis: RedisServer) -> Iterator[Pair]:
    """Two processes on a database of their own."""
    name = cluster.create()
    with ExitStack() as stack:
        stack.callback(cluster.drop, name)
        proxy = stack.enter_context(Proxy(cluster.port))
        direct = {**COMMON, "DATABASE_URL": cluster.url(name), "REDIS_URL": redis.url}
        around = {**direct, "DATABASE_URL": f"postgres://postgres@127.0.0.1:{proxy.port}/{name}"}
        servers = [stack.enter_context(Server(**given)) for given in (around, direct)]
        house = House(servers)
        stack.callback(house.close)
        house.make_accounts()
        open_clients(house)
        pool = stack.enter_context(ThreadPoolExecutor(8))
        yield Pair(house, Ledger.postgres(cluster, name), proxy, redis, pool)


def open_clients(house: House) -> None:
    """Make all clients now: two threads that ask first would each make one."""
    for role in ("admin", "producer", "worker", "viewer"):
        for process in range(len(house.servers)):
            house.client(role, process)


@contextmanager
def own_pair() -> Iterator[Pair]:
    """The same with servers of its own, as the long runs want it."""
    with services.postgres() as cluster, services.redis() as redis, pair(cluster, redis) as found:
        yield found


def arguments(args: list[str], rounds: int) -> tuple[int, random.Random]:
    """`[ROUNDS] [--seed N]` of a long run; the seed is printed, so that it can be had again."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rounds", nargs="?", type=int, default=rounds)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    given = parser.parse_args(args)
    print(f"seed {given.seed}", flush=True)
    return given.rounds, random.Random(given.seed)


def reason(error: Exception) -> str:
    """An error with the line that raised it: a bare `assert` says nothing by itself."""
    [*_, last] = traceback.extract_tb(error.__traceback__)
    return f"{last.line}: {error!r}"


def history(ledger: Ledger, message: str) -> list[str]:
    """The types of a message's events, oldest first."""
    return ledger.sql(f"SELECT type FROM events WHERE message = '{message}' ORDER BY seq")


def newest(ledger: Ledger, queue: str) -> list[str]:
    """Ids of all messages of a queue, oldest first."""
    return ledger.sql(
        "SELECT m.id FROM messages m JOIN queues q ON q.id = m.queue_id"
        f" WHERE q.name = '{queue}' ORDER BY m.id"
    )


def purchase(**more: Any) -> dict[str, Any]:
    return {"customer": CUSTOMER, "items": [DISC], **more}


def post(
    house: House, process: int, queue: str, key: str | None = None, **more: Any
) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    client = house.client("producer", process)
    return client.post(f"/queues/{queue}/messages", json=purchase(**more), headers=headers)


# --- the line is cut around a COMMIT --------------------------------------------------


@dataclass(frozen=True)
class Cut:
    """One verb: what must be there before, the call, and what it must have done, once.

    `before` makes the state and returns what `call` needs; `status` and `types` are the
    answer and the events that the call adds.
    """

    before: Callable[[House, str], dict[str, Any]]
    call: Callable[[httpx.Client, str, dict[str, Any]], httpx.Response]
    status: int
    types: list[str]


def _nothing(house: House, queue: str) -> dict[str, Any]:
    return {}


def _posted(house: House, queue: str) -> dict[str, Any]:
    return house.post(queue)


def _claimed(house: House, queue: str) -> dict[str, Any]:
    house.post(queue)
    return house.claim(queue)[0]


def _failed(house: House, queue: str) -> dict[str, Any]:
    message = _claimed(house, queue)
    assert house.settle("nack", message, error="no", retry=False).status_code == 200
    return message


def _settles(
    verb: str, **body: Any
) -> Callable[[httpx.Client, str, dict[str, Any]], httpx.Response]:
    def call(client: httpx.Client, queue: str, message: dict[str, Any]) -> httpx.Response:
        given = {"receipt": message["receipt"], **body}
        return client.post(f"/messages/{message['id']}/{verb}", json=given)

    return call


def _of_message(verb: str) -> Callable[[httpx.Client, str, dict[str, Any]], httpx.Response]:
    return lambda client, queue, message: client.post(f"/messages/{message['id']}/{verb}")


def _of_queue(
    path: str, **headers: str
) -> Callable[[httpx.Client, str, dict[str, Any]], httpx.Response]:
    def call(client: httpx.Client, queue: str, message: dict[str, Any]) -> httpx.Response:
        body = purchase() if path == "messages" else {}
        return client.post(f"/queues/{queue}/{path}", json=body, headers=headers)

    return call


def _purges(client: httpx.Client, queue: str, message: dict[str, Any]) -> httpx.Response:
    return client.post(f"/queues/{queue}/purge")


CUTS = {
    "enqueue": Cut(_nothing, _of_queue("messages"), 201, ["order.created"]),
    "enqueue with a key": Cut(
        _nothing, _of_queue("messages", **{"Idempotency-Key": "k"}), 201, ["order.created"]
    ),
    "claim": Cut(_posted, _of_queue("claim"), 200, ["order.processing"]),
    "ack": Cut(_claimed, _settles("ack", result={"paid": True}), 200, ["order.completed"]),
    "nack": Cut(_claimed, _settles("nack", error="no"), 200, ["order.requeued"]),
    "release": Cut(_claimed, _settles("release"), 200, ["order.requeued"]),
    "extend": Cut(_claimed, _settles("extend", lease_seconds=7_200), 200, []),
    "forward": Cut(_claimed, _settles("ack", forward_to="orders"), 200, ["order.forwarded"]),
    "cancel": Cut(_posted, _of_message("cancel"), 200, ["order.cancelled"]),
    "retry": Cut(_failed, _of_message("retry"), 200, ["order.requeued"]),
    "redrive": Cut(_failed, _of_queue("redrive"), 200, ["order.requeued"]),
    "purge": Cut(_posted, _purges, 200, ["order.cancelled"]),
}


def cut(found: Pair, verb: str, *, committed: bool) -> None:
    """Cut the first process off around the COMMIT of a call; it must settle that by itself."""
    house, ledger, plan = found.house, found.ledger, CUTS[verb]
    queue = house.queue(lease_seconds=3_600)  # no lease of before runs out during another call
    message = plan.before(house, queue)
    known = history(ledger, message["id"]) if message else []
    head = int(ledger.sql("SELECT head FROM stream")[0])
    place = Place.AFTER if committed else Place.BEFORE
    trap = found.proxy.arm("COMMIT", place, cut=True)
    answer = plan.call(house.client("admin", FIRST), queue, message)
    trap.wait()
    assert answer.status_code == plan.status, answer.text
    told = answer.json()
    changed = message.get("id") or told["id"]
    assert history(ledger, changed) == [*known, *plan.types]
    assert int(ledger.sql("SELECT head FROM stream")[0]) == head + len(plan.types)
    _told_what_is_so(ledger, verb, changed, told)


def _told_what_is_so(ledger: Ledger, verb: str, message: str, told: dict[str, Any]) -> None:
    """The answer that was made from memory is what the database says."""
    columns = "status, version, coalesce(receipt, ''), lease_expires_at - updated_at > 5400000"
    [row] = ledger.sql(f"SELECT {columns} FROM messages WHERE id = '{message}'")
    status, version, receipt, long = row.split("|")
    match verb:
        case "claim":
            [claimed] = told["messages"]
            assert (claimed["id"], claimed["receipt"]) == (message, receipt)
        case "extend":
            assert (long, told["cancel_requested"]) == ("t", False)
        case "purge":
            assert told == {"cancelled": 1, "remaining": 0}
        case "redrive":
            assert told == {"matched": 1, "redriven": 1, "refused": 0, "remaining": 0}
        case _:
            assert (told["id"], told["status"], told["version"]) == (message, status, int(version))


# --- a process is frozen while it holds a lock ----------------------------------------


def frozen_state(process: "Server | Hand") -> bool:
    """Whether the kernel has stopped it."""
    text = Path(f"/proc/{process.pid}/stat").read_text()
    return text.rpartition(")")[2].split()[0] == "T"


@contextmanager
def frozen(found: Pair, trap: Trap) -> Iterator[None]:
    """The first process, stopped at the place of the trap; it goes on after the block."""
    trap.wait()
    server = found.process(FIRST)
    server.pause()
    try:
        until(lambda: frozen_state(server), 30, "the process is stopped")
        if trap.place is Place.AFTER:
            trap.release()  # what the server sent lies in the frozen process's own buffer now
        held, late = found.ledger.sql(STATE), time.monotonic() - trap.armed > OWN_SECONDS
        assert held == [STATES[trap.place]] or (late and held == []), f"it holds nothing: {held}"
        yield
    finally:
        server.resume()
        trap.release()


def in_time(call: Callable[[], httpx.Response], *codes: str) -> httpx.Response:
    """The success that must come while another process is frozen.

    Before it only `codes` may come, and 503: on a slow machine a batch is given up before the
    others have ended what holds it up.
    """
    began = time.monotonic()
    while True:
        answer = call()
        took = time.monotonic() - began
        assert took < ANSWER_SECONDS, f"{took:.1f} s: {answer.text}"
        if answer.status_code < 300:
            return answer
        assert answer.json()["code"] in ("unavailable", *codes), answer.text


def freeze_with_head(found: Pair, place: Place) -> None:
    """It has taken the head and its events' numbers."""
    house = found.house
    queue = house.queue()
    trap = found.proxy.arm("UPDATE stream SET head", place)
    held = found.later(lambda: post(house, FIRST, queue))
    with frozen(found, trap):
        assert in_time(lambda: post(house, SECOND, queue)).status_code == 201
        claimed = in_time(lambda: house.client("worker", SECOND).post(f"/queues/{queue}/claim"))
        assert len(claimed.json()["messages"]) == 1
    went_on(found, queue, held.result(60), 1)


def freeze_with_row(found: Pair, place: Place) -> None:
    """It has locked a message in order to cancel it."""
    house = found.house
    queue = house.queue()
    message = house.post(queue)["id"]
    cancel = f"/messages/{message}/cancel"
    trap = found.proxy.arm("FOR UPDATE SKIP LOCKED", place)
    held = found.later(lambda: house.client("producer", FIRST).post(cancel))
    with frozen(found, trap):
        assert in_time(lambda: post(house, SECOND, queue)).status_code == 201
        in_time(lambda: house.client("producer", SECOND).post(cancel))
    answer = held.result(60)
    assert answer.status_code in (200, 503), answer.text
    assert history(found.ledger, message) == ["order.created", "order.cancelled"]
    assert found.ledger.faults() == []


def freeze_with_key(found: Pair, place: Place) -> None:
    """It has stored an idempotency key."""
    house = found.house
    queue = house.queue()
    trap = found.proxy.arm("INSERT INTO keys", place)
    held = found.later(lambda: post(house, FIRST, queue, "the-key"))
    with frozen(found, trap):
        assert in_time(lambda: post(house, SECOND, queue)).status_code == 201
        again = in_time(lambda: post(house, SECOND, queue, "the-key"), "idempotency_in_progress")
    answer = held.result(60)
    if answer.status_code != 503:
        assert sorted((answer.status_code, again.status_code)) == [200, 201]
        assert answer.content == again.content
    assert len(newest(found.ledger, queue)) == 2
    assert found.ledger.faults() == []


def freeze_with_stock(found: Pair, place: Place) -> None:
    """It has locked the stock of a product that everybody wants."""
    house = found.house
    queue, sku = house.queue(), f"hot-{uuid.uuid4().hex[:8]}"
    received = house.client("admin").post(f"/products/{sku}/stock/receive", json={"quantity": 2})
    assert received.status_code == 200, received.text
    wish = {"customer": "c-7", "items": [{"sku": sku, "quantity": 1}]}

    def buy(process: int) -> httpx.Response:
        return house.client("producer", process).post(f"/queues/{queue}/messages", json=wish)

    trap = found.proxy.arm("FROM stock WHERE sku", place)
    held = found.later(lambda: buy(FIRST))
    with frozen(found, trap):
        assert in_time(lambda: buy(SECOND)).status_code == 201
        assert in_time(lambda: post(house, SECOND, queue)).status_code == 201
    sold = 1 + (held.result(60).status_code == 201)
    level = house.client("admin").get(f"/products/{sku}/stock").json()
    assert (level["reserved"], level["on_hand"]) == (sold, 2)
    went_on(found, queue, held.result(60), 2)


FREEZES = {
    "head": freeze_with_head,
    "row": freeze_with_row,
    "key": freeze_with_key,
    "stock": freeze_with_stock,
}


def went_on(found: Pair, queue: str, answer: httpx.Response, others: int) -> None:
    """The frozen call was answered and did what it says, once; the counts are right."""
    assert answer.status_code in (201, 503), answer.text
    there = newest(found.ledger, queue)
    if answer.status_code == 201:
        assert there.count(answer.json()["id"]) == 1
        assert len(there) == others + 1
    assert len(there) <= others + 1
    assert found.ledger.faults() == []


# --- everybody works while processes are killed ---------------------------------------


class Reader:
    """A client that follows topics over any number of reconnects, to any process."""

    def __init__(self, house: House, topics: list[str], cursor: str, draw: random.Random) -> None:
        self._house = house
        self._topics = topics
        self._cursor = cursor
        self._draw = draw
        self.seqs: list[int] = []
        self.connects = 0
        self.resets = 0

    def read(self, over: threading.Event) -> None:
        while not over.is_set():
            with contextlib.suppress(httpx.TransportError):  # killed, or quiet: come back
                self._once()
            over.wait(0.02)

    def _once(self) -> None:
        client = self._house.client("viewer", self._draw.randrange(len(self._house.servers)))
        given = {"Last-Event-ID": self._cursor, "Accept": "text/event-stream"}
        params = {"topic": self._topics}
        # Too short for a slow machine it must not be each time, else it would get no further.
        patience = httpx.Timeout(5, read=self._draw.choice((1, 1, 1, 5)))
        with client.stream("GET", "/events", params=params, headers=given, timeout=patience) as got:
            if got.status_code == 200:
                self.connects += 1
                self._take(got.iter_lines(), self._draw.randrange(1, 400))

    def _take(self, lines: Iterator[str], most: int) -> None:
        """Read whole blocks; hang up after `most` of them."""
        block: dict[str, str] = {}
        for line in lines:
            if line:
                name, _, value = line.partition(": ")
                block[name] = value
                continue
            self._note(block)
            block, most = {}, most - 1
            if not most:
                return

    def _note(self, block: dict[str, str]) -> None:
        event, cursor = block.get("event"), block.get("id")
        self.resets += event == "reset"
        if cursor is not None:
            self._cursor = cursor
            if event not in CONTROL:
                self.seqs.append(int(cursor.rpartition("-")[2]))


POSTS = 5  # accepted at least before each kill


class Load:
    """Producers, workers and readers who never give up, and what each of them was told."""

    def __init__(self, house: House, ledger: Ledger, draw: random.Random) -> None:
        self.house = house
        self.ledger = ledger
        self.posted: dict[str, str] = {}  # key → id
        self.settled: list[dict[str, Any]] = []
        self.claimed: list[tuple[str, int]] = []  # id, lease epoch
        self.wrong: list[str] = []
        patient = {"max_attempts": 100, "max_lost_leases": 100, "backoff_seconds": 0}
        self.queues = [house.queue(**patient) for _ in range(2)]
        topics = [f"queue:{name}" for name in self.queues]
        cursor = head(house)
        self._start = int(cursor.rpartition("-")[2])
        self._draws = [random.Random(draw.random()) for _ in range(8)]
        self.readers = [Reader(house, topics, cursor, one) for one in self._draws[:2]]
        self._enough = threading.Event()  # nothing is posted any more
        self._over = threading.Event()
        self._threads = [
            *(self._thread(self._produce, n, self._draws[2 + n]) for n in range(2)),
            *(self._thread(self._work, n, self._draws[4 + n]) for n in range(4)),
            *(self._thread(reader.read, self._over) for reader in self.readers),
        ]

    def _thread(self, work: Callable[..., None], *args: Any) -> threading.Thread:
        def run() -> None:
            try:
                work(*args)
            except Exception as error:
                self.wrong.append(f"{work.__name__}: {error!r}")

        return threading.Thread(target=run, daemon=True)

    def __enter__(self) -> "Load":
        open_clients(self.house)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def pause(self, seconds: float) -> None:
        """Let it work for a while; what goes wrong meanwhile ends the pause."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.wrong:
            self._over.wait(0.05)

    def go_on(self, posts: int) -> None:
        """Let it work until so many more purchases were accepted, or something went wrong."""
        enough = len(self.posted) + posts
        until(lambda: self.wrong or len(self.posted) >= enough, 60, "purchases are accepted")

    # --- those who never give up ------------------------------------------------------

    def _insist(
        self, draw: random.Random, role: str, call: Callable[[httpx.Client], httpx.Response]
    ) -> httpx.Response:
        """The first answer that says what happened, from whichever process gives one."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            client = self.house.client(role, draw.randrange(len(self.house.servers)))
            with contextlib.suppress(httpx.TransportError):
                answer = call(client)
                again = answer.status_code >= 500 or "idempotency_in_progress" in answer.text
                if not again:
                    return answer
            self._over.wait(0.02)
        raise TimeoutError("not answered within 60 s")

    def _produce(self, number: int, draw: random.Random) -> None:
        for n in itertools.count():
            if self._enough.is_set():
                return
            self._post(f"{number}-{n}", draw)
            self._over.wait(draw.uniform(0, 0.02))

    def _post(self, key: str, draw: random.Random) -> None:
        path, given = f"/queues/{self.queues[0]}/messages", {"Idempotency-Key": key}
        answer = self._insist(
            draw, "producer", lambda client: client.post(path, json=purchase(), headers=given)
        )
        assert answer.status_code in (200, 201), answer.text
        self.posted[key] = answer.json()["id"]

    def _work(self, number: int, draw: random.Random) -> None:
        body = {"max": 5, "lease_seconds": 3, "wait_seconds": 1}
        while not self._over.is_set():
            path = f"/queues/{draw.choice(self.queues)}/claim"
            client = self.house.client("worker", draw.randrange(len(self.house.servers)))
            with contextlib.suppress(httpx.TransportError):
                answer = client.post(path, json=body)
                if answer.status_code == 200:
                    self._settle_all(draw, answer.json()["messages"])
            self._over.wait(0.01)

    def _settle_all(self, draw: random.Random, messages: list[dict[str, Any]]) -> None:
        self.claimed += [(message["id"], message["lease_epoch"]) for message in messages]
        for message in messages:
            self._settle(draw, message)

    def _settle(self, draw: random.Random, message: dict[str, Any]) -> None:
        verb, body = self._choice(draw, message)
        path, given = f"/messages/{message['id']}/{verb}", {"receipt": message["receipt"], **body}
        answer = self._insist(draw, "worker", lambda client: client.post(path, json=given))
        if answer.status_code == 200:
            self.settled.append(answer.json())
        else:
            assert answer.json()["code"] == "lease_lost", answer.text

    def _choice(self, draw: random.Random, message: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if draw.random() < 0.1:
            return "nack", {"error": "no", "delay_seconds": 0}
        if draw.random() < 0.1:
            return "release", {}
        if message["queue"] == self.queues[0] and draw.random() < 0.6:
            return "ack", {"forward_to": self.queues[1]}
        return "ack", {}

    # --- what must be true ------------------------------------------------------------

    def finish(self) -> list[str]:
        """Post no more, work off what is there; everything that is not as promised."""
        self._enough.set()
        try:
            until(lambda: self.wrong or self._worked_off(), 90, "all messages are worked off")
        except TimeoutError as error:
            self.wrong.append(str(error))
        expected = self._expected()
        with contextlib.suppress(TimeoutError):  # what did not come is told below
            until(lambda: all(len(r.seqs) >= len(expected) for r in self.readers), 60, "read")
        self._over.set()
        return [
            *self.wrong,
            *self.ledger.faults(),
            *self._posts(),
            *self._answers(),
            *(fault for reader in self.readers for fault in self._readings(reader, expected)),
            *self._shown(),
        ]

    def _worked_off(self) -> bool:
        if any(thread.is_alive() for thread in self._threads[:2]):  # they still post
            return False
        left = f"{self._mine('count(*)')} AND status IN ('pending', 'processing')"
        return self.ledger.sql(left) == ["0"]

    @property
    def _names(self) -> str:
        return ", ".join(f"'{name}'" for name in self.queues)

    def _mine(self, columns: str) -> str:
        """A select from this load's messages."""
        there = f"SELECT id FROM queues WHERE name IN ({self._names})"
        return f"SELECT {columns} FROM messages WHERE queue_id IN ({there})"

    def _expected(self) -> list[int]:
        where = f"(queue IN ({self._names}) OR from_queue IN ({self._names}))"
        rows = self.ledger.sql(
            f"SELECT seq FROM events WHERE seq > {self._start} AND {where} ORDER BY seq"
        )
        return [int(row) for row in rows]

    def _posts(self) -> list[str]:
        """One message per key, the one that was told, completed."""
        rows = self.ledger.sql(self._mine("idempotency_key, id, status"))
        there = sorted(tuple(row.split("|")) for row in rows)
        told = sorted((key, message, "completed") for key, message in self.posted.items())
        return [] if there == told else [f"{len(told)} posts were accepted, {len(there)} are there"]

    def _answers(self) -> list[str]:
        """Each answer to a worker is one event; no lease was handed out twice."""
        found: list[str] = []
        rows = self.ledger.sql("SELECT data FROM events WHERE message IS NOT NULL")
        facts = [json.loads(row) for row in rows]
        there = {(fact["id"], fact["version"]): fact for fact in facts}
        seen: set[tuple[str, int]] = set()
        for told in self.settled:
            at = (told["id"], told["version"])
            fact = there.get(at, {})
            if (fact.get("status"), fact.get("queue")) != (told["status"], told["queue"]):
                found.append(f"an answer has no event: {told}")
            if at in seen:
                found.append(f"two were told the same move: {told}")
            seen.add(at)
        if len(set(self.claimed)) != len(self.claimed):
            found.append("a lease was handed out twice")
        return found

    def _readings(self, reader: Reader, expected: list[int]) -> list[str]:
        if reader.seqs == expected and not reader.resets:
            return []
        missed = sorted(set(expected) - set(reader.seqs))
        twice = len(reader.seqs) - len(set(reader.seqs))
        ordered = sorted(reader.seqs) == reader.seqs
        came = f"a reader ({reader.connects} connects, {reader.resets} resets)"
        return [f"{came} missed {missed[:5]}, got {twice} twice, in order: {ordered}"]

    def _shown(self) -> list[str]:
        """The counts that each process shows are those of the rows."""
        counted = self.ledger.counted()
        found: list[str] = []
        for process in range(len(self.house.servers)):
            items = self.house.client("viewer", process).get("/queues").json()["items"]
            for queue in (one for one in items if one["name"] in self.queues):
                rows = {s: counted.get((queue["name"], s), 0) for s in queue["counts"]}
                if queue["counts"] != rows:
                    found.append(f"{queue['name']} shows {queue['counts']}, not {rows}")
        return found


def killed(load: Load, server: services.Process, draw: random.Random) -> None:
    """Kill it at some moment of its work, leave it dead for a moment, start it again."""
    load.pause(draw.uniform(0.1, 1.0))
    load.go_on(POSTS)
    server.kill()
    load.pause(draw.uniform(0, 0.3))
    server.start()


# --- one key, many posts --------------------------------------------------------------

COPIES = 32
IN_PROGRESS_SECONDS = 2.0  # so long a copy waits for the first before it is refused


@contextmanager
def crowd() -> Iterator[ThreadPoolExecutor]:
    """As many threads as there are copies of a post."""
    with ThreadPoolExecutor(COPIES) as pool:
        yield pool


def post_copies(house: House, pool: ThreadPoolExecutor, queue: str, key: str) -> str:
    """Post one purchase many times at once, over all processes; its id."""
    gate = threading.Barrier(COPIES)

    def once(number: int) -> tuple[float, httpx.Response]:
        gate.wait(60)
        started = time.monotonic()
        answer = post(house, number % len(house.servers), queue, key)
        return time.monotonic() - started, answer

    return _one_purchase(list(pool.map(once, range(COPIES))))


def _one_purchase(answers: list[tuple[float, httpx.Response]]) -> str:
    """All were told the same: one of them first, the others as a replay."""
    [first] = [answer for _, answer in answers if answer.status_code == 201]
    assert "idempotent-replayed" not in first.headers
    for took, answer in answers:
        if answer.status_code == 200:
            assert answer.content == first.content
            assert answer.headers["idempotent-replayed"] == "true"
        elif answer is not first:
            assert answer.json()["code"] == "idempotency_in_progress", answer.text
            assert took >= IN_PROGRESS_SECONDS
    return first.json()["id"]


def posted_once(found: Pair, keys: list[str]) -> list[str]:
    """Post each key many times at once; what is wrong."""
    queue = found.house.queue()
    wrong: list[str] = []
    with crowd() as pool:
        for key in keys:
            try:
                post_copies(found.house, pool, queue, key)
            except (AssertionError, ValueError, httpx.HTTPError) as error:
                wrong.append(f"{key}: {reason(error)}")
    rows = found.ledger.sql(
        "SELECT m.idempotency_key FROM messages m JOIN queues q ON q.id = m.queue_id"
        f" WHERE q.name = '{queue}'"
    )
    if sorted(rows) != sorted(keys):
        wrong.append(f"{len(rows)} messages for {len(keys)} keys")
    return [*wrong, *found.ledger.faults()]


# --- workers who wake up too late -----------------------------------------------------

LEASES = 100  # of each worker, if not said otherwise
LATE = ("ack", "nack", "release", "extend")


@dataclass(frozen=True)
class Outcome:
    """What a call with a receipt was told."""

    verb: str
    id: str
    status: int
    code: str | None


class Hand:
    """A worker's own process: it claims, may stop itself while it holds leases, and settles."""

    def __init__(self, urls: list[str], token: str, queue: str, seed: int, leases: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.line, other = context.Pipe()
        given = (other, urls, token, queue, seed, leases)
        self.process = context.Process(target=_hand, args=given, daemon=True)
        self.process.start()
        other.close()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def tell(self, order: str) -> None:
        self.line.send(order)

    def hear(self) -> Any:
        """What it has to say. Raises TimeoutError."""
        if not self.line.poll(60):
            raise TimeoutError("a worker says nothing")
        return self.line.recv()

    def wake(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        self.process.kill()
        self.process.join(10)
        self.process.close()
        self.line.close()


def _hand(line: Any, urls: list[str], token: str, queue: str, seed: int, leases: int) -> None:
    """The worker's side: does what it is told, one order after the other."""
    if die := forks.end_with_parent(signal.SIGKILL):
        die()
    draw = random.Random(seed)
    bearer = {"Authorization": f"Bearer {token}"}
    clients = [httpx.Client(base_url=url + API, headers=bearer, timeout=60) for url in urls]
    held: list[dict[str, Any]] = []
    while True:
        match line.recv():
            case "stall":  # holds leases of one second, and sleeps through their end
                held = _claim_all(clients, draw, queue, leases, 1)
                os.kill(os.getpid(), signal.SIGSTOP)
                verbs = draw.choices(LATE, k=len(held))
            case "hold":
                held = _claim_all(clients, draw, queue, leases, 600)
                line.send(len(held))
                continue
            case _:
                verbs = ["ack"] * len(held)
        pairs = zip(verbs, held, strict=True)
        line.send([_use(draw.choice(clients), verb, message) for verb, message in pairs])


def _claim_all(
    clients: list[httpx.Client], draw: random.Random, queue: str, leases: int, seconds: int
) -> list[dict[str, Any]]:
    held: list[dict[str, Any]] = []
    while len(held) < leases:
        body = {"max": leases - len(held), "lease_seconds": seconds, "wait_seconds": 5}
        answer = draw.choice(clients).post(f"/queues/{queue}/claim", json=body)
        held += answer.json()["messages"] if answer.status_code == 200 else []
    return held


def _use(client: httpx.Client, verb: str, message: dict[str, Any]) -> Outcome:
    more = {"nack": {"error": "late"}, "extend": {"lease_seconds": 60}}.get(verb, {})
    body = {"receipt": message["receipt"], **more}
    answer = client.post(f"/messages/{message['id']}/{verb}", json=body)
    code = None if answer.status_code == 200 else answer.json()["code"]
    return Outcome(verb, message["id"], answer.status_code, code)


@contextmanager
def hands(
    house: House, queue: str, count: int, leases: int, draw: random.Random
) -> Iterator[list[Hand]]:
    urls = [server.url for server in house.servers]
    token = house.token("worker")
    with ExitStack() as stack:
        found: list[Hand] = []
        for _ in range(count):
            hand = Hand(urls, token, queue, draw.randrange(1 << 32), leases)
            stack.callback(hand.close)
            found.append(hand)
        yield found


def fill(house: House, queue: str, count: int) -> None:
    for start in range(0, count, 500):
        most = min(500, count - start)
        client = house.client("producer", start // 500 % 2)
        body = {"messages": [purchase() for _ in range(most)]}
        answer = client.post(f"/queues/{queue}/messages/batch", json=body)
        assert answer.json()["accepted"] == most, answer.text


def sleep_in(
    found: Pair, queue: str, count: int, late: list[Hand], others: list[Hand]
) -> list[str]:
    """Leases run out while their workers are stopped, others claim; what is wrong after it."""
    fill(found.house, queue, count)
    for hand in late:
        hand.tell("stall")
    until(lambda: all(frozen_state(hand) for hand in late), 60, "all sleep")
    for hand in others:
        hand.tell("hold")  # waits until the reaper has put them back
    assert sum(hand.hear() for hand in others) == count
    for hand in late:
        hand.wake()
    wrong = [f"accepted: {told}" for hand in late for told in hand.hear() if told.status != 409]
    for hand in others:
        hand.tell("settle")
    wrong += [f"refused: {told}" for hand in others for told in hand.hear() if told.status != 200]
    for hand in late:
        hand.tell("settle")  # over and done with by others: still refused
    after = [told for hand in late for told in hand.hear()]
    return wrong + [f"accepted at last: {told}" for told in after if told.code != "lease_lost"]


def completed_once(ledger: Ledger, queue: str, count: int) -> list[str]:
    """Each message of a queue has ended by one ack."""
    [row] = ledger.sql(
        "SELECT count(*), count(DISTINCT message) FROM events"
        f" WHERE queue = '{queue}' AND type = 'order.completed'"
    )
    right = row == f"{count}|{count}"
    return [*([] if right else [f"{row} completed, not {count}"]), *ledger.faults()]


def stale(
    found: Pair, workers: int, rounds: int, draw: random.Random, leases: int = LEASES
) -> list[str]:
    """`rounds` in which half of the workers sleep while the other half takes over."""
    queue = found.house.queue(max_lost_leases=100)
    wrong: list[str] = []
    half = workers // 2
    with hands(found.house, queue, workers, leases, draw) as all_hands:
        for _ in range(rounds):
            draw.shuffle(all_hands)
            wrong += sleep_in(found, queue, half * leases, all_hands[:half], all_hands[half:])
    return wrong + completed_once(found.ledger, queue, rounds * half * leases)
