"""What may happen to a message: every move of its life, decided without I/O.

A batch of commands works on one `Desk`: one copy of each row, the queues, one `now`.
Commands run in order of arrival and each sees what those before it decided. What they
decided (rows, events, counters) is written by the writer in one transaction.

    new ─▶ pending ─▶ processing ─▶ completed
              │ ▲          │ │ └──▶ failed, cancelled, expired
              │ └──────────┘ └────▶ pending in the next queue
              └──▶ cancelled, expired        failed, cancelled, expired ─▶ pending
"""

import hashlib
import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from pydantic_core import from_json, to_json

from carts import Cart
from catalogue import Terms
from errors import (
    CustomerInactive,
    IdempotencyKeyReused,
    IllegalTransition,
    Invalid,
    LeaseLost,
    NotFound,
    NotOnSale,
    OutOfStock,
    Problem,
    VersionMismatch,
)
from events import Counters, Event
from ids import new_id
from instants import DAY, stamp, stamp_or_none
from models import FINISHED, MOVES, Status
from schemas import MAX_CENTS, Item, Purchase, fingerprint_of
from stock import KnownMovement, Origin, Shelf, stock_shape

MAX_BACKOFF_SECONDS = 900
LATE = "the lease ran out"


# --- receipts -------------------------------------------------------------------------


def new_receipt() -> str:
    return secrets.token_urlsafe(18)


def receipt_mark(receipt: str) -> str:
    """What the log keeps of a receipt: enough to know it again, nothing to use it with."""
    return hashlib.sha256(receipt.encode()).hexdigest()[:32]


# --- what is on the desk --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """A queue as decisions see it."""

    id: int
    name: str
    lease_seconds: int
    max_attempts: int
    max_lost_leases: int
    backoff_seconds: int
    paused: bool
    deleted: bool


@dataclass(frozen=True, slots=True)
class Registry:
    """All queues at one version of the stream row."""

    version: int
    by_id: Mapping[int, QueueFacts]
    by_name: Mapping[str, QueueFacts]  # the live ones


@dataclass(slots=True)
class Message:
    """A copy of a row of `messages`, in the order of its columns."""

    id: str
    queue_id: int
    status: Status
    version: int
    customer: str
    items: str
    total_cents: int | None
    currency: str
    reference: str | None
    idempotency_key: str | None
    metadata: str
    priority: int
    group: str | None
    attempts: int
    lost_leases: int
    available_at: int
    entered_at: int
    expires_at: int | None
    cancel_requested_at: int | None
    lease_epoch: int
    receipt: str | None
    worker: str | None
    lease_expires_at: int | None
    last_error: str | None
    result: str | None
    reserved: str | None
    until_claimed: bool
    created_at: int
    updated_at: int
    finished_at: int | None

    def lines(self) -> list[tuple[str, int]]:
        """SKU and quantity of each line."""
        return [(item["sku"], item["quantity"]) for item in from_json(self.items)]

    def held(self) -> dict[str, int]:
        """What stock holds for it."""
        return {} if self.reserved is None else from_json(self.reserved)


@dataclass(frozen=True, slots=True)
class Ended:
    """A lease that an event of its order ended: by which verb, with which answer."""

    verb: str
    answer: dict[str, Any]


@dataclass(frozen=True, slots=True)
class KnownKey:
    """An idempotency key that an earlier transaction stored, and what its first answer was."""

    fingerprint: str
    message: Message
    queue: str
    created: Mapping[str, Any]  # data of `order.created`


class Held(Exception):
    """A row is locked by somebody else: the command goes into the next batch."""


class QueueUnknown(NotFound):
    """No queue of that name, as far as the registry at hand knows."""


@dataclass(slots=True)
class Desk:
    """The working state of one batch."""

    now: int
    registry: Registry
    rows: dict[str, Message] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    ended: dict[str, dict[str, Ended]] = field(default_factory=dict)  # id → mark → how
    known_keys: dict[str, KnownKey | KnownMovement] = field(default_factory=dict)
    shelf: Shelf = field(default_factory=Shelf)
    terms: Mapping[str, Terms] = field(default_factory=dict)  # of sale, by SKU
    inactive: frozenset[str] = frozenset()  # customers who place no orders
    carts: dict[str, Cart] = field(default_factory=dict)  # of those who check out, locked
    held_carts: frozenset[str] = frozenset()  # customers whose cart somebody else holds
    candidates: dict[int, list[str]] = field(default_factory=dict)  # queue id → ids to claim
    # what was decided
    new: dict[str, Message] = field(default_factory=dict)
    new_keys: dict[str, "Keyed"] = field(default_factory=dict)
    received: dict[str, KnownMovement] = field(default_factory=dict)  # under new keys
    touched: set[str] = field(default_factory=set)
    removed: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    counters: Counters = field(default_factory=Counters)
    claimed_from: set[int] = field(default_factory=set)
    queue_missed: bool = False

    def queue(self, name: str) -> QueueFacts:
        facts = self.registry.by_name.get(name)
        if facts is None:
            self.queue_missed = True
            raise QueueUnknown(f"There is no queue '{name}'.")
        return facts

    def queue_of(self, row: Message) -> QueueFacts:
        return self.registry.by_id[row.queue_id]

    def row(self, message_id: str) -> Message:
        if message_id in self.held:
            raise Held(message_id)
        try:
            return self.rows[message_id]
        except KeyError:
            raise NotFound("There is no such message.") from None

    def cart(self, customer: str) -> Cart:
        if customer in self.held_carts:
            raise Held(customer)
        return self.carts.get(customer) or Cart(customer, 0, [])

    @property
    def wrote(self) -> bool:
        return bool(self.new or self.touched or self.removed or self.shelf.changed)


