"""What is stored: every table, field by field, and the legal moves of a message.

Two rules hold for all tables. **Times** are integers, milliseconds since
1970-01-01T00:00Z, read from the database's clock: that is the precision of the wire,
compares exactly, and is the same on SQLite and PostgreSQL. **JSON** is stored as the
text that was made once: an event is replayed byte for byte, which no database's own
JSON type promises.

CHECK constraints and partial indexes are written in `migrations/` by hand (neither
Tortoise nor aerich carries them over); `tests/test_migrations.py` proves that they
exist on both databases.
"""

from enum import StrEnum

from tortoise import fields
from tortoise.models import Model


class Status(StrEnum):
    """Where a message stands. The moves between them are `MOVES`."""

    PENDING = "pending"  # waits for a claim, or for `available_at`
    PROCESSING = "processing"  # leased to one worker
    COMPLETED = "completed"  # acked: done
    FAILED = "failed"  # a dead letter: nacked for good, or attempts or leases used up
    CANCELLED = "cancelled"  # taken back before it was done
    EXPIRED = "expired"  # nobody took it before `expires_at`


FINISHED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED})

MOVES: frozenset[tuple[Status | None, Status]] = frozenset(
    {
        (None, Status.PENDING),  # enqueue
        (Status.PENDING, Status.PROCESSING),  # claim
        (Status.PENDING, Status.CANCELLED),  # cancel, purge, forced delete
        (Status.PENDING, Status.EXPIRED),  # expires_at passed; a late nack past it
        (Status.PENDING, Status.COMPLETED),  # late ack: reaped, not yet claimed again
        (Status.PENDING, Status.PENDING),  # late nack, late forward
        (Status.PENDING, Status.FAILED),  # late nack without retry
        (Status.PROCESSING, Status.COMPLETED),  # ack
        (Status.PROCESSING, Status.PENDING),  # nack, release, reap; forward
        (Status.PROCESSING, Status.FAILED),  # nack or reap, nothing left to try
        (Status.PROCESSING, Status.CANCELLED),  # cancel was requested, on the way back
        (Status.PROCESSING, Status.EXPIRED),  # past expires_at, on the way back
        (Status.PROCESSING, Status.PROCESSING),  # cancel requested: an event, no move
        (Status.FAILED, Status.PENDING),  # retry, redrive
        (Status.CANCELLED, Status.PENDING),  # retry
        (Status.EXPIRED, Status.PENDING),  # retry
    }
)


class Role(StrEnum):
    """What an account may do. Roles add up."""

    ADMIN = "admin"  # everything
    VIEWER = "viewer"  # reads everything
    PRODUCER = "producer"  # posts purchases, cancels them
    WORKER = "worker"  # claims and settles messages
    CUSTOMER = "customer"  # follows his own orders


STAFF = frozenset({Role.ADMIN, Role.VIEWER, Role.PRODUCER, Role.WORKER})


class Queue(Model):
    """A named queue and its settings. Counts live in `QueueCount`."""

    id = fields.IntField(primary_key=True)
    name = fields.CharField(max_length=64)  # unique among the live ones (partial index)
    description = fields.TextField(default="")
    lease_seconds = fields.IntField(default=30)  # of a claim that names none
    max_attempts = fields.IntField(default=10)  # nack number N fails the message
    max_lost_leases = fields.IntField(default=5)  # lost lease number N fails the message
    backoff_seconds = fields.IntField(default=1)  # first delay after a nack; doubles
    retention_days = fields.IntField(default=30)  # finished messages are kept this long
    paused_at = fields.BigIntField(null=True)  # null: claims are served
    version = fields.IntField(default=1)  # +1 per change of the settings; the ETag
    last_claim_at = fields.BigIntField(null=True)  # written once a second, without a version
    created_at = fields.BigIntField()
    updated_at = fields.BigIntField()
    deleted_at = fields.BigIntField(null=True)  # null: live

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "queues"


