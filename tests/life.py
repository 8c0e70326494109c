"""The life of a message, twice: the decisions under test, and a small model that knows better.

`Store` does in memory what the writer does with a database: it lays a batch on a desk,
with the stock it names, runs the commands and keeps what they decided. `Walk` sends all
commands in any order, several in one batch, and compares each answer with that of `Model`,
which was written from the rules and not from the code.
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pydantic_core import to_json

import moves
from catalogue import Terms
from errors import Problem
from events import STATUSES, Event
from models import Status
from moves import Desk, Ended, Held, KnownKey, Message, QueueFacts, Registry
from schemas import Purchase
from stock import KnownMovement, Level, Movement, Shelf

NOW = 1_795_284_000_000  # 2026-11-21T18:00:00Z
DAY = 86_400_000
ITEM = {"sku": "disc-001", "quantity": 2, "amount_cents": 1980}

# Each event, with the statuses it may lead between: the picture of a message's life.
PICTURE = {
    "order.created": {(None, "pending")},
    "order.processing": {("pending", "processing")},
    "order.cancel_requested": {("processing", "processing")},
    "order.requeued": {
        ("processing", "pending"),  # nack, release, lost lease
        ("pending", "pending"),  # a late nack
        ("failed", "pending"),
        ("cancelled", "pending"),
        ("expired", "pending"),
    },
    "order.forwarded": {("processing", "pending"), ("pending", "pending")},
    "order.completed": {("processing", "completed"), ("pending", "completed")},
    "order.failed": {("processing", "failed"), ("pending", "failed")},
    "order.cancelled": {("processing", "cancelled"), ("pending", "cancelled")},
    "order.expired": {("processing", "expired"), ("pending", "expired")},
}

# The states of a SKU before and after a transaction, and which alarm lies between them.
EDGES = {
    ("in_stock", "low"): "stock.low",
    ("in_stock", "out"): "stock.depleted",
    ("low", "out"): "stock.depleted",
    ("out", "low"): "stock.replenished",
    ("out", "in_stock"): "stock.replenished",
}
TOLD = {"sku", "available", "previous_available", "state", "reason", "version"}
REASONS = {"received", "adjusted", "reserved", "released", "committed"}


def facts(queue_id: int, name: str, **changes: Any) -> QueueFacts:
    """A queue with the default settings."""
    plain = QueueFacts(queue_id, name, 30, 10, 5, 1, paused=False, deleted=False)
    return replace(plain, **changes)


def purchase(*lines: tuple[str, int], **changes: Any) -> Purchase:
    items = [{"sku": sku, "quantity": n} for sku, n in lines] or [ITEM]
    return Purchase.model_validate({"customer": "c-7", "items": items, **changes})


class HeldElsewhere(Problem):
    """Stands for `Held` in the outcomes of a batch."""

    code, status, title = "held", 0, "Held"


# --- the store ------------------------------------------------------------------------


@dataclass
class Store:
    """Rows, keys, log, counts and stock, changed by whole batches only."""

    queues: dict[int, QueueFacts] = field(default_factory=dict)
    rows: dict[str, Message] = field(default_factory=dict)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)  # key → fingerprint, message
    log: list[Event] = field(default_factory=list)
    counts: dict[int, Counter[str]] = field(default_factory=dict)
    levels: dict[str, Level] = field(default_factory=dict)
    ledger: list[Movement] = field(default_factory=list)
    terms: dict[str, Terms] = field(default_factory=dict)
    now: int = NOW
    _read: int = 0  # events that `check_log` has read
    _orders: dict[str, tuple[int, str, str]] = field(default_factory=dict)  # version, status, queue
    _stock: dict[str, tuple[int, int, str]] = field(default_factory=dict)  # version, left, state

    def add(self, queue_id: int, name: str, **changes: Any) -> QueueFacts:
        self.counts.setdefault(queue_id, Counter())
        self.queues[queue_id] = facts(queue_id, name, **changes)
        return self.queues[queue_id]

    def change(self, queue_id: int, **changes: Any) -> None:
        self.queues[queue_id] = replace(self.queues[queue_id], **changes)

    @property
    def registry(self) -> Registry:
        live = {queue.name: queue for queue in self.queues.values() if not queue.deleted}
        return Registry(1, dict(self.queues), live)

    def run(self, *commands: moves.Command, held: Collection[str] = ()) -> list[Any]:
        """The outcome of each command, all in one transaction that commits."""
        desk = self.desk(commands, held)
        outcomes = [self._outcome(desk, command) for command in commands]
        desk.events += desk.shelf.events()
        self._keep(desk)
        return outcomes

    def one(self, command: moves.Command) -> Any:
        """The answer of a command; raises the Problem it ran into."""
        outcome = self.run(command)[0]
        if isinstance(outcome, Problem):
            raise outcome
        return outcome

    def desk(self, commands: Sequence[moves.Command], held: Collection[str] = ()) -> Desk:
        named = {message for command in commands for message in command.ids}
        desk = Desk(self.now, self.registry, held=frozenset(held) & named & self.rows.keys())
        free = (named & self.rows.keys()) - set(held)
        desk.rows = {message: replace(self.rows[message]) for message in free}
        for command in commands:
            if isinstance(command, moves.Settle) and command.id in desk.rows:
                desk.ended[command.id] = self.ended(command.id)
            if isinstance(command, moves.Keyed):
                self._know(desk, command)
        self._shelve(desk, commands)
        self._probe(desk, commands, held)
        return desk

    def ended(self, message: str) -> dict[str, Ended]:
        """How leases ended, read from the log as it would be from the database."""
        found: dict[str, Ended] = {}
        for event in self.log:
            detail = json.loads(event.detail or "{}")
            if event.message == message and "verb" in detail:
                data = json.loads(event.data)
                answer = {name: data[name] for name in ("id", "queue", "status", "version")}
                found[detail["receipt"]] = Ended(detail["verb"], answer)
        return found

    def _know(self, desk: Desk, command: moves.Keyed) -> None:
        key = command.scoped_key(desk.registry)
        if key is None or key not in self.keys:
            return
        fingerprint, message = self.keys[key]
        if isinstance(command, moves.Receive):
            one = next(one for one in self.ledger if one.id == message)
            levels = (one.on_hand, one.reserved, one.low_at, one.version, one.number)
            level = Level(one.sku, *levels, one.created_at, one.created_at)
            desk.known_keys[key] = KnownMovement(fingerprint, level)
        else:
            created = next(
                event
                for event in self.log
                if event.message == message and event.type == "order.created"
            )
            row = replace(self.rows[message])
            data = json.loads(created.data)
            desk.known_keys[key] = KnownKey(fingerprint, row, created.queue or "", data)

    def _shelve(self, desk: Desk, commands: Sequence[moves.Command]) -> None:
        """Copies of the stock that is named; what is received gets a row if it has none."""
        received = {command.sku for command in commands if isinstance(command, moves.Receive)}
        fresh = {sku: Level(sku, 0, 0, None, 0, 0, self.now, self.now) for sku in received}
        there = fresh | self.levels
        wanted = {sku for command in commands for sku in command.skus(desk)} & there.keys()
        desk.shelf = Shelf(self.now, {sku: replace(there[sku]) for sku in wanted})
        desk.terms = self.terms

    def _probe(self, desk: Desk, commands: Sequence[moves.Command], held: Collection[str]) -> None:
        wanted: Counter[int] = Counter()
        for command in commands:
            if isinstance(command, moves.Claim):
                queue = desk.registry.by_name.get(command.queue)
                if queue is not None and not queue.paused:
                    wanted[queue.id] += command.max
        for queue_id, most in wanted.items():
            due = [row for row in self.rows.values() if self._due(row, queue_id)]
            due = [row for row in due if row.id not in held]
            due.sort(key=lambda row: (-row.priority, row.available_at, row.entered_at, row.id))
            desk.candidates[queue_id] = [row.id for row in due[:most]]
            for row in due[:most]:
                desk.rows.setdefault(row.id, replace(row))

    def _due(self, row: Message, queue_id: int) -> bool:
        waits = row.expires_at is None or row.expires_at > self.now
        here = row.queue_id == queue_id and row.status is Status.PENDING
        return here and waits and row.available_at <= self.now

    @staticmethod
    def _outcome(desk: Desk, command: moves.Command) -> Any:
        try:
            return moves.run(desk, command)
        except Held:
            return HeldElsewhere()

    def _keep(self, desk: Desk) -> None:
        assert desk.wrote or not (desk.events or any(map(any, desk.counters.columns()[1:])))
        for message in [*desk.new, *desk.touched]:
            if message not in desk.removed:
                self.rows[message] = desk.rows[message]
        for message in desk.removed:
            del self.rows[message]
            self.keys = {k: found for k, found in self.keys.items() if found[1] != message}
        for key, command in desk.new_keys.items():
            self.keys[key] = (command.fingerprint, command.id)
        self.log += desk.events
        self.levels |= {level.sku: level for level in desk.shelf.changed}
        self.ledger += desk.shelf.movements
        queues, *columns = desk.counters.columns()
        for place, queue_id in enumerate(queues):
            for status, column in zip(STATUSES, columns, strict=True):
                self.counts[queue_id][status] += column[place]

    # --- what must hold after every batch ---------------------------------------------

    def check(self) -> None:
        self.check_counts()
        for row in self.rows.values():
            check_row(row)
        self.check_log()
        self.check_stock()

    def check_counts(self) -> None:
        """P8: the counters are the numbers of rows, none below zero."""
        real: dict[int, Counter[str]] = {queue_id: Counter() for queue_id in self.counts}
        for row in self.rows.values():
            real[row.queue_id][row.status.value] += 1
        kept = {q: {s: n for s, n in c.items() if n} for q, c in self.counts.items()}
        assert kept == {queue_id: dict(counter) for queue_id, counter in real.items()}

    def check_log(self) -> None:
        """P3, P5: each history is gapless, hangs together, and ends where its row stands."""
        edge: tuple[str, Any] | None = None
        for event in self.log[self._read :]:
            data = json.loads(event.data)
            if event.message is not None:
                self._check_order_event(event, data)
            elif event.type == "stock.changed":
                assert edge is None
                edge = self._check_stock_event(event, data)
            else:
                assert edge == (event.type, data)
                edge = None
        assert edge is None
        self._read = len(self.log)
        for row in self.rows.values():
            at = (row.version, row.status.value, self.queues[row.queue_id].name)
            assert self._orders[row.id] == at

    def _check_order_event(self, event: Event, data: Any) -> None:
        version, status, queue = self._orders.get(data["id"], (0, None, None))
        assert data["version"] == version + 1
        assert data["previous_status"] == status
        assert data["previous_queue"] == queue
        assert (status, data["status"]) in PICTURE[event.type], (event.type, status, data)
        self._orders[data["id"]] = (data["version"], data["status"], data["queue"])

    def _check_stock_event(self, event: Event, data: Any) -> tuple[str, Any] | None:
        """The edge that must follow it."""
        version, left, state = self._stock.get(data["sku"], (0, 0, "out"))
        assert event.subject == f"stock:{data['sku']}"
        assert data.keys() == TOLD
        assert (data["version"], data["previous_available"]) == (version + 1, left)
        assert data["reason"] in REASONS
        self._stock[data["sku"]] = (data["version"], data["available"], data["state"])
        edge = EDGES.get((state, data["state"]))
        return None if edge is None else (edge, data)

    def check_stock(self) -> None:
        """P4: nothing is promised twice, and the ledger says what is on hand."""
        held = Counter[str]()
        for row in self.rows.values():
            assert row.reserved is None or row.finished_at is None
            held.update(row.held())
        ledgers: dict[str, list[Movement]] = {sku: [] for sku in self.levels}
        for one in self.ledger:
            ledgers[one.sku].append(one)
        for sku, level in self.levels.items():
            assert 0 <= level.reserved <= level.on_hand
            assert level.reserved == held.pop(sku, 0)
            check_ledger(level, ledgers[sku])
            low = level.low_at is not None and level.available <= level.low_at
            state = "out" if level.available == 0 else "low" if low else "in_stock"
            assert self._stock[sku] == (level.version, level.available, state)
        assert not held


def check_ledger(level: Level, ledger: Sequence[Movement]) -> None:
    """Numbered without a gap; each line says what is on hand after it, the last one now."""
    assert [one.number for one in ledger] == list(range(1, level.moved + 1))
    on_hand = 0
    for one in ledger:
        on_hand += one.change
        assert one.on_hand == on_hand
        assert (one.kind == "committed") == (one.message is not None)
    assert level.on_hand == on_hand


def check_row(row: Message) -> None:
    """What a row of a status has and has not."""
    working = row.status is Status.PROCESSING
    assert (row.lease_expires_at is not None) == working
    assert row.receipt is not None or not working
    assert row.receipt is None or row.status in (Status.PROCESSING, Status.PENDING)
    assert (row.worker is None) == (row.receipt is None)
    assert row.cancel_requested_at is None or working
    open_ = row.status in (Status.PENDING, Status.PROCESSING)
    assert (row.finished_at is None) == open_


# --- the model ------------------------------------------------------------------------


@dataclass
class Life:
    """One message, as the rules see it."""

    id: str
    queue: int
    due: int
    entered: int
    priority: int
    expires: int | None
    lines: list[tuple[str, int]]
    held: Counter[str] = field(default_factory=Counter)
    status: str = "pending"
    version: int = 1
    attempts: int = 0
    lost: int = 0
    epoch: int = 0
    cancel: bool = False
    receipt: str | None = None  # that can still ack
    until: int = 0
    finished: int = 0
    answers: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def settled(self, names: dict[int, str]) -> dict[str, Any]:
        return {
            "id": self.id,
            "queue": names[self.queue],
            "status": self.status,
            "version": self.version,
        }


class No(Exception):
    """Refused, with the code of a Problem."""


class Model:
    """The rules of a purchase's life, on a few fields."""

    def __init__(self, queues: dict[int, QueueFacts]) -> None:
        self.queues = queues  # the store's own: settings are no decision
        self.lives: dict[str, Life] = {}
        self.keys: dict[tuple[str, int | str, str], tuple[str, bytes]] = {}
        self.on_hand: dict[str, int] = {}  # of what is counted
        self.reserved = Counter[str]()
        self.now = NOW
        self.candidates: dict[int, list[str]] = {}

    # --- helpers ----------------------------------------------------------------------

    @property
    def names(self) -> dict[int, str]:
        return {queue.id: queue.name for queue in self.queues.values()}

    def by_name(self, name: str) -> QueueFacts:
        for queue in self.queues.values():
            if queue.name == name and not queue.deleted:
                return queue
        raise No("not_found")

    def find(self, message: str) -> Life:
        if message not in self.lives:
            raise No("not_found")
        return self.lives[message]

    def begin(self, now: int, most: Counter[str], held: Collection[str]) -> None:
        """A batch starts: claims choose from what is due now, most urgent first."""
        self.now, self.candidates = now, {}
        for name, n in most.items():
            chosen = [queue for queue in self.queues.values() if queue.name == name]
            for queue in chosen:
                due = [
                    life
                    for life in self.lives.values()
                    if self.claimable(life, queue.id) and life.id not in held
                ]
                due.sort(key=lambda one: (-one.priority, one.due, one.entered, one.id))
                self.candidates[queue.id] = [life.id for life in due[:n]]

    def claimable(self, life: Life, queue_id: int) -> bool:
        fresh = life.expires is None or life.expires > self.now
        return (
            life.queue == queue_id and life.status == "pending" and life.due <= self.now and fresh
        )

    def step(self, life: Life, status: str) -> None:
        life.status = status
        life.version += 1
        if status != "processing":
            life.cancel = False
        if status not in ("pending", "processing"):
            life.finished = self.now
            life.receipt = None
            self.let_go(life)

    def back(self, life: Life, due: int) -> None:
        """Towards pending, where time, a wish to cancel and a deleted queue are heard."""
        if life.cancel:
            self.step(life, "cancelled")
        elif life.expires is not None and life.expires <= self.now:
            self.step(life, "expired")
        elif self.queues[life.queue].deleted:
            self.step(life, "cancelled")
        else:
            life.due = due
            self.step(life, "pending")

    def fresh(self, life: Life) -> None:
        life.attempts = life.lost = 0
        life.due = life.entered = self.now

    def known(self, key: tuple[str, int | str, str], fingerprint: str, given: Any) -> bool:
        """Whether the key was there: then it is the same again, answered as the first time."""
        if key not in self.keys:
            return False
        before, first = self.keys[key]
        if before != fingerprint:
            raise No("idempotency_key_reused")
        assert given.replayed
        assert to_json(given.shape) == first
        return True

    # --- stock ------------------------------------------------------------------------

    def reserve(self, life: Life) -> None:
        wanted = Counter[str]()
        for sku, n in life.lines:
            wanted[sku] += n if sku in self.on_hand else 0
        if any(n > self.on_hand.get(sku, 0) - self.reserved[sku] for sku, n in wanted.items()):
            raise No("out_of_stock")
        self.reserved.update(wanted)
        life.held = wanted

    def let_go(self, life: Life) -> None:
        self.reserved.subtract(life.held)
        for sku, n in (+life.held).items():
            self.on_hand[sku] -= n if life.status == "completed" else 0
        life.held = Counter()

    def receive(self, command: moves.Receive, given: Any) -> None:
        key = (command.account, command.sku, command.key or "")
        if command.key is not None and self.known(key, command.fingerprint, given):
            return
        self.on_hand[command.sku] = self.on_hand.get(command.sku, 0) + command.quantity
        assert not given.replayed
        self.shelved(command.sku, given.shape)
        if command.key is not None:
            self.keys[key] = (command.fingerprint, to_json(given.shape))

    def adjust(self, command: moves.Adjust, given: Any) -> None:
        if command.sku not in self.on_hand:
            raise No("not_found")
        if self.on_hand[command.sku] != command.expected:
            raise No("version_mismatch")
        if command.on_hand < self.reserved[command.sku]:
            raise No("below_reserved")
        self.on_hand[command.sku] = command.on_hand
        self.shelved(command.sku, given)

    def set_low(self, command: moves.SetLow, given: Any) -> None:
        if command.sku not in self.on_hand:
            raise No("not_found")
        assert given["low_at"] == command.low_at
        self.shelved(command.sku, given)

    def shelved(self, sku: str, shape: Any) -> None:
        assert (shape["on_hand"], shape["reserved"]) == (self.on_hand[sku], self.reserved[sku])
        assert shape["available"] == shape["on_hand"] - shape["reserved"]

    # --- the verbs --------------------------------------------------------------------

    def enqueue(self, command: moves.Enqueue, given: Any) -> None:
        """`given` is the real answer: its id is taken over, its bytes are remembered."""
        queue = self.by_name(command.queue)
        key = (command.account, queue.id, command.key or "")
        if command.key is not None and self.known(key, command.purchase.fingerprint(), given):
            return
        wish = command.purchase
        if wish.expires_at is not None and wish.expires_at <= self.now:
            raise No("invalid")
        due = self.now + (wish.delay_seconds or 0) * 1000
        lines = [(item.sku, item.quantity) for item in wish.items]
        life = Life(command.id, queue.id, due, self.now, wish.priority, wish.expires_at, lines)
        self.reserve(life)
        assert not given.replayed
        self.lives[life.id] = life
        if command.key is not None:
            self.keys[key] = (wish.fingerprint(), to_json(given.shape))

    def claim(self, command: moves.Claim, given: Any) -> None:
        queue = self.by_name(command.queue)
        expected: list[Life] = []
        waiting = self.candidates.get(queue.id, [])
        while waiting and len(expected) < command.max and not queue.paused:
            life = self.lives[waiting.pop(0)]
            if self.claimable(life, queue.id):
                expected.append(life)
        assert [one["id"] for one in given] == [life.id for life in expected]
        for life, one in zip(expected, given, strict=True):
            life.epoch += 1
            assert one["lease_epoch"] == life.epoch
            assert one["receipt"] != life.receipt
            life.receipt = one["receipt"]
            life.until = self.now + 1000 * (command.lease_seconds or queue.lease_seconds)
            self.step(life, "processing")

    def settle(self, command: moves.Settle, given: Any) -> None:
        """ack, nack, release: whose receipt it is decides; a repetition gets the first answer."""
        life = self.find(command.id)
        first = life.answers.get((command.receipt, command.verb))
        if first is not None:
            assert given == first
            return
        late = command.verb in ("ack", "nack")
        lives = life.status == "processing" and (late or life.until > self.now)
        if life.receipt != command.receipt or not (lives or (late and life.status == "pending")):
            raise No("lease_lost")
        assert not isinstance(command, moves.Extend)
        {"ack": self.ack, "nack": self.nack, "release": self.release}[command.verb](life, command)
        life.receipt = None
        answer = life.settled(self.names)
        life.answers[command.receipt, command.verb] = answer
        assert given == answer

    def ack(self, life: Life, command: Any) -> None:
        if command.forward_to is None:
            return self.step(life, "completed")
        try:
            target = self.by_name(command.forward_to)
        except No:
            raise No("invalid") from None
        if target.id == life.queue:
            raise No("invalid")
        if life.cancel:
            return self.step(life, "cancelled")
        self.fresh(life)
        life.queue = target.id
        return self.step(life, "pending")

    def nack(self, life: Life, command: Any) -> None:
        queue = self.queues[life.queue]
        life.attempts += 1
        if life.cancel:
            self.step(life, "cancelled")
        elif not command.retry or life.attempts >= queue.max_attempts:
            self.step(life, "failed")
        else:
            ceiling = min(900, queue.backoff_seconds * 2 ** (life.attempts - 1))
            delay = int(command.draw() * ceiling * 1000)
            if command.delay_seconds is not None:
                delay = command.delay_seconds * 1000
            self.back(life, self.now + delay)

    def release(self, life: Life, command: Any) -> None:
        self.back(life, self.now)

    def extend(self, command: moves.Extend, given: Any) -> None:
        life = self.find(command.id)
        holds = life.receipt == command.receipt and life.status == "processing"
        if not holds or life.until <= self.now:
            raise No("lease_lost")
        life.until = self.now + command.lease_seconds * 1000
        assert given["cancel_requested"] == life.cancel

    def cancel(self, command: moves.Cancel, given: Any) -> None:
        life = self.find(command.id)
        if life.status in ("completed", "failed", "expired"):
            raise No("illegal_transition")
        if life.status == "pending":
            self.step(life, "cancelled")
        elif life.status == "processing" and not life.cancel:
            life.cancel = True
            self.step(life, "processing")
        message, done = given
        assert done == (life.status == "cancelled")
        assert (message["status"], message["cancel_requested"]) == (life.status, life.cancel)
        assert (message["version"], message["id"]) == (life.version, life.id)

    def retry(self, command: moves.Retry, given: Any) -> None:
        life = self.find(command.id)
        if life.status not in ("failed", "cancelled", "expired"):
            raise No("illegal_transition")
        if self.queues[life.queue].deleted:
            raise No("illegal_transition")
        self.revive(life)
        assert given["status"] == "pending"

    def revive(self, life: Life) -> None:
        self.reserve(life)
        self.fresh(life)
        if life.expires is not None and life.expires <= self.now:
            life.expires = None
        self.step(life, "pending")

    # --- sweeps -----------------------------------------------------------------------

    def reap(self, life: Life, command: Any) -> bool:
        if life.status != "processing" or life.until > self.now:
            return False
        life.lost += 1
        if not life.cancel and life.lost >= self.queues[life.queue].max_lost_leases:
            self.step(life, "failed")
        else:
            self.back(life, self.now)
        return True

    def expire(self, life: Life, command: Any) -> bool:
        if life.status != "pending" or life.expires is None or life.expires > self.now:
            return False
        self.step(life, "expired")
        return True

    def purge(self, life: Life, command: Any) -> bool:
        if life.status != "pending" or life.queue != command.queue_id:
            return False
        self.step(life, "cancelled")
        return True

    def redrive(self, life: Life, command: Any) -> bool:
        gone = self.queues[life.queue].deleted
        if life.status != "failed" or life.queue != command.queue_id or gone:
            return False
        self.revive(life)
        return True

    def prune(self, life: Life, command: Any, touched: Collection[str]) -> bool:
        over = life.status not in ("pending", "processing")
        kept = command.retention_days[life.queue] * DAY
        if not over or life.finished + kept > self.now or life.id in touched:
            return False
        del self.lives[life.id]
        self.keys = {
            key: found
            for key, found in self.keys.items()
            if json.loads(found[1]).get("id") != life.id
        }
        return True