# --- shapes ---------------------------------------------------------------------------


def message_shape(row: Message, queue: str) -> dict[str, Any]:
    """A `Message` as staff see it."""
    leased = row.status is Status.PROCESSING
    return {
        "id": row.id,
        "reference": row.reference,
        "customer": row.customer,
        "queue": queue,
        "status": row.status.value,
        "version": row.version,
        "cancel_requested": row.cancel_requested_at is not None,
        "items": from_json(row.items),
        "total_cents": row.total_cents,
        "currency": row.currency,
        "priority": row.priority,
        "group": row.group,
        "metadata": from_json(row.metadata),
        "idempotency_key": row.idempotency_key,
        "attempts": row.attempts,
        "lost_leases": row.lost_leases,
        "available_at": stamp(row.available_at),
        "expires_at": stamp_or_none(row.expires_at),
        # After a lost lease the row keeps the worker with the receipt; the lease is over.
        "worker": row.worker if leased else None,
        "lease_expires_at": stamp_or_none(row.lease_expires_at),
        "last_error": row.last_error,
        "result": None if row.result is None else from_json(row.result),
        "created_at": stamp(row.created_at),
        "updated_at": stamp(row.updated_at),
        "finished_at": stamp_or_none(row.finished_at),
    }


ORDER_FIELDS = (
    "id",
    "reference",
    "customer",
    "queue",
    "status",
    "version",
    "cancel_requested",
    "items",
    "total_cents",
    "currency",
    "available_at",
    "expires_at",
)


def order_shape(message: Mapping[str, Any]) -> dict[str, Any]:
    """An `Order`: a `Message` as its customer sees it. The place in the line is not known here."""
    return {
        **{name: message[name] for name in ORDER_FIELDS},
        "position": None,
        "position_exact": None,
        "eta_seconds": None,
        "created_at": message["created_at"],
        "updated_at": message["updated_at"],
        "finished_at": message["finished_at"],
    }


def settled_shape(row: Message, queue: str) -> dict[str, Any]:
    return {"id": row.id, "queue": queue, "status": row.status.value, "version": row.version}


def event_data(
    row: Message, queue: str, before: str | None, status: Status | None, reason: str | None
) -> dict[str, Any]:
    """The data of `order.*`: nothing that a customer must not see."""
    return {
        "id": row.id,
        "reference": row.reference,
        "customer": row.customer,
        "queue": queue,
        "previous_queue": before,
        "status": row.status.value,
        "previous_status": None if status is None else status.value,
        "reason": reason,
        "version": row.version,
        "cancel_requested": row.cancel_requested_at is not None,
        "items": from_json(row.items) if status is None else None,
        "total_cents": row.total_cents,
        "currency": row.currency,
        "available_at": stamp(row.available_at),
        "expires_at": stamp_or_none(row.expires_at),
        "created_at": stamp(row.created_at),
        "updated_at": stamp(row.updated_at),
        "finished_at": stamp_or_none(row.finished_at),
    }


# --- one move -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a move is made: what staff's history says, and the lease it ends."""

    actor: str | None = None
    worker: str | None = None
    error: str | None = None
    result: Any = None
    reason: str | None = None
    receipt: str | None = None  # the lease that ends
    verb: str | None = None  # by which call

    def detail(self) -> str:
        said = {
            "actor": self.actor,
            "worker": self.worker,
            "error": self.error,
            "result": self.result,
        }
        if self.receipt is not None and self.verb is not None:
            said |= {"receipt": receipt_mark(self.receipt), "verb": self.verb}
        return to_json({name: value for name, value in said.items() if value is not None}).decode()


def move(
    desk: Desk, row: Message, to: Status, kind: str, cause: Cause, into: int | None = None
) -> None:
    """Make one legal move of a row on the desk, with its event and its counts.

    The caller has set the fields that belong to the move; this sets what every move sets.
    """
    status, queue_id = row.status, row.queue_id
    assert (status, to) in MOVES, f"{status} -> {to}"
    row.status = to
    row.queue_id = queue_id if into is None else into
    row.version += 1
    row.updated_at = desk.now
    row.finished_at = desk.now if to in FINISHED else None
    if to is not Status.PROCESSING:
        row.lease_expires_at = None
        row.cancel_requested_at = None
    desk.counters.add(queue_id, status.value, -1)
    desk.counters.add(row.queue_id, to.value, 1)
    desk.touched.add(row.id)
    _record(desk, row, kind, cause, desk.registry.by_id[queue_id].name, status)