class Message(Model):
    """A purchase. Its id is the order's id, through all queues.

    `receipt` and `worker` belong to the lease: set by a claim, cleared by every move that
    ends it, except by the reaper: a reaped message keeps them so that a late ack or nack
    is still accepted until the next claim.
    """

    id = fields.UUIDField(primary_key=True)  # UUIDv7, made by the process that accepted it
    queue_id = fields.IntField()  # the queue it is in now
    status = fields.CharEnumField(Status, max_length=10)
    version = fields.IntField()  # +1 per event of this order; the ETag
    customer = fields.CharField(max_length=64)
    items = fields.TextField()  # JSON [{sku, quantity, amount_cents}]
    total_cents = fields.BigIntField(null=True)  # null: a line without an amount
    currency = fields.CharField(max_length=3)
    reference = fields.CharField(max_length=64, null=True)  # the shop's own number
    idempotency_key = fields.CharField(max_length=255, null=True)  # to show it; see Key
    metadata = fields.TextField()  # JSON object, opaque to us
    priority = fields.SmallIntField()  # 0-9, higher first
    group = fields.CharField(max_length=64, null=True)
    attempts = fields.IntField()  # nacks since it entered this queue
    lost_leases = fields.IntField()  # leases that ran out since it entered this queue
    available_at = fields.BigIntField()  # not claimed before
    entered_at = fields.BigIntField()  # when it came into this queue
    expires_at = fields.BigIntField(null=True)  # null: waits for ever
    cancel_requested_at = fields.BigIntField(null=True)  # set while processing only
    lease_epoch = fields.IntField()  # +1 per claim: a fencing number
    receipt = fields.CharField(max_length=32, null=True)  # proof of holding the lease
    worker = fields.CharField(max_length=100, null=True)  # who was given the receipt
    lease_expires_at = fields.BigIntField(null=True)  # set while processing only
    last_error = fields.TextField(null=True)  # of the last nack or lost lease
    result = fields.TextField(null=True)  # JSON, of the ack
    reserved = fields.TextField(null=True)  # JSON {sku: quantity} that stock holds for it
    until_claimed = fields.BooleanField(default=False)  # a claim clears `expires_at`
    created_at = fields.BigIntField()
    updated_at = fields.BigIntField()
    finished_at = fields.BigIntField(null=True)  # set in the four last statuses only

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "messages"


class Key(Model):
    """An idempotency key. In a table of its own: a forward neither collides nor forgets."""

    id = fields.CharField(max_length=400, primary_key=True)  # "<account> <scope> <key>"
    fingerprint = fields.CharField(max_length=64)  # of what was posted, without the key
    message = fields.UUIDField()  # message or movement of the first call; the key lives as long

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "keys"


class Event(Model):
    """One fact. The table is outbox, history, replay source and material for analytics."""

    seq = fields.BigIntField(primary_key=True, generated=False)  # gapless, in commit order
    type = fields.CharField(max_length=32)
    subject = fields.CharField(max_length=110)  # the topic itself: order:<id>, queue:<name>
    message = fields.UUIDField(null=True)  # null: not about an order
    queue = fields.CharField(max_length=64, null=True)  # where the order is after it
    from_queue = fields.CharField(max_length=64, null=True)  # where it was; the source
    customer = fields.CharField(max_length=64, null=True)
    data = fields.TextField()  # JSON that every reader sees
    detail = fields.TextField(null=True)  # JSON for staff's history and for receipts
    batch = fields.UUIDField()  # the transaction that wrote it
    created_at = fields.BigIntField()  # `at` of the stream row: never goes back

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "events"


class Stream(Model):
    """One row: the head of the event log. Its row lock gives numbers in commit order."""

    id = fields.SmallIntField(primary_key=True, generated=False)  # always 1
    head = fields.BigIntField()  # last number given
    at = fields.BigIntField()  # time of the last append; never goes back
    epoch = fields.CharField(max_length=16)  # new when the log's past cannot be trusted
    floor = fields.BigIntField()  # resume works for cursors from here on
    swept = fields.BigIntField()  # up to here events without a message have been deleted
    queues_version = fields.BigIntField()  # +1 per change of any queue
    revocations_version = fields.BigIntField()  # +1 per change of accounts or revocations
    home = fields.CharField(max_length=128)  # which database this is; "" until first opened

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "stream"


class QueueCount(Model):
    """How many messages of a queue stand where: exact, read in O(1), one row a queue."""

    queue_id = fields.IntField(primary_key=True, generated=False)
    pending = fields.BigIntField(default=0)
    processing = fields.BigIntField(default=0)
    completed = fields.BigIntField(default=0)
    failed = fields.BigIntField(default=0)
    cancelled = fields.BigIntField(default=0)
    expired = fields.BigIntField(default=0)

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "queue_counts"