# --- the walk -------------------------------------------------------------------------

NAMES = ("alpha", "beta", "gamma", "alpha", "beta", "gamma", "nowhere")
NOBODY = "01a1ff43-dd00-7b3e-8f21-4c5d6e7f8091"
LINES = (
    [("free", 2)],  # is never received, so never counted
    [("a", 1)],
    [("a", 2), ("b", 1)],
    [("b", 1), ("a", 1), ("b", 1)],
    [("c", 3), ("free", 1)],
)
choice = st.integers(0, 1_000)
more = st.sampled_from([False, False, True])


class Walk(RuleBasedStateMachine):
    """Commands in any order, several in a batch, compared with the model one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.model = Model(self.store.queues)
        self.batch: list[moves.Command] = []
        self.receipts: list[tuple[str, str]] = [(NOBODY, "x")]
        self.held: set[str] = set()

    @initialize(
        attempts=st.integers(1, 3),
        losses=st.integers(1, 3),
        backoff=st.sampled_from([0, 1, 600, 900]),
        on_hand=st.sampled_from([0, 4, 9]),
    )
    def begin(self, attempts: int, losses: int, backoff: int, on_hand: int) -> None:
        limits = {"max_attempts": attempts, "max_lost_leases": losses, "backoff_seconds": backoff}
        self.store.add(1, "alpha", lease_seconds=2, **limits)
        self.store.add(2, "beta", lease_seconds=5, backoff_seconds=0)
        self.store.add(3, "gamma", max_attempts=100, backoff_seconds=900)
        if on_hand:
            self.batch.append(moves.Receive("a", on_hand, "admin"))
        self.give("alpha", 4, LINES[2])
        self.give("beta", None, LINES[1])

    def give(self, queue: str, lives: int | None, lines: list[tuple[str, int]] = LINES[0]) -> None:
        """Something to work on, and somebody who works on it."""
        self.enqueue(queue, lines, None, None, lives, 0)
        self.commit()
        self.claim(queue, 1, None)
        self.commit()

    # --- choosing ---------------------------------------------------------------------

    def message(self, pick: int) -> str:
        """A message that there is, or sometimes one that there is not."""
        waiting = [one.id for one in self.batch if isinstance(one, moves.Enqueue)]
        known = [*sorted(self.store.rows, reverse=True), *waiting]
        return known[pick % len(known)] if known and pick % 20 != 19 else NOBODY

    def receipt(self, pick: int) -> tuple[str, str]:
        """A receipt, old or new; one that may still be good more often."""
        good = [(row.id, row.receipt) for row in self.store.rows.values() if row.receipt]
        if not good and not self.batch:
            self.give(NAMES[pick % 3], None, LINES[pick % 2])
            good = self.receipts[-1:]
        chosen = good if good and pick % 4 else self.receipts[-6:]
        return chosen[pick // 4 % len(chosen)]

    # --- rules ------------------------------------------------------------------------
    # Few rules with many choices inside: of many small rules a run would try only some.

    @rule(
        queue=st.sampled_from(NAMES),
        lines=st.sampled_from(LINES),
        key=st.sampled_from([None, None, None, "k1", "k2", "any"]),
        delay=st.sampled_from([None, None, 0, 3]),
        lives=st.sampled_from([None, None, None, 0, 2, 40]),
        priority=st.integers(0, 9),
        more=more,
    )
    def post(
        self,
        queue: str,
        lines: list[tuple[str, int]],
        key: str | None,
        delay: int | None,
        lives: int | None,
        priority: int,
        more: bool,
    ) -> None:
        if key is not None and key != "any":  # the same purchase again
            lines, delay, lives, priority = LINES[3], 1, None, 9
        self.enqueue(queue, lines, key, delay, lives, priority)
        self.end(more)

    @rule(
        queue=st.sampled_from(NAMES),
        most=st.integers(1, 4),
        lease=st.sampled_from([None, 1, 60]),
        more=more,
    )
    def lease(self, queue: str, most: int, lease: int | None, more: bool) -> None:
        self.claim(queue, most, lease)
        self.end(more)

    @rule(
        verb=st.sampled_from(["ack", "forward", "nack", "nack", "release", "extend"]),
        pick=choice,
        queue=st.sampled_from(NAMES),
        seconds=st.sampled_from([None, None, 0, 7]),
        retry=st.sampled_from([True, True, False]),
        draw=st.floats(0, 1, exclude_max=True),
        again=st.sampled_from([False, False, False, True]),
        more=more,
    )
    def work(
        self,
        verb: str,
        pick: int,
        queue: str,
        seconds: int | None,
        retry: bool,
        draw: float,
        again: bool,
        more: bool,
    ) -> None:
        held = self.receipt(pick)
        if verb in ("ack", "forward"):
            target = queue if verb == "forward" else None
            trap = {"receipt": "not the lease's", "n": pick}  # in the history, beside the real one
            command: moves.Command = moves.Ack(*held, "w", result=trap, forward_to=target)
        elif verb == "nack":
            command = moves.Nack(*held, "w", error="no", delay_seconds=seconds, retry=retry)
            command.draw = lambda: draw
        elif verb == "release":
            command = moves.Release(*held, "w")
        else:
            command = moves.Extend(*held, "w", lease_seconds=1 + (seconds or 0))
        self.batch += [command] * (2 if again else 1)
        self.end(more)

    @rule(verb=st.sampled_from(["cancel", "cancel", "retry"]), pick=choice, more=more)
    def shop(self, verb: str, pick: int, more: bool) -> None:
        message = self.message(pick)
        if verb == "cancel":
            self.batch.append(moves.Cancel(message, "shop"))
        else:
            self.batch.append(moves.Retry(message, "admin"))
        self.end(more)

    @rule(
        verb=st.sampled_from(["reap", "reap", "expire", "purge", "redrive", "redrive", "prune"]),
        queue=st.integers(1, 3),
        more=more,
    )
    def sweep(self, verb: str, queue: int, more: bool) -> None:
        """Over all rows: each is looked at again."""
        found = sorted(self.store.rows)
        days = dict.fromkeys(self.store.queues, queue)
        failed = [row.queue_id for row in self.store.rows.values() if row.status == "failed"]
        redriven = failed[queue % len(failed)] if failed else queue
        kinds: dict[str, moves.Command] = {
            "reap": moves.Reap(found),
            "expire": moves.Expire(found),
            "purge": moves.Purge(found, "admin", queue_id=queue),
            "redrive": moves.Redrive(found, "admin", queue_id=redriven),
            "prune": moves.Prune(found, retention_days=days),
        }
        self.batch.append(kinds[verb])
        self.end(more)

    @rule(
        verb=st.sampled_from(["receive", "receive", "adjust", "set_low"]),
        sku=st.sampled_from(["a", "a", "b", "c"]),
        n=st.integers(0, 9),
        key=st.sampled_from([None, None, "k1"]),
        more=more,
    )
    def shelf(self, verb: str, sku: str, n: int, key: str | None, more: bool) -> None:
        """What is counted is counted anew; only the first receive makes it counted."""
        quantity = 1 + n % (2 if key else 3)
        level = self.store.levels.get(sku)
        counted = 0 if level is None else level.on_hand
        commands: dict[str, moves.Command] = {
            "receive": moves.Receive(sku, quantity, "admin", key=key, fingerprint=str(quantity)),
            "adjust": moves.Adjust(sku, n, counted + (n == 3), "counted", "admin"),
            "set_low": moves.SetLow(sku, n if n < 9 else None),
        }
        self.batch.append(commands[verb])
        self.end(more)

    @rule(millis=st.sampled_from([1, 999, 1_000, 2_000, 4_000, 61_000, 900_000, DAY]))
    def wait(self, millis: int) -> None:
        self.commit()
        self.store.now += millis

    @rule(kind=st.integers(0, 9), pick=choice)
    def world(self, kind: int, pick: int) -> None:
        """A queue is paused, goes on, or goes for good; another process holds a row."""
        if kind < 3:
            self.held = {self.message(pick)}
            return
        self.commit()
        if kind < 6:
            self.store.change(1 + pick % 3, paused=kind == 4)
        elif kind < 8:
            self.store.change(1 + pick % 2, deleted=True)
        elif kind == 8 and "alpha" not in self.store.registry.by_name:
            self.store.add(len(self.store.queues) + 1, "alpha")

    # --- commands ---------------------------------------------------------------------

    def enqueue(
        self,
        queue: str,
        lines: list[tuple[str, int]],
        key: str | None,
        delay: int | None,
        lives: int | None,
        priority: int,
    ) -> None:
        wish = purchase(*lines, delay_seconds=delay, priority=priority)
        if lives is not None:
            wish = wish.model_copy(update={"expires_at": self.store.now + lives * 1000})
        if key == "k1":
            wish = wish.model_copy(update={"expires_at": NOW + 70_000})
        self.batch.append(moves.Enqueue(queue, wish, "shop", key))

    def claim(self, queue: str, most: int, lease: int | None) -> None:
        self.batch.append(moves.Claim(queue, most, lease, "w1", "worker"))

    def end(self, more: bool) -> None:
        if not more:
            self.commit()

    # --- comparing --------------------------------------------------------------------

    def commit(self) -> None:
        commands, self.batch = self.batch, []
        held, self.held = self.held & self.store.rows.keys(), set()
        most = Counter[str]()
        for command in commands:
            if isinstance(command, moves.Claim):
                most[command.queue] += command.max
        self.model.begin(self.store.now, most, held)
        before = {life.id: life.version for life in self.model.lives.values()}
        for command, given in zip(commands, self.store.run(*commands, held=held), strict=True):
            self.compare(command, given, held, before)
            if isinstance(command, moves.Claim) and isinstance(given, list):
                self.receipts += [(one["id"], one["receipt"]) for one in given]

    def compare(
        self, command: moves.Command, given: Any, held: set[str], before: dict[str, int]
    ) -> None:
        if isinstance(command, moves.OnOne) and command.id in held:
            assert isinstance(given, HeldElsewhere)
            return
        expected = self.refusal(command, given, held, before)
        found = given.code if isinstance(given, Problem) else None
        assert found == expected, command

    def refusal(
        self, command: moves.Command, given: Any, held: set[str], before: dict[str, int]
    ) -> str | None:
        """The code with which the model refuses a command; None if it agrees with the answer."""
        try:
            self.predict(command, given, held, before)
        except No as no:
            return no.args[0]
        return None

    def predict(
        self, command: moves.Command, given: Any, held: set[str], before: dict[str, int]
    ) -> None:
        """The model does what the command did. Raises No where it should be refused."""
        if isinstance(command, moves.Sweep):
            moved, refused = self.swept(command, held, before)
            assert given == ((moved, refused) if isinstance(command, moves.Redrive) else moved)
            return
        worker = isinstance(command, moves.Settle) and command.verb != "extend"
        verb = getattr(self.model, "settle" if worker else command.verb)
        # A refusal changes nothing: the model refuses before it reads the answer.
        verb(command, _Refused() if isinstance(given, Problem) else given)

    def swept(
        self, command: moves.Sweep, held: set[str], before: dict[str, int]
    ) -> tuple[int, int]:
        lives = [self.model.lives.get(one) for one in command.found if one not in held]
        touched = [
            life.id for life in self.model.lives.values() if life.version != before.get(life.id)
        ]
        verb = getattr(self.model, command.verb)
        rest: Iterable[Any] = [touched] if command.verb == "prune" else []
        moved = refused = 0
        for life in lives:
            try:
                moved += life is not None and verb(life, command, *rest)
            except No:
                refused += 1
        return moved, refused

    @invariant()
    def same(self) -> None:
        """Every row stands where the model's does, and everything that must hold holds."""
        if self.batch:
            return
        self.store.check()
        levels = self.store.levels.values()
        assert {one.sku: one.on_hand for one in levels} == self.model.on_hand
        assert {one.sku: one.reserved for one in levels if one.reserved} == +self.model.reserved
        assert self.store.rows.keys() == self.model.lives.keys()
        for row in self.store.rows.values():
            life = self.model.lives[row.id]
            assert (row.status.value, row.version, row.queue_id) == (
                life.status,
                life.version,
                life.queue,
            ), (row, life)
            assert (row.attempts, row.lost_leases, row.lease_epoch) == (
                life.attempts,
                life.lost,
                life.epoch,
            )
            assert (row.available_at, row.entered_at, row.expires_at) == (
                life.due,
                life.entered,
                life.expires,
            )
            assert row.receipt == life.receipt, (row, life)
            assert (row.cancel_requested_at is not None) == life.cancel
            assert row.status is not Status.PROCESSING or row.lease_expires_at == life.until

    def teardown(self) -> None:
        self.commit()
        self.same()


class _Refused:
    """What a refused command answered: reading it means that the model would have agreed."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError("refused, though the model allows it")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("refused, though the model allows it")

    def __hash__(self) -> int:
        return 0