def _record(
    desk: Desk, row: Message, kind: str, cause: Cause, before: str, status: Status | None
) -> None:
    queue = desk.queue_of(row).name
    data = event_data(row, queue, None if status is None else before, status, cause.reason)
    due = row.status is Status.PENDING and row.available_at <= desk.now
    event = Event(
        type=kind,
        subject=f"order:{row.id}",
        data=to_json(data).decode(),
        message=row.id,
        queue=queue,
        from_queue=before,
        customer=row.customer,
        detail=cause.detail(),
        wakes=queue if due else None,
    )
    desk.events.append(event)


def _end_lease(desk: Desk, row: Message, cause: Cause) -> None:
    """Remember how a lease ended, for the same call in the same batch, and clear it."""
    if cause.receipt is not None and cause.verb is not None:
        answer = settled_shape(row, desk.queue_of(row).name)
        ends = desk.ended.setdefault(row.id, {})
        ends[receipt_mark(cause.receipt)] = Ended(cause.verb, answer)
    row.receipt = None
    row.worker = None


def _finish(desk: Desk, row: Message, to: Status, cause: Cause) -> None:
    # A reason is what brought a message back to pending; here it did not get there.
    move(desk, row, to, f"order.{to.value}", replace(cause, reason=None))
    _end_lease(desk, row, cause)
    _settle_stock(desk, row, cause)


def _settle_stock(desk: Desk, row: Message, cause: Cause) -> None:
    """The one end of a reservation: sold if the purchase is done, else free again."""
    held, row.reserved = row.held(), None
    if row.status is Status.COMPLETED:
        origins = {sku: Origin(new_id(), cause.actor, message=row.id) for sku in held}
        desk.shelf.commit(held, origins)
    else:
        desk.shelf.release(held)


def _reserve(desk: Desk, row: Message) -> None:
    """
    Raises:
        OutOfStock: nothing is held then.
    """
    held = desk.shelf.reserve(row.lines())
    row.reserved = to_json(held).decode() if held else None


def _requeue(desk: Desk, row: Message, cause: Cause, available_at: int) -> None:
    row.available_at = available_at
    move(desk, row, Status.PENDING, "order.requeued", cause)
    _end_lease(desk, row, cause)


def _put_back(desk: Desk, row: Message, cause: Cause, available_at: int) -> None:
    """On the way back to pending: where a wish to cancel, or the time, is heard."""
    if row.expires_at is not None and row.expires_at <= desk.now:
        _finish(desk, row, Status.EXPIRED, cause)
    elif desk.queue_of(row).deleted:
        _finish(desk, row, Status.CANCELLED, replace(cause, error="the queue was deleted"))
    else:
        _requeue(desk, row, cause, available_at)


def backoff_ms(queue: QueueFacts, attempts: int, draw: Callable[[], float]) -> int:
    """Exponential backoff with full jitter (M. Brooker, AWS Architecture Blog, 2015)."""
    ceiling = min(queue.backoff_seconds * 2 ** (attempts - 1), MAX_BACKOFF_SECONDS)
    return int(draw() * ceiling * 1000)


# --- commands -------------------------------------------------------------------------


@dataclass(slots=True)
class Command:
    """One wish. `decide` answers it or raises a Problem; the answer is given after the commit.

    `moves` is how many rows it may write, `abandoned` says whether its caller has gone.
    """

    verb: ClassVar[str]
    patient: ClassVar[bool] = True  # waits for rows that another process holds

    @property
    def ids(self) -> Sequence[str]:
        """The rows it names."""
        return ()

    @property
    def moves(self) -> int:
        return 1

    @property
    def size(self) -> int:
        """Bytes of events it may write, roughly."""
        return 1_500 * self.moves

    def skus(self, desk: Desk) -> Iterable[str]:
        """Whose stock it may change; here: what is held for the rows it names."""
        for message_id in self.ids:
            row = desk.rows.get(message_id)
            if row is not None:
                yield from row.held()

    def decide(self, desk: Desk) -> Any:
        raise NotImplementedError


class Keyed(Command):
    """A command that makes something, once for each idempotency key."""

    account: str
    key: str | None
    fingerprint: str  # of what was posted, without the key
    id: str  # of what is made

    def scoped_key(self, registry: Registry) -> str | None:
        """The key in its scope; None without a key, or without anything to post to."""
        raise NotImplementedError

    def demand_same(self, fingerprint: str) -> None:
        """
        Raises:
            IdempotencyKeyReused: the key came with something else before.
        """
        if fingerprint != self.fingerprint:
            raise IdempotencyKeyReused


def known_answer(known: KnownKey) -> dict[str, Any]:
    """The first answer to a purchase, made again from what never changes."""
    first = replace(
        known.message,
        status=Status.PENDING,
        version=1,
        attempts=0,
        lost_leases=0,
        cancel_requested_at=None,
        lease_expires_at=None,
        last_error=None,
        result=None,
        updated_at=known.message.created_at,
        finished_at=None,
    )
    shape = message_shape(first, known.queue)
    for name in ("queue", "available_at", "expires_at"):
        shape[name] = known.created[name]
    return shape