class QueueRate(Model):
    """What happened in a queue in one stretch of time: a fold of the event log.

    Minutes are kept for a day, half hours for a week. The key is (queue_id, span, at);
    Tortoise knows keys of one column only.
    """

    queue_id = fields.IntField(primary_key=True, generated=False)
    span = fields.SmallIntField()  # seconds: 60 or 1800
    at = fields.BigIntField()  # when the stretch begins: a multiple of its length
    entered = fields.BigIntField(default=0)  # posted, forwarded into it, retried, redriven
    claimed = fields.BigIntField(default=0)
    returned = fields.BigIntField(default=0)  # to pending: nacked, released, lease lost
    done = fields.BigIntField(default=0)  # completed, or forwarded to another queue
    failed = fields.BigIntField(default=0)
    dropped = fields.BigIntField(default=0)  # cancelled, expired

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "queue_rates"


class RatesMark(Model):
    """One row: how far the log was folded into `queue_rates`."""

    id = fields.SmallIntField(primary_key=True, generated=False)  # always 1
    seq = fields.BigIntField()  # up to here every event is counted, none beyond

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "rates_mark"


class Product(Model):
    """What is for sale, at which price and from when. Its stock is a row of its own."""

    sku = fields.CharField(max_length=64, primary_key=True)
    name = fields.CharField(max_length=200)
    price_cents = fields.BigIntField()
    currency = fields.CharField(max_length=3)
    attributes = fields.TextField()  # JSON object; three of them are columns to filter by
    artist = fields.CharField(max_length=200, null=True)  # attribute, without case and accents
    genre = fields.CharField(max_length=200, null=True)  # attribute, without case and accents
    release_year = fields.IntField(null=True)  # attribute
    words = fields.TextField()  # name and artist, without case and accents, to search in
    available_from = fields.BigIntField(null=True)  # not sold before; null: at once
    max_per_order = fields.IntField(null=True)  # null: as many as one likes
    active = fields.BooleanField(default=True)  # false: not sold, hidden from customers
    version = fields.IntField(default=1)  # +1 per change; the ETag
    created_at = fields.BigIntField()
    updated_at = fields.BigIntField()

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "products"


class Stock(Model):
    """How many of a SKU there are. A SKU without a row is not counted: sold without end."""

    sku = fields.CharField(max_length=64, primary_key=True)
    on_hand = fields.BigIntField()  # in the house; the sum of the ledger
    reserved = fields.BigIntField()  # of those, promised to purchases that are not done
    low_at = fields.BigIntField(null=True)  # at or below it the state is "low"
    version = fields.BigIntField()  # +1 per transaction that changed it; stands in its event
    moved = fields.BigIntField()  # movements in its ledger
    created_at = fields.BigIntField()
    updated_at = fields.BigIntField()

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "stock"


class StockMovement(Model):
    """One line of the ledger of `on_hand`: appended, never changed, never pruned."""

    id = fields.UUIDField(primary_key=True)  # what a key of `receive` points to
    sku = fields.CharField(max_length=64)
    number = fields.BigIntField()  # 1, 2, … within the SKU, in commit order
    kind = fields.CharField(max_length=10)  # received, adjusted, committed
    change = fields.BigIntField()  # of on_hand; negative when it falls
    on_hand = fields.BigIntField()  # after it
    reserved = fields.BigIntField()  # after it
    low_at = fields.BigIntField(null=True)  # then
    version = fields.BigIntField()  # of the stock, after it
    reason = fields.TextField(null=True)  # in the words of who did it
    reference = fields.CharField(max_length=64, null=True)  # of the delivery
    message = fields.UUIDField(null=True)  # the purchase that took it away
    actor = fields.CharField(max_length=64, null=True)  # null: nobody was asked
    created_at = fields.BigIntField()

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "stock_movements"


class Favourite(Model):
    """A product that a customer wants to keep an eye on."""

    id = fields.CharField(max_length=140, primary_key=True)  # "<customer> <sku>"
    customer = fields.CharField(max_length=64)
    sku = fields.CharField(max_length=64)
    created_at = fields.BigIntField()

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "favourites"


class Cart(Model):
    """What a customer means to buy. Its row is the lock of its lines."""

    customer = fields.CharField(max_length=64, primary_key=True)
    version = fields.BigIntField()  # +1 per change, and when it is bought; the ETag
    updated_at = fields.BigIntField()

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "carts"


