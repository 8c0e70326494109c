"""The demo: real purchases of 1997, posted over HTTP and worked through three queues.

Everything is drawn from a seed, so each run makes the same orders and the same failures. What
came of it is known twice: from the plan, made before the first call, and from the answers. In
the end both must agree with the service's counts.
"""

import asyncio
import csv
import gzip
import itertools
import random
import secrets
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

import config

API = "/api/v1"
QUEUES = ("payments", "picking", "shipping")
STATUSES = ("pending", "processing", "completed", "failed", "cancelled", "expired")
FINISHED = ("completed", "failed", "cancelled", "expired")
SAMPLES = Path(__file__).parent / "samples"
ALL = 56_902  # purchases in the sample

BATCH = 500  # purchases in one post
CLAIM = 100  # messages in one claim
WORKERS = 2  # a queue
WAIT_SECONDS = 1  # of a claim that finds nothing
PATIENCE_SECONDS = 60.0  # how long a call is repeated while the service is away
START_SECONDS = 30.0
CHECKED = 20  # orders whose history is read step by step

RELEASED = 0.01  # share that a worker gives back untouched, in each queue
NACKED = 0.02  # share that fails once and is tried again
REFUSED = 0.004  # share that fails for good: the dead letters
TROUBLE = {  # what goes wrong in a queue for a moment, and for good
    "payments": ("the card service timed out", "the card was declined"),
    "picking": ("the shelf is being restocked", "the title is out of print"),
    "shipping": ("the carrier did not answer", "the address does not exist"),
}


class DemoFailed(Exception):
    """The demo cannot go on. The text says why, in a sentence for whoever started it."""


# --- the orders -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Order:
    """A purchase of 1997 as it is posted, and what its workers will do, queue by queue.

    A worker does one of `plan[queue]` at each claim: `release`, `nack`, and last `ack` or,
    where it ends, `refuse`.
    """

    body: dict[str, Any]
    plan: Mapping[str, Sequence[str]]

    @property
    def key(self) -> str:
        return self.body["idempotency_key"]

    @property
    def end(self) -> tuple[str, str]:
        """The queue and the status it will end in."""
        last = list(self.plan)[-1]
        return last, "failed" if self.plan[last][-1] == "refuse" else "completed"


def orders(limit: int, seed: int) -> Iterator[Order]:
    """The first `limit` purchases, with discs and fates drawn from the seed."""
    discs, fates = Discs(seed), random.Random(f"fates {seed}")
    with gzip.open(SAMPLES / "purchases-1997.csv.gz", "rt", newline="") as file:
        for number, row in enumerate(itertools.islice(csv.DictReader(file), limit), 1):
            yield Order(purchase(number, row, discs), plan(fates))