@dataclass(frozen=True, slots=True)
class Posted:
    """An answer to a keyed call. `replayed`: an earlier one with this key had made it."""

    shape: dict[str, Any]
    replayed: bool


@dataclass(slots=True)
class Enqueue(Keyed):
    verb: ClassVar[str] = "enqueue"

    queue: str
    purchase: Purchase
    account: str
    key: str | None = None
    fingerprint: str = ""
    id: str = field(default_factory=new_id)
    items: str = ""
    metadata: str = ""

    def __post_init__(self) -> None:
        self.items = to_json(self.purchase.items).decode()
        self.metadata = to_json(self.purchase.metadata).decode()
        if self.key is not None:
            self.fingerprint = self.purchase.fingerprint()

    @property
    def size(self) -> int:
        return 1_200 + len(self.items)

    def skus(self, desk: Desk) -> Iterable[str]:
        return [item.sku for item in self.purchase.items]

    def scoped_key(self, registry: Registry) -> str | None:
        queue = registry.by_name.get(self.queue)
        if self.key is None or queue is None:
            return None
        return f"{self.account} {queue.id} {self.key}"

    def decide(self, desk: Desk) -> Posted:
        queue = desk.queue(self.queue)
        scoped = self.scoped_key(desk.registry)
        if scoped is not None and (earlier := self._earlier(desk, scoped)) is not None:
            return earlier
        self._check(desk)
        row = self._row(desk, queue)
        _reserve(desk, row)
        desk.new[row.id] = row
        desk.rows[row.id] = row
        if scoped is not None:
            desk.new_keys[scoped] = self
        desk.counters.add(queue.id, Status.PENDING.value, 1)
        _record(desk, row, "order.created", Cause(actor=self.account), queue.name, None)
        return Posted(message_shape(row, queue.name), replayed=False)

    def _earlier(self, desk: Desk, scoped: str) -> Posted | None:
        known, first = desk.known_keys.get(scoped), desk.new_keys.get(scoped)
        if isinstance(known, KnownKey):
            self.demand_same(known.fingerprint)
            return Posted(known_answer(known), replayed=True)
        if isinstance(first, Enqueue):
            self.demand_same(first.fingerprint)
            queue = desk.registry.by_name[self.queue]
            row = first._row(desk, queue)
            return Posted(message_shape(row, queue.name), replayed=True)
        return None

    def _check(self, desk: Desk) -> None:
        expires = self.purchase.expires_at
        if expires is not None and expires <= desk.now:
            raise Invalid.at("expires_at must be in the future", pointer="#/expires_at")
        check_terms(desk, self.purchase.items)

    @property
    def until_claimed(self) -> bool:
        """Whether the first claim clears `expires_at`."""
        return False

    def _expiry(self, now: int) -> int | None:
        return self.purchase.expires_at

    def _row(self, desk: Desk, queue: QueueFacts) -> Message:
        purchase, now = self.purchase, desk.now
        return Message(
            id=self.id,
            queue_id=queue.id,
            status=Status.PENDING,
            version=1,
            customer=purchase.customer,
            items=self.items,
            total_cents=purchase.total_cents(),
            currency=purchase.currency,
            reference=purchase.reference,
            idempotency_key=self.key,
            metadata=self.metadata,
            priority=purchase.priority,
            group=purchase.group,
            attempts=0,
            lost_leases=0,
            available_at=now + (purchase.delay_seconds or 0) * 1000,
            entered_at=now,
            expires_at=self._expiry(now),
            cancel_requested_at=None,
            lease_epoch=0,
            receipt=None,
            worker=None,
            lease_expires_at=None,
            last_error=None,
            result=None,
            reserved=None,
            until_claimed=self.until_claimed,
            created_at=now,
            updated_at=now,
            finished_at=None,
        )


def check_terms(desk: Desk, items: Sequence[Item]) -> None:
    """Whether the catalogue lets these lines be sold now; what it does not list, it does.

    Raises:
        Invalid: more than one may have at once.
        NotOnSale: it is not on sale, or not yet.
    """
    wanted: dict[str, int] = {}
    closed: list[dict[str, Any]] = []
    for place, item in enumerate(items):
        terms = desk.terms.get(item.sku)
        if terms is None:
            continue
        wanted[item.sku] = wanted.get(item.sku, 0) + item.quantity
        most = terms.max_per_order
        if most is not None and wanted[item.sku] > most:
            raise Invalid.at(f"at most {most} an order", pointer=f"#/items/{place}")
        if not terms.on_sale(desk.now):
            fault = {"detail": terms.why_not(desk.now), "sku": item.sku}
            closed.append({"pointer": f"#/items/{place}", **fault})
    if closed:
        raise NotOnSale(f"{closed[0]['sku']}: {closed[0]['detail']}", errors=closed)