class CartItem(Model):
    """A line of a cart. Its price is the catalogue's, and not kept."""

    id = fields.CharField(max_length=140, primary_key=True)  # "<customer> <sku>"
    customer = fields.CharField(max_length=64)
    sku = fields.CharField(max_length=64)
    quantity = fields.IntField()
    added_at = fields.BigIntField()  # its place in the cart; another quantity keeps it

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "cart_items"


class Customer(Model):
    """Personal data lives here alone; everything else holds the id."""

    id = fields.CharField(max_length=64, primary_key=True)
    nickname = fields.CharField(max_length=64, null=True)  # unique, case and all
    name = fields.CharField(max_length=200, null=True)
    email = fields.CharField(max_length=254, null=True)  # unique, lower case
    birth_date = fields.CharField(max_length=10, null=True)  # YYYY-MM-DD
    tags = fields.TextField(default="[]")  # JSON array of texts
    words = fields.TextField(default="")  # nickname, name, tags, without case and accents
    active = fields.BooleanField(default=True)  # false: places no orders
    version = fields.IntField(default=1)  # +1 per change; the ETag
    created_at = fields.BigIntField()
    updated_at = fields.BigIntField(default=0)
    erased_at = fields.BigIntField(null=True)  # since then nothing personal is left here

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "customers"


class CustomerCount(Model):
    """How many customers there are: the sum of all rows. Many, so that nobody waits for one."""

    shard = fields.IntField(primary_key=True, generated=False)
    active = fields.BigIntField(default=0)  # of a single row it may be below 0
    inactive = fields.BigIntField(default=0)  # deactivated; who was erased is in neither

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "customer_counts"


class Process(Model):
    """A process of the service. It renews its row; one that does not is gone."""

    id = fields.CharField(max_length=16, primary_key=True)  # new at each start
    host = fields.CharField(max_length=253)
    pid = fields.IntField()
    started_at = fields.BigIntField()
    seen_at = fields.BigIntField()  # of the last renewal; what follows is as of then
    streams = fields.IntField()  # that are open
    head = fields.CharField(max_length=40)  # id of the last event that it has shown
    lag = fields.BigIntField()  # how far that was behind the log's head
    wanted = fields.TextField(default="{}")  # JSON: which streams somebody wants to see
    told = fields.TextField(default="")  # which of those wishes stand in the listing
    listing = fields.TextField(null=True)  # JSON, those streams; null: nobody wants any
    asked = fields.TextField(default="{}")  # JSON: streams to be ended, and what came of it

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "processes"


class Account(Model):
    """Who may sign in."""

    id = fields.IntField(primary_key=True)
    username = fields.CharField(max_length=64, unique=True)
    password_hash = fields.CharField(max_length=255)  # argon2id
    roles = fields.CharField(max_length=64)  # space-separated, sorted
    customer = fields.CharField(max_length=64, null=True)  # whose orders are his own
    active = fields.BooleanField(default=True)
    generation = fields.IntField(default=1)  # +1 ends all tokens of the account
    ticket_generation = fields.IntField(default=1)  # +1 ends all its tickets
    created_at = fields.BigIntField()
    last_seen_at = fields.BigIntField(null=True)  # last sign-in or refresh

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "accounts"


class Revocation(Model):
    """A credential that ended before its time: a family, a ticket, or a used refresh token."""

    id = fields.CharField(max_length=120, primary_key=True)  # fam:…, ticket:…, used:…, keep:…
    created_at = fields.BigIntField()
    expires_at = fields.BigIntField()  # the row is pruned after it

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "revocations"


class Action(Model):
    """What an admin did. Committed before it happens; `status` and `code` come after it."""

    id = fields.UUIDField(primary_key=True)
    at = fields.BigIntField()
    account = fields.CharField(max_length=64)  # who
    action = fields.CharField(max_length=64)  # the verb: pause_queue
    target = fields.CharField(max_length=128, null=True)  # queue, message, SKU, username, …
    detail = fields.TextField(null=True)  # JSON of what was sent, without secrets
    status = fields.SmallIntField(null=True)  # of the answer; null: under way, or not known
    code = fields.CharField(max_length=64, null=True)  # of the problem; null: it was done
    request_id = fields.CharField(max_length=36)
    address = fields.CharField(max_length=64)

    class Meta:  # pyright: ignore[reportIncompatibleVariableOverride]
        table = "actions"