class Discs:
    """Draws discs with a long tail: a few hits sell most."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(f"discs {seed}")
        with (SAMPLES / "discs.csv").open(newline="", encoding="utf-8") as file:
            self._skus = [row["sku"] for row in csv.DictReader(file)]
        self._random.shuffle(self._skus)
        weights = (1 / place for place in range(1, len(self._skus) + 1))
        self._weights = list(itertools.accumulate(weights))

    def draw(self, count: int) -> Counter[str]:
        """How often each disc is among `count`."""
        return Counter(self._random.choices(self._skus, cum_weights=self._weights, k=count))


def purchase(number: int, row: Mapping[str, str], discs: Discs) -> dict[str, Any]:
    """A row of the sample as the service takes it; `number` counts from 1."""
    drawn = discs.draw(int(row["discs"]))
    amounts = split(cents(row["amount_usd"]), list(drawn.values()))
    return {
        "customer": f"cdnow-{row['customer']}",
        "items": [
            {"sku": sku, "quantity": quantity, "amount_cents": amount}
            for (sku, quantity), amount in zip(drawn.items(), amounts, strict=True)
        ],
        "currency": "USD",
        "reference": str(number),
        "idempotency_key": f"cdnow-{number}",
        "metadata": {"date": row["date"]},
    }


def cents(dollars: str) -> int:
    """`11.77` as 1177, without a float in between."""
    whole, _, fraction = dollars.partition(".")
    return int(whole) * 100 + int(fraction[:2].ljust(2, "0"))


def split(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in parts as the weights say; not a cent is lost or made."""
    whole = sum(weights)
    edges = [total * reached // whole for reached in itertools.accumulate(weights)]
    return [after - before for before, after in itertools.pairwise([0, *edges])]


def plan(fates: random.Random) -> dict[str, list[str]]:
    """What happens to one order in each queue that it will see."""
    steps: dict[str, list[str]] = {}
    for queue in QUEUES:
        released, nacked, refused = (fates.random() for _ in range(3))
        before = ["release"] * (released < RELEASED) + ["nack"] * (nacked < NACKED)
        steps[queue] = [*before, "refuse" if refused < REFUSED else "ack"]
        if refused < REFUSED:
            break
    return steps


# --- the service as a client sees it --------------------------------------------------


class Client:
    """Calls the API as one account. A call with an open outcome is repeated: all here may be."""

    def __init__(self, http: httpx.AsyncClient, username: str, password: str) -> None:
        self._http = http
        self._form = {"username": username, "password": password}

    async def sign_in(self) -> None:
        answer = await self._sent("POST", f"{API}/auth/token", data=self._form)
        if answer.status_code != 200:
            who = self._form["username"]
            raise DemoFailed(f"{who} cannot sign in at {self._http.base_url}: {detail(answer)}")
        self._http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    async def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The answer's JSON.

        Raises:
            DemoFailed: it was refused, or nobody answered for a minute.
        """
        answer = await self.ask(method, path, body, **query)
        if answer.status_code >= 400:
            raise DemoFailed(f"{method} {path}: {detail(answer)}")
        return answer.json()

    async def ask(self, method: str, path: str, body: Any = None, **query: Any) -> httpx.Response:
        """The answer, whatever it is. An access token that has expired is renewed."""
        answer = await self._sent(method, API + path, json=body, params=query)
        if answer.status_code == 401:
            await self.sign_in()
            answer = await self._sent(method, API + path, json=body, params=query)
        return answer

    async def _sent(self, method: str, path: str, **request: Any) -> httpx.Response:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            wait, why = 0.5, "it is overloaded"
            try:
                answer = await self._http.request(method, path, **request)
                if answer.status_code not in (429, 503):
                    return answer
                wait = float(answer.headers.get("Retry-After", wait))
            except httpx.TransportError as error:
                why = f"{type(error).__name__} {error}".strip()
            if time.monotonic() + wait > deadline:
                raise DemoFailed(f"{self._http.base_url} does not answer: {why}")
            await asyncio.sleep(wait)

    async def pages(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """All items of a list."""
        items: list[dict[str, Any]] = []
        cursor: dict[str, str] = {}
        while True:
            page = await self.call("GET", path, limit=200, **query, **cursor)
            items += page["items"]
            if page["next_cursor"] is None:
                return items
            cursor = {"cursor": page["next_cursor"]}

    async def many(self, verb: str, items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Settle many leases; the results in the order given, none of them open."""
        results: dict[str, dict[str, Any]] = {}
        deadline = time.monotonic() + PATIENCE_SECONDS
        left = list(items)
        while left:
            answer = await self.call("POST", f"/messages/{verb}", {f"{verb}s": left})
            results |= {result["id"]: result for result in answer["results"]}
            left = [item for item in left if results[item["id"]]["status"] == 503]
            if left and time.monotonic() > deadline:
                raise DemoFailed(f"{verb}: {results[left[0]['id']]['problem']['detail']}")
        return [results[item["id"]] for item in items]


def detail(answer: httpx.Response) -> str:
    """What a problem says, or its status."""
    if "json" in answer.headers.get("content-type", ""):
        return str(answer.json().get("detail"))
    return f"status {answer.status_code}"


# --- the books ------------------------------------------------------------------------

Place = tuple[str, str]  # queue, status


@dataclass(slots=True)
class Books:
    """What we know from answers alone: where each of our orders stands, by its id."""

    orders: Mapping[str, Order]  # by idempotency key
    before: Counter[Place] = field(default_factory=Counter)  # counts of our queues at the start
    earlier: dict[str, Place] = field(default_factory=dict)  # what an earlier run has left
    places: dict[str, Place] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)  # id → idempotency key
    steps: Counter[tuple[str, str]] = field(default_factory=Counter)  # (id, queue) → claims
    replayed: int = 0
    finished: int = 0

    @property
    def done(self) -> bool:
        return self.finished >= len(self.orders)

    def post(self, message_id: str, key: str, *, replayed: bool) -> None:
        """It was accepted; a worker may have been faster than this answer."""
        self.keys[message_id] = key
        self.replayed += replayed
        if message_id not in self.places:
            self.move(message_id, self.earlier.get(message_id, (QUEUES[0], "pending")))

    def move(self, message_id: str, place: Place) -> None:
        self.places[message_id] = place
        self.finished += place[1] in FINISHED

    def next_step(self, message: Mapping[str, Any]) -> str:
        """What to do with a message that was just claimed."""
        here = (message["id"], message["queue"])
        planned = self.orders[message["idempotency_key"]].plan.get(message["queue"], ["ack"])
        step = planned[min(self.steps[here], len(planned) - 1)]
        self.steps[here] += 1
        return step

    def expected(self) -> Counter[Place]:
        """The counts that the service must show: ours, and what was there besides."""
        ours_before = Counter(self.earlier[i] for i in self.places if i in self.earlier)
        return self.before - ours_before + Counter(self.places.values())

    def planned(self) -> Counter[Place]:
        """Where all orders end according to the plan."""
        return Counter(order.end for order in self.orders.values())