@dataclass(slots=True)
class PlaceOrder(Enqueue):
    """A purchase whose prices come from the catalogue, as they are when it is accepted."""

    verb: ClassVar[str] = "place_order"

    ttl_seconds: int = 0  # 0: it waits for ever
    seen_cents: int | None = None  # the total that the buyer was shown; None: he does not say

    def __post_init__(self) -> None:
        Enqueue.__post_init__(self)  # `super()` cannot be used in a dataclass with slots
        if self.key is not None:
            # The same lines posted as a purchase, without prices, are something else.
            self.fingerprint = fingerprint_of({"order": self.fingerprint})

    @property
    def until_claimed(self) -> bool:
        return self.ttl_seconds > 0

    def _check(self, desk: Desk) -> None:
        if self.purchase.customer in desk.inactive:
            raise CustomerInactive
        lines = [self._priced(desk, place) for place in range(len(self.purchase.items))]
        currencies = [currency for _, currency in lines]
        for place, currency in enumerate(currencies):
            if currency != currencies[0]:
                raise Invalid.at("not in the currency of the first", pointer=f"#/items/{place}")
        Enqueue._check(self, desk)
        changes = {"items": [item for item, _ in lines], "currency": currencies[0]}
        self.purchase = self.purchase.model_copy(update=changes)
        if self.seen_cents not in (None, self.purchase.total_cents()):
            raise VersionMismatch("The total is another by now.")
        self.items = to_json(self.purchase.items).decode()

    def _priced(self, desk: Desk, place: int) -> tuple[Item, str]:
        item = self.purchase.items[place]
        terms = desk.terms.get(item.sku)
        if terms is None:
            raise Invalid.at("There is no such product.", pointer=f"#/items/{place}")
        amount = item.quantity * terms.price_cents
        if amount > MAX_CENTS:
            raise Invalid.at("The line's total is too large.", pointer=f"#/items/{place}")
        return item.model_copy(update={"amount_cents": amount}), terms.currency

    def _expiry(self, now: int) -> int | None:
        return now + self.ttl_seconds * 1000 if self.ttl_seconds else None


@dataclass(slots=True)
class Checkout(PlaceOrder):
    """A cart as one purchase, and its lines out of it, in one transaction.

    What is bought is what lies in the cart under its lock; `if_match` says which version of
    it the caller has seen. The key stands for the call and not for the lines: when it comes
    again they are gone.
    """

    verb: ClassVar[str] = "checkout"

    if_match: int | None = None

    @classmethod
    def of(cls, customer: str, reference: str | None, **more: Any) -> "Checkout":
        bare = Purchase.model_construct(customer=customer, items=[], reference=reference)
        return cls(purchase=bare, **more)

    def __post_init__(self) -> None:
        PlaceOrder.__post_init__(self)
        if self.key is not None:
            self.fingerprint = fingerprint_of({"checkout": self.fingerprint})

    @property
    def size(self) -> int:
        return 12_000  # of a full cart; what lies in it is not known yet

    def skus(self, desk: Desk) -> Iterable[str]:
        cart = desk.carts.get(self.purchase.customer)
        return [] if cart is None else [sku for sku, _ in cart.lines]

    def decide(self, desk: Desk) -> Posted:
        posted = PlaceOrder.decide(self, desk)
        if not posted.replayed:
            desk.carts[self.purchase.customer].buy()
        return posted

    def _check(self, desk: Desk) -> None:
        cart = desk.cart(self.purchase.customer)
        if self.if_match is not None and cart.version != self.if_match:
            raise VersionMismatch
        if not cart.lines:
            raise Invalid("The cart is empty.")
        lines = [Item(sku=sku, quantity=quantity) for sku, quantity in cart.lines]
        self.purchase = self.purchase.model_copy(update={"items": lines})
        PlaceOrder._check(self, desk)


@dataclass(slots=True)
class Claim(Command):
    verb: ClassVar[str] = "claim"

    queue: str
    max: int
    lease_seconds: int | None
    worker: str
    account: str
    gone: Callable[[], bool] = lambda: False

    @property
    def moves(self) -> int:
        return self.max

    def decide(self, desk: Desk) -> list[dict[str, Any]]:
        queue = desk.queue(self.queue)
        if self.gone() or queue.paused:
            return []
        desk.claimed_from.add(queue.id)
        lease = (self.lease_seconds or queue.lease_seconds) * 1000
        waiting = desk.candidates.get(queue.id, [])
        taken: list[dict[str, Any]] = []
        while waiting and len(taken) < self.max:
            row = desk.rows[waiting.pop(0)]
            if self._claimable(row, queue, desk.now):
                taken.append(self._lease(desk, row, queue, desk.now + lease))
        return taken

    @staticmethod
    def _claimable(row: Message, queue: QueueFacts, now: int) -> bool:
        return (
            row.status is Status.PENDING
            and row.queue_id == queue.id
            and row.available_at <= now
            and (row.expires_at is None or row.expires_at > now)
        )

    def _lease(self, desk: Desk, row: Message, queue: QueueFacts, until: int) -> dict[str, Any]:
        row.lease_epoch += 1
        row.receipt = new_receipt()
        row.worker = self.worker
        row.lease_expires_at = until
        if row.until_claimed:
            row.expires_at = None
        cause = Cause(actor=self.account, worker=self.worker)
        move(desk, row, Status.PROCESSING, "order.processing", cause)
        shape = message_shape(row, queue.name)
        return {**shape, "receipt": row.receipt, "lease_epoch": row.lease_epoch}


@dataclass(slots=True)
class OnOne(Command):
    """A command that names one message."""

    id: str

    @property
    def ids(self) -> Sequence[str]:
        return (self.id,)


@dataclass(slots=True)
class Settle(OnOne):
    """A worker's call: only the holder of the last receipt is heard."""

    late: ClassVar[bool] = True  # still accepted after the lease ran out

    receipt: str
    account: str

    def decide(self, desk: Desk) -> dict[str, Any]:
        row = desk.row(self.id)
        ended = desk.ended.get(self.id, {}).get(receipt_mark(self.receipt))
        if ended is not None and ended.verb == self.verb:
            return ended.answer
        if not self._holds(row, desk.now):
            raise LeaseLost(data={"current": row.status.value})
        return self.settle(desk, row)

    def _holds(self, row: Message, now: int) -> bool:
        # As bytes: of texts that are not ASCII it compares none.
        if row.receipt is None or not secrets.compare_digest(
            row.receipt.encode(), self.receipt.encode()
        ):
            return False
        if self.late:
            return row.status in (Status.PROCESSING, Status.PENDING)
        expires = row.lease_expires_at
        return row.status is Status.PROCESSING and expires is not None and expires > now

    def settle(self, desk: Desk, row: Message) -> dict[str, Any]:
        raise NotImplementedError

    def cause(self, row: Message, **more: Any) -> Cause:
        return Cause(
            actor=self.account, worker=row.worker, receipt=self.receipt, verb=self.verb, **more
        )

    def answer(self, desk: Desk, row: Message) -> dict[str, Any]:
        return settled_shape(row, desk.queue_of(row).name)


@dataclass(slots=True)
class Ack(Settle):
    verb: ClassVar[str] = "ack"

    result: Any = None
    forward_to: str | None = None

    def settle(self, desk: Desk, row: Message) -> dict[str, Any]:
        target = None if self.forward_to is None else self._target(desk, row)
        cause = self.cause(row, result=self.result)
        if self.result is not None:
            row.result = to_json(self.result).decode()
        if target is None:
            _finish(desk, row, Status.COMPLETED, cause)
        elif row.cancel_requested_at is not None:
            _finish(desk, row, Status.CANCELLED, cause)
        else:
            self._forward(desk, row, target, cause)
        return self.answer(desk, row)

    def _target(self, desk: Desk, row: Message) -> QueueFacts:
        name = self.forward_to or ""
        queue = desk.registry.by_name.get(name)
        if queue is None:
            desk.queue_missed = True
            raise Invalid.at(f"There is no queue '{name}'.", pointer="#/forward_to")
        if queue.id == row.queue_id:
            raise Invalid.at("The message is in this queue already.", pointer="#/forward_to")
        return queue

    def _forward(self, desk: Desk, row: Message, target: QueueFacts, cause: Cause) -> None:
        _start_over(row, desk.now)
        move(desk, row, Status.PENDING, "order.forwarded", cause, into=target.id)
        _end_lease(desk, row, cause)


def _start_over(row: Message, now: int) -> None:
    row.attempts = 0
    row.lost_leases = 0
    row.available_at = now
    row.entered_at = now


@dataclass(slots=True)
class Nack(Settle):
    verb: ClassVar[str] = "nack"

    error: str = ""
    delay_seconds: int | None = None
    retry: bool = True
    draw: Callable[[], float] = random.random

    def settle(self, desk: Desk, row: Message) -> dict[str, Any]:
        queue = desk.queue_of(row)
        row.attempts += 1
        row.last_error = self.error
        cause = self.cause(row, error=self.error, reason="nack")
        if row.cancel_requested_at is not None:
            _finish(desk, row, Status.CANCELLED, cause)
        elif not self.retry or row.attempts >= queue.max_attempts:
            _finish(desk, row, Status.FAILED, cause)
        else:
            _put_back(desk, row, cause, desk.now + self._delay(queue, row))
        return self.answer(desk, row)

    def _delay(self, queue: QueueFacts, row: Message) -> int:
        if self.delay_seconds is not None:
            return self.delay_seconds * 1000
        return backoff_ms(queue, row.attempts, self.draw)


@dataclass(slots=True)
class Release(Settle):
    verb: ClassVar[str] = "release"
    late: ClassVar[bool] = False

    def settle(self, desk: Desk, row: Message) -> dict[str, Any]:
        cause = self.cause(row, reason="released")
        if row.cancel_requested_at is not None:
            _finish(desk, row, Status.CANCELLED, cause)
        else:
            _put_back(desk, row, cause, desk.now)
        return self.answer(desk, row)


@dataclass(slots=True)
class Extend(Settle):
    verb: ClassVar[str] = "extend"
    late: ClassVar[bool] = False

    lease_seconds: int = 30

    def skus(self, desk: Desk) -> Iterable[str]:
        return ()

    def settle(self, desk: Desk, row: Message) -> dict[str, Any]:
        row.lease_expires_at = desk.now + self.lease_seconds * 1000
        desk.touched.add(row.id)
        return {
            "lease_expires_at": stamp(row.lease_expires_at),
            "cancel_requested": row.cancel_requested_at is not None,
        }