def counts(queue: Mapping[str, Any]) -> Counter[Place]:
    return Counter({(queue["name"], status): queue["counts"][status] for status in STATUSES})


# --- those who work -------------------------------------------------------------------


class Demo:
    """One run against a service that answers."""

    def __init__(self, client: Client, books: Books, progress: Progress) -> None:
        self._client = client
        self._books = books
        self._progress = progress
        total = len(books.orders)
        names = ("posted", *QUEUES)
        self._bars = {name: progress.add_task(name, total=total) for name in names}
        self._moved_at = time.monotonic()

    async def prepare(self) -> None:
        """Have the three queues, empty of what is not ours."""
        for name in QUEUES:
            answer = await self._client.ask("POST", "/queues", {"name": name})
            if answer.status_code not in (201, 409):
                raise DemoFailed(f"the queue {name} cannot be made: {detail(answer)}")
            await self._look_into(name)

    async def _look_into(self, name: str) -> None:
        queue = await self._client.call("GET", f"/queues/{name}")
        if queue["paused"]:
            raise DemoFailed(f"the queue {name} is paused")
        self._books.before += counts(queue)
        if not any(queue["counts"].values()):
            return
        for message in await self._client.pages(f"/queues/{name}/messages"):
            if message["idempotency_key"] in self._books.orders:
                self._books.earlier[message["id"]] = (name, message["status"])
            elif message["status"] in ("pending", "processing"):
                raise DemoFailed(f"other purchases wait in {name}; the demo would work on them")

    async def post_first(self) -> str:
        """Post one purchase alone; the link that follows it."""
        first = next(iter(self._books.orders.values()))
        answer = await self._client.ask("POST", f"/queues/{QUEUES[0]}/messages", first.body)
        if answer.status_code not in (200, 201):
            raise DemoFailed(f"posting: {detail(answer)}")
        message = answer.json()
        self._posted(message["id"], first.key, answer.status_code)
        return message["tracking"]["url"]

    async def run(self) -> None:
        """Post the rest while the workers are at it; until every order has ended."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._post_rest())
            for queue in QUEUES:
                for number in range(1, WORKERS + 1):
                    group.create_task(self._work(queue, f"{queue}-{number}"))

    async def _post_rest(self) -> None:
        rest = list(self._books.orders.values())[1:]
        for start in range(0, len(rest), BATCH):
            await self._post(rest[start : start + BATCH])

    async def _post(self, batch: Sequence[Order]) -> None:
        """Post a batch; what has an open outcome again, by the same keys."""
        while batch:
            body = {"messages": [order.body for order in batch]}
            answer = await self._client.call("POST", f"/queues/{QUEUES[0]}/messages/batch", body)
            again: list[Order] = []
            for order, result in zip(batch, answer["results"], strict=True):
                if result["status"] in (409, 503):  # the same key is under way, or it is open
                    again.append(order)
                elif result["status"] >= 400:
                    raise DemoFailed(f"posting {order.key}: {result['problem']['detail']}")
                else:
                    self._posted(result["id"], order.key, result["status"])
            batch = again

    def _posted(self, message_id: str, key: str, status: int) -> None:
        self._books.post(message_id, key, replayed=status == 200)
        self._moved("posted")
        if (place := self._books.earlier.get(message_id)) is not None:
            for name in QUEUES[: QUEUES.index(place[0]) + (place[1] in FINISHED)]:
                self._moved(name)

    def _moved(self, bar: str) -> None:
        self._progress.advance(self._bars[bar])
        self._moved_at = time.monotonic()

    async def _work(self, queue: str, worker: str) -> None:
        body = {"max": CLAIM, "wait_seconds": WAIT_SECONDS, "worker": worker}
        while not self._books.done:
            claimed = await self._client.call("POST", f"/queues/{queue}/claim", body)
            if claimed["messages"]:
                await self._settle(queue, claimed["messages"])
            elif time.monotonic() - self._moved_at > PATIENCE_SECONDS:
                raise DemoFailed("nothing moves; is somebody else at work in these queues?")

    async def _settle(self, queue: str, messages: Sequence[Mapping[str, Any]]) -> None:
        """Do what is planned for each message, in one call a verb."""
        todo: dict[str, list[dict[str, Any]]] = {"ack": [], "nack": [], "release": []}
        ends: dict[str, Place] = {}
        for message in messages:
            if message["idempotency_key"] not in self._books.orders:
                raise DemoFailed(f"somebody else posts into {queue}; the demo stops")
            step = self._books.next_step(message)
            self._books.move(message["id"], (queue, "processing"))
            verb, item, ends[message["id"]] = settlement(queue, step, message)
            todo[verb].append(item)
        for verb, items in todo.items():
            for result in await self._client.many(verb, items):
                self._settled(queue, verb, result, ends[result["id"]])

    def _settled(self, queue: str, verb: str, result: Mapping[str, Any], end: Place) -> None:
        if result["status"] == 409:
            return  # the lease ran out: it will be claimed again
        if result["status"] != 200:
            raise DemoFailed(f"{verb} {result['id']}: {result['problem']['detail']}")
        self._books.move(result["id"], end)
        if end != (queue, "pending"):
            self._moved(queue)

    # --- the checks at the end --------------------------------------------------------

    async def differences(self) -> list[str]:
        """Where the service, the books and the plan do not agree; nothing is best."""
        books = self._books
        found = [
            f"{queue} {status}: the service counts {theirs:,}, the {name} {ours:,}"
            for name, book, service in (
                ("books say", books.expected(), await self.counted()),
                ("plan says", books.planned(), Counter(books.places.values())),
            )
            for queue in QUEUES
            for status in STATUSES
            if (theirs := service[queue, status]) != (ours := book[queue, status])
        ]
        ended = Counter(status for _, status in books.places.values())
        if ended["completed"] + ended["failed"] != len(books.orders):
            found.append(f"of {len(books.orders):,} posted only {ended.total():,} have ended")
        ids = sorted(books.places)
        for message_id in random.Random(len(ids)).sample(ids, min(CHECKED, len(ids))):
            found += await self._history_faults(message_id)
        return found

    async def counted(self) -> Counter[Place]:
        found: Counter[Place] = Counter()
        for name in QUEUES:
            found += counts(await self._client.call("GET", f"/queues/{name}"))
        return found

    async def _history_faults(self, message_id: str) -> list[str]:
        """A history counts its versions without a gap, and ends where the message stands."""
        message = await self._client.call("GET", f"/messages/{message_id}")
        steps = await self._client.pages(f"/messages/{message_id}/history")
        found: list[str] = []
        if [step["version"] for step in steps] != list(range(1, message["version"] + 1)):
            found.append(f"order {message_id}: its history has a gap")
        for before, after in itertools.pairwise(steps):
            if after["previous_status"] != before["status"]:
                found.append(f"order {message_id}: version {after['version']} follows nothing")
        if (steps[-1]["queue"], steps[-1]["status"]) != self._books.places[message_id]:
            found.append(f"order {message_id}: its history ends elsewhere than the books")
        return found


def settlement(
    queue: str, step: str, message: Mapping[str, Any]
) -> tuple[str, dict[str, Any], Place]:
    """The verb, the item to send, and where the order is after it."""
    item = {"id": message["id"], "receipt": message["receipt"]}
    soon, never = TROUBLE[queue]
    match step:
        case "release":
            return "release", item, (queue, "pending")
        case "nack":
            return "nack", {**item, "error": soon}, (queue, "pending")
        case "refuse":
            return "nack", {**item, "error": never, "retry": False}, (queue, "failed")
        case _ if queue == QUEUES[-1]:
            result = {"parcel": f"US-{message['reference']}"}
            return "ack", {**item, "result": result}, (queue, "completed")
        case _:
            onward = QUEUES[QUEUES.index(queue) + 1]
            return "ack", {**item, "forward_to": onward}, (onward, "pending")


# --- what is shown --------------------------------------------------------------------


class Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or 0.0
        return Text(f"{speed:,.0f}/s", style="cyan", justify="right")


def progress_on(console: Console) -> Progress:
    """Bars on a terminal; elsewhere nothing that would fill a log."""
    columns = (TextColumn("{task.description:9}"), BarColumn(), MofNCompleteColumn(), Rate())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def counts_table(found: Mapping[Place, int]) -> Table:
    table = Table("queue", title="what the service counts")
    for status in STATUSES:
        table.add_column(status, justify="right")
    for queue in QUEUES:
        table.add_row(queue, *(f"{found[queue, status]:,}" for status in STATUSES))
    return table


async def run(
    url: str, username: str, password: str, purchases: int, seed: int, console: Console
) -> list[str]:
    """The whole demo against a service; what differs in the end.

    Raises:
        DemoFailed: it could not be carried through.
    """
    books = Books({order.key: order for order in orders(purchases, seed)})
    async with AsyncExitStack() as stack:
        # Without the proxies of the environment: a service on this machine is behind none.
        http = httpx.AsyncClient(base_url=url, timeout=30, trust_env=False)
        client = Client(await stack.enter_async_context(http), username, password)
        await client.sign_in()
        progress = stack.enter_context(progress_on(console))
        work = Demo(client, books, progress)
        await work.prepare()
        link = await work.post_first()
        console.print(f"Follow the first order: {link}", soft_wrap=True)
        started = time.monotonic()
        try:
            await work.run()
        except* DemoFailed as failed:
            raise first_of(failed) from None
        progress.stop()
        report(console, books, time.monotonic() - started)
        console.print(counts_table(await work.counted()))
        return await work.differences()


def first_of(failed: BaseExceptionGroup[DemoFailed]) -> BaseException:
    found = failed.exceptions[0]
    return first_of(found) if isinstance(found, BaseExceptionGroup) else found


def report(console: Console, books: Books, seconds: float) -> None:
    moves = sum(books.steps.values()) * 2 + len(books.orders) - books.replayed
    console.print(
        f"{len(books.orders):,} purchases in {seconds:.1f} s: {moves:,} moves,"
        f" {moves / seconds:,.0f} a second"
    )
    if books.replayed:
        console.print(f"{books.replayed:,} of them were here from an earlier run")


# --- a service of its own -------------------------------------------------------------


def answers(url: str) -> bool:
    """Whether a Filaviva answers there.

    Raises:
        DemoFailed: something else does.
    """
    try:
        answer = httpx.get(f"{url}/livez", timeout=5, trust_env=False)
    except httpx.TransportError:
        return False
    if answer.status_code != 200 or answer.text != '{"status":"ok"}':
        raise DemoFailed(f"what answers at {url} is not Filaviva; name it with --url")
    return True


@contextmanager
def own_service(port: int) -> Iterator[str]:
    """A throw-away service on this port, with SQLite in a temporary folder; admin's password.

    Raises:
        DemoFailed: it does not start.
    """
    password = secrets.token_urlsafe(18)
    with TemporaryDirectory(prefix="filaviva-demo-") as folder:
        given = {"PORT": str(port), "DATA_DIR": folder, "ADMIN_PASSWORD": password}
        command = [sys.executable, str(Path(__file__).parent / "cli.py"), "serve"]
        environment = {f"{config.PREFIX}{name}": value for name, value in given.items()}
        environment[f"{config.PREFIX}LOG_FILE"] = str(Path(folder) / "log.txt")
        none = subprocess.DEVNULL
        service = subprocess.Popen(command, env=environment, stdin=none, stdout=none)
        try:
            wait_for(service, f"http://127.0.0.1:{port}")
            yield password
        finally:
            service.terminate()
            service.wait()


def wait_for(service: subprocess.Popen[bytes], url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not answers(url):
        if service.poll() is not None or time.monotonic() > deadline:
            raise DemoFailed("a service of its own does not start")
        time.sleep(0.1)