@dataclass(slots=True)
class OnOrder(OnOne):
    """A call of a producer, an admin or the customer himself."""

    account: str
    if_match: int | None = None
    customer: str | None = None  # only his own; another's is not there

    def find(self, desk: Desk) -> Message:
        row = desk.row(self.id)
        if self.customer is not None and row.customer != self.customer:
            raise NotFound("There is no such message.")
        if self.if_match is not None and row.version != self.if_match:
            raise VersionMismatch
        return row


@dataclass(slots=True)
class Cancel(OnOrder):
    """Answers (message, whether it is done): a lease that lives is only asked."""

    verb: ClassVar[str] = "cancel"

    reason: str | None = None

    def decide(self, desk: Desk) -> tuple[dict[str, Any], bool]:
        row = self.find(desk)
        cause = Cause(actor=self.account, error=self.reason)
        if row.status is Status.PENDING:
            _finish(desk, row, Status.CANCELLED, cause)
        elif row.status is Status.PROCESSING and row.cancel_requested_at is None:
            row.cancel_requested_at = desk.now
            move(desk, row, Status.PROCESSING, "order.cancel_requested", cause)
        elif row.status not in (Status.PROCESSING, Status.CANCELLED):
            raise _illegal(row, "cancelled")
        queue = desk.queue_of(row).name
        done = row.status is Status.CANCELLED
        return message_shape(row, queue), done


def _illegal(row: Message, wish: str) -> IllegalTransition:
    return IllegalTransition(
        f"A message that is {row.status.value} cannot be {wish}.",
        data={"current": row.status.value},
    )


def _revive(desk: Desk, row: Message, cause: Cause) -> None:
    """
    Raises:
        OutOfStock: what it needs was sold meanwhile.
    """
    _reserve(desk, row)
    _start_over(row, desk.now)
    if row.expires_at is not None and row.expires_at <= desk.now:
        row.expires_at = None
    _requeue(desk, row, cause, desk.now)


@dataclass(slots=True)
class Retry(OnOrder):
    verb: ClassVar[str] = "retry"

    def skus(self, desk: Desk) -> Iterable[str]:
        return _wanted_again(desk, self.ids)

    def decide(self, desk: Desk) -> dict[str, Any]:
        row = self.find(desk)
        if row.status not in (Status.FAILED, Status.CANCELLED, Status.EXPIRED):
            raise _illegal(row, "retried")
        queue = desk.queue_of(row)
        if queue.deleted:
            raise IllegalTransition("Its queue was deleted.", data={"current": row.status.value})
        try:
            _revive(desk, row, Cause(actor=self.account, reason="retried"))
        except OutOfStock as problem:
            problem.data["current"] = row.status.value
            raise
        return message_shape(row, queue.name)


def _wanted_again(desk: Desk, ids: Sequence[str]) -> Iterator[str]:
    """All SKUs of some purchases; one may come to its end only now, earlier in this batch."""
    for message_id in ids:
        row = desk.rows.get(message_id)
        if row is not None:
            yield from (sku for sku, _ in row.lines())


# --- many rows at once ----------------------------------------------------------------


@dataclass(slots=True)
class Sweep(Command):
    """A step over rows that were found beforehand; each is looked at again under its lock.

    Answers how many rows were moved. What another process holds is left for the next step.
    """

    patient: ClassVar[bool] = False

    found: list[str]
    account: str | None = None

    @property
    def ids(self) -> Sequence[str]:
        return self.found

    @property
    def moves(self) -> int:
        return len(self.found)

    def decide(self, desk: Desk) -> Any:
        return sum(self.sweep(desk, row) for row in self.present(desk))

    def present(self, desk: Desk) -> Iterator[Message]:
        """The rows that are there and that nobody else holds."""
        for message_id in self.found:
            row = desk.rows.get(message_id)
            if row is not None and message_id not in desk.held:
                yield row

    def sweep(self, desk: Desk, row: Message) -> bool:
        raise NotImplementedError


@dataclass(slots=True)
class Reap(Sweep):
    """Leases that ran out. A message that goes back keeps its receipt until the next claim."""

    verb: ClassVar[str] = "reap"

    def sweep(self, desk: Desk, row: Message) -> bool:
        expires = row.lease_expires_at
        if row.status is not Status.PROCESSING or expires is None or expires > desk.now:
            return False
        row.lost_leases += 1
        row.last_error = LATE
        cause = Cause(worker=row.worker, error=LATE, reason="lease_expired")
        if row.cancel_requested_at is not None:
            _finish(desk, row, Status.CANCELLED, cause)
        elif row.lost_leases >= desk.queue_of(row).max_lost_leases:
            _finish(desk, row, Status.FAILED, cause)
        else:
            self._back(desk, row, cause)
        return True

    def _back(self, desk: Desk, row: Message, cause: Cause) -> None:
        receipt, worker = row.receipt, row.worker
        _put_back(desk, row, cause, desk.now)
        if row.status is Status.PENDING:
            row.receipt, row.worker = receipt, worker


@dataclass(slots=True)
class Expire(Sweep):
    verb: ClassVar[str] = "expire"

    def sweep(self, desk: Desk, row: Message) -> bool:
        if row.status is not Status.PENDING or row.expires_at is None:
            return False
        if row.expires_at > desk.now:
            return False
        _finish(desk, row, Status.EXPIRED, Cause())
        return True


@dataclass(slots=True)
class Purge(Sweep):
    """Cancels what is pending; also how a forced delete empties its queue."""

    verb: ClassVar[str] = "purge"

    queue_id: int = 0
    reason: str = "purged"

    def sweep(self, desk: Desk, row: Message) -> bool:
        if row.status is not Status.PENDING or row.queue_id != self.queue_id:
            return False
        _finish(desk, row, Status.CANCELLED, Cause(actor=self.account, error=self.reason))
        return True


@dataclass(slots=True)
class Redrive(Sweep):
    """Dead letters back to pending. Answers how many were moved, and how many lack stock."""

    verb: ClassVar[str] = "redrive"

    queue_id: int = 0

    def skus(self, desk: Desk) -> Iterable[str]:
        return _wanted_again(desk, self.ids)

    def decide(self, desk: Desk) -> tuple[int, int]:
        refused = 0
        moved = 0
        for row in self.present(desk):
            try:
                moved += self.sweep(desk, row)
            except OutOfStock:
                refused += 1
        return moved, refused

    def sweep(self, desk: Desk, row: Message) -> bool:
        if row.status is not Status.FAILED or row.queue_id != self.queue_id:
            return False
        if desk.queue_of(row).deleted:
            return False
        _revive(desk, row, Cause(actor=self.account, reason="redriven"))
        return True


@dataclass(slots=True)
class Prune(Sweep):
    """Finished messages past their queue's retention: gone, with their keys."""

    verb: ClassVar[str] = "prune"

    retention_days: Mapping[int, int] = field(default_factory=dict)

    def sweep(self, desk: Desk, row: Message) -> bool:
        kept = self.retention_days.get(row.queue_id, 1) * DAY
        if row.finished_at is None or row.finished_at + kept > desk.now:
            return False
        if row.id in desk.touched:
            return False
        del desk.rows[row.id]
        desk.removed.append(row.id)
        desk.counters.add(row.queue_id, row.status.value, -1)
        return True


# --- stock ----------------------------------------------------------------------------


@dataclass(slots=True)
class OnStock(Command):
    """A call of an admin about one SKU; answers its `Stock`."""

    sku: str

    def skus(self, desk: Desk) -> Iterable[str]:
        return (self.sku,)


@dataclass(slots=True)
class Receive(Keyed):
    """Answers the `Stock`, and whether an earlier call with this key had made it."""

    verb: ClassVar[str] = "receive"

    sku: str
    quantity: int
    account: str
    reason: str | None = None
    reference: str | None = None
    key: str | None = None
    fingerprint: str = ""
    id: str = field(default_factory=new_id)

    def skus(self, desk: Desk) -> Iterable[str]:
        return (self.sku,)

    def scoped_key(self, registry: Registry) -> str | None:
        return None if self.key is None else f"{self.account} stock:{self.sku} {self.key}"

    def decide(self, desk: Desk) -> Posted:
        scoped = self.scoped_key(desk.registry)
        if scoped is not None:
            known = desk.known_keys.get(scoped) or desk.received.get(scoped)
            if isinstance(known, KnownMovement):
                self.demand_same(known.fingerprint)
                return Posted(stock_shape(known.level, staff=True), replayed=True)
        origin = Origin(self.id, self.account, self.reason, self.reference)
        level = desk.shelf.receive(self.sku, self.quantity, origin)
        if scoped is not None:
            desk.new_keys[scoped] = self
            desk.received[scoped] = KnownMovement(self.fingerprint, replace(level))
        return Posted(stock_shape(level, staff=True), replayed=False)


@dataclass(slots=True)
class Adjust(OnStock):
    verb: ClassVar[str] = "adjust"

    on_hand: int
    expected: int
    reason: str
    account: str
    id: str = field(default_factory=new_id)

    def decide(self, desk: Desk) -> dict[str, Any]:
        origin = Origin(self.id, self.account, self.reason)
        level = desk.shelf.adjust(self.sku, self.on_hand, self.expected, origin)
        return stock_shape(level, staff=True)


@dataclass(slots=True)
class SetLow(OnStock):
    verb: ClassVar[str] = "set_low"

    low_at: int | None

    def decide(self, desk: Desk) -> dict[str, Any]:
        return stock_shape(desk.shelf.set_low(self.sku, self.low_at), staff=True)


Outcome = Any | Problem


def run(desk: Desk, command: Command) -> Outcome:
    """The answer of a command, or the Problem it ran into.

    Raises:
        Held: a row of its is locked by somebody else.
    """
    try:
        return command.decide(desk)
    except Problem as problem:
        return problem
