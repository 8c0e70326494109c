"""The shapes on the wire: what comes in is checked here, what goes out is made here.

Incoming bodies are pydantic models, strict (an integer is an integer). Outgoing shapes
are typed for the OpenAPI document by pydantic models too, and made by plain functions:
nothing that we wrote ourselves is validated a second time on the hot path.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError, to_json

import instants
from errors import BadCursor
from instants import stamp_or_none
from models import Role, Status

T = TypeVar("T")

MAX_INT = 2**53 - 1
MAX_CENTS = 10**12
MAX_BLOB = 16 * 1024
MAX_DEPTH = 16
MAX_BATCH = 1_000
MAX_EMAIL = 254

SKU = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$"
QUEUE_NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"
USERNAME = r"^[a-z0-9][a-z0-9._@-]{0,63}$"
CURRENCY = r"^[A-Z]{3}$"
STREAM_ID = r"^[0-9a-f]{10}-[1-9][0-9]{0,15}$"
EVENT_ID = r"^[A-Za-z0-9_]{1,16}-(0|[1-9][0-9]{0,15})$"
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
KEY = re.compile(r"[\x21-\x7e]{1,255}")
NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)
ORDER_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


# --- values ---------------------------------------------------------------------------


def _instant(value: Any) -> Any:
    """Times come as RFC 3339 text and nothing else."""
    if not isinstance(value, str):
        raise PydanticCustomError("instant", "a time is text: 2026-11-21T18:00:00Z")
    try:
        return instants.parse(value)
    except (ValueError, OverflowError) as error:
        raise PydanticCustomError("instant", "not a time: write 2026-11-21T18:00:00Z") from error


def _clean(value: str) -> str:
    """No NUL (PostgreSQL cannot store it) and no lone surrogate (no UTF-8 can)."""
    if UNSTORABLE.search(value):
        raise PydanticCustomError("text", "no NUL and no lone surrogate in a text")
    return value


def _walk(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise PydanticCustomError("depth", "nested deeper than 16")
    if isinstance(value, str):
        _clean(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("number", "NaN and Infinity are not JSON")
    elif isinstance(value, dict):
        for key, item in value.items():
            _clean(key)
            _walk(item, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _walk(item, depth + 1)


def _blob(value: Any) -> Any:
    """Free JSON: at most 16 KiB as we write it, at most 16 deep."""
    _walk(value, 0)
    if len(to_json(value)) > MAX_BLOB:
        raise PydanticCustomError("size", "larger than 16 KiB")
    return value


def _bytes_at_most(limit: int) -> AfterValidator:
    def check(value: str) -> str:
        if len(value.encode()) > limit:
            raise PydanticCustomError("size", "larger than {limit} bytes", {"limit": limit})
        return value

    return AfterValidator(check)


def whole(low: int, high: int) -> Any:
    """An integer between two bounds, both allowed."""
    return Field(strict=True, ge=low, le=high)


Instant = Annotated[
    int,
    BeforeValidator(_instant),
    WithJsonSchema({"type": "string", "format": "date-time", "examples": ["2026-11-21T18:00:00Z"]}),
]
Text = Annotated[str, Field(strict=True), AfterValidator(_clean)]
Label = Annotated[Text, Field(min_length=1, max_length=64)]
ErrorText = Annotated[Text, Field(min_length=1, max_length=2048), _bytes_at_most(2048)]
ExactError = Annotated[
    Text,
    Field(max_length=2048, description="The whole text; empty: without an error."),
    _bytes_at_most(2048),
]
CustomerId = Annotated[str, Field(strict=True, pattern=SKU, examples=["c-7"])]
Sku = Annotated[str, Field(strict=True, pattern=SKU, examples=["disc-001"])]
QueueName = Annotated[str, Field(strict=True, pattern=QUEUE_NAME, examples=["payments"])]
Username = Annotated[str, Field(strict=True, pattern=USERNAME, examples=["shop"])]
Password = Annotated[Text, Field(min_length=12, max_length=128)]
Receipt = Annotated[Text, Field(min_length=1, max_length=128)]
IdempotencyKey = Annotated[str, Field(strict=True, pattern=r"^[\x21-\x7e]{1,255}$")]
Cents = Annotated[int, whole(0, MAX_CENTS)]
Currency = Annotated[str, Field(strict=True, pattern=CURRENCY)]
Blob = Annotated[Any, AfterValidator(_blob)]
BlobObject = Annotated[dict[str, Any], AfterValidator(_blob)]
LeaseSeconds = Annotated[int, whole(1, 43_200)]
DelaySeconds = Annotated[int, whole(0, 2_592_000)]
MessageId = Annotated[str, Field(strict=True, examples=["01a1ff43-dd00-7b3e-8f21-4c5d6e7f8091"])]


def _null_is_absent(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: item for name, item in value.items() if item is not None}
    return value


class Body(BaseModel):
    """A body: unknown fields are refused, `null` means left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    personal: ClassVar[bool] = False  # no value of it is written down anywhere else


def example(**fields: Any) -> ConfigDict:
    """A body to show and to try."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


EXAMPLE_ID = "01a1ff43-dd00-7b3e-8f21-4c5d6e7f8091"
EXAMPLE_RECEIPT = "pXvKJ1Qd0rX3hT6yWm8sZk2N"
EXAMPLE_PURCHASE: dict[str, Any] = {
    "customer": "c-7",
    "items": [{"sku": "disc-001", "quantity": 2, "amount_cents": 1980}],
    "reference": "1042",
    "idempotency_key": "1042",
}


def body_of(model: type[Body], value: Any) -> Body:
    """Check a parsed body, without the nulls of its first level.

    Raises:
        pydantic.ValidationError: it does not fit.
    """
    return model.model_validate(_null_is_absent(value))


def fingerprint_of(values: Mapping[str, Any]) -> str:
    """The same for the same values, whatever their order."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


# --- purchases and messages -----------------------------------------------------------


class Item(Body):
    sku: Sku
    quantity: Annotated[int, whole(1, 10_000)]
    amount_cents: Cents | None = Field(
        default=None, description="The line's total, in minor units."
    )


class Purchase(Body):
    """What a service posts into a queue."""

    model_config = example(**EXAMPLE_PURCHASE)

    customer: CustomerId
    items: Annotated[list[Item], Field(min_length=1, max_length=100)]
    currency: Currency = "BRL"
    reference: Label | None = Field(default=None, description="The shop's own number.")
    priority: Annotated[int, whole(0, 9)] = 0
    group: Label | None = None
    delay_seconds: DelaySeconds | None = None
    expires_at: Instant | None = Field(
        default=None, description="Counts while the message is pending."
    )
    idempotency_key: IdempotencyKey | None = None
    metadata: BlobObject = Field(default_factory=dict)

    def total_cents(self) -> int | None:
        """The sum of the lines, or None if one has no amount."""
        total = 0
        for item in self.items:
            if item.amount_cents is None:
                return None
            total += item.amount_cents
        return total

    def fingerprint(self) -> str:
        """The same for the same purchase, whatever its key, field order or left-out defaults."""
        return fingerprint_of(self.model_dump(exclude={"idempotency_key"}))


class PurchaseBatch(Body):
    model_config = example(messages=[EXAMPLE_PURCHASE])

    messages: Annotated[list[Any], Field(min_length=1, max_length=MAX_BATCH)] = Field(
        json_schema_extra={"items": {"$ref": "#/components/schemas/Purchase"}}
    )


class OrderItem(Body):
    sku: Sku
    quantity: Annotated[int, whole(1, 10_000)]


SeenTotal = Annotated[
    Cents, Field(description="What the buyer was shown; is it another by now, nothing is bought.")
]


class OrderIn(Body):
    """What a customer orders: the catalogue says the prices."""

    model_config = example(
        customer="c-7", items=[{"sku": "disc-001", "quantity": 2}], reference="1042"
    )

    customer: CustomerId | None = Field(
        default=None, description="Staff say who; a customer may not."
    )
    items: Annotated[list[OrderItem], Field(min_length=1, max_length=100)]
    reference: Label | None = Field(default=None, description="The shop's own number.")
    total_cents: SeenTotal | None = None

    def purchase(self, customer: str) -> Purchase:
        items = [Item(sku=one.sku, quantity=one.quantity) for one in self.items]
        return Purchase(customer=customer, items=items, reference=self.reference)


class CartQuantity(Body):
    """How many of a product shall lie in the cart."""

    model_config = example(quantity=2)

    quantity: Annotated[int, whole(1, 10_000)]


class CheckoutIn(Body):
    """What goes with the purchase of a cart."""

    model_config = example(reference="1042")

    reference: Label | None = Field(default=None, description="The shop's own number.")
    total_cents: SeenTotal | None = None


class Claim(Body):
    model_config = example(max=10, wait_seconds=0, worker="w1")

    max: Annotated[int, whole(1, 100)] = 1
    wait_seconds: Annotated[int, whole(0, 20)] = 0
    lease_seconds: LeaseSeconds | None = None
    worker: Annotated[Text, Field(min_length=1, max_length=100)] | None = None


class Ack(Body):
    model_config = example(receipt=EXAMPLE_RECEIPT, result={"paid": True}, forward_to="picking")

    receipt: Receipt
    result: Blob = None
    forward_to: QueueName | None = None


class Nack(Body):
    model_config = example(receipt=EXAMPLE_RECEIPT, error="card service timed out", delay_seconds=5)

    receipt: Receipt
    error: ErrorText
    delay_seconds: DelaySeconds | None = None
    retry: Annotated[bool, Field(strict=True)] = True


class Release(Body):
    model_config = example(receipt=EXAMPLE_RECEIPT)

    receipt: Receipt


class Extend(Body):
    model_config = example(receipt=EXAMPLE_RECEIPT, lease_seconds=60)

    receipt: Receipt
    lease_seconds: LeaseSeconds


class AckItem(Ack):
    model_config = example(id=EXAMPLE_ID, receipt=EXAMPLE_RECEIPT, result={"paid": True})

    id: MessageId


class NackItem(Nack):
    model_config = example(id=EXAMPLE_ID, receipt=EXAMPLE_RECEIPT, error="card service timed out")

    id: MessageId


class ReleaseItem(Release):
    model_config = example(id=EXAMPLE_ID, receipt=EXAMPLE_RECEIPT)

    id: MessageId


class ExtendItem(Extend):
    model_config = example(id=EXAMPLE_ID, receipt=EXAMPLE_RECEIPT, lease_seconds=60)

    id: MessageId


def _many(item: str) -> Any:
    return Field(
        min_length=1,
        max_length=MAX_BATCH,
        json_schema_extra={"items": {"$ref": f"#/components/schemas/{item}"}},
    )


class Acks(Body):
    model_config = example(acks=[{"id": EXAMPLE_ID, "receipt": EXAMPLE_RECEIPT}])

    acks: list[Any] = _many("AckItem")


class Nacks(Body):
    model_config = example(
        nacks=[{"id": EXAMPLE_ID, "receipt": EXAMPLE_RECEIPT, "error": "no stock"}]
    )

    nacks: list[Any] = _many("NackItem")


class Releases(Body):
    model_config = example(releases=[{"id": EXAMPLE_ID, "receipt": EXAMPLE_RECEIPT}])

    releases: list[Any] = _many("ReleaseItem")


class Extends(Body):
    model_config = example(
        extends=[{"id": EXAMPLE_ID, "receipt": EXAMPLE_RECEIPT, "lease_seconds": 60}]
    )

    extends: list[Any] = _many("ExtendItem")


class Cancel(Body):
    model_config = example(reason="ordered twice")

    reason: ErrorText | None = None


class Nothing(Body):
    """A call without a body; an empty object is as good."""

    model_config = example()


# --- queues ---------------------------------------------------------------------------


class QueueSettings(Body):
    model_config = example(description="Cards are charged here.", lease_seconds=60)

    description: Annotated[Text, Field(max_length=2000)] = ""
    lease_seconds: LeaseSeconds = 30
    max_attempts: Annotated[int, whole(1, 100)] = 10
    max_lost_leases: Annotated[int, whole(1, 100)] = 5
    backoff_seconds: Annotated[int, whole(0, 900)] = 1
    retention_days: Annotated[int, whole(1, 3650)] = 30


class QueueIn(QueueSettings):
    model_config = example(name="payments", lease_seconds=60, max_attempts=5)

    name: QueueName


class Redrive(Body):
    model_config = example(error_contains="timed out", limit=100, dry_run=True)

    error: ExactError | None = None
    error_contains: ErrorText | None = None
    customer: CustomerId | None = None
    sku: Sku | None = None
    finished_after: Instant | None = None
    finished_before: Instant | None = None
    limit: Annotated[int, whole(1, 10_000)] = 1000
    dry_run: Annotated[bool, Field(strict=True)] = False


# --- products -------------------------------------------------------------------------

ProductName = Annotated[Text, Field(min_length=1, max_length=200)]


class ProductSettings(Body):
    """What has a default; three of the attributes can be filtered by."""

    currency: Currency = "BRL"
    attributes: BlobObject = Field(
        default_factory=dict, description="Free; `artist`, `genre`, `release_year` are filters."
    )
    available_from: Instant | None = Field(default=None, description="Not sold before.")
    max_per_order: Annotated[int, whole(1, 10_000)] | None = None
    active: Annotated[bool, Field(strict=True)] = True


class ProductIn(ProductSettings):
    model_config = example(
        sku="disc-001",
        name="For Those About To Rock We Salute You",
        price_cents=990,
        attributes={"artist": "AC/DC", "genre": "Rock", "release_year": 1981},
    )

    sku: Sku
    name: ProductName
    price_cents: Cents


class ProductPatch(ProductSettings):
    """`name` and `price_cents` have no default: null leaves them as they are."""

    model_config = example(price_cents=790, available_from="2026-11-27T03:00:00Z", max_per_order=2)

    name: ProductName | None = None
    price_cents: Cents | None = None


# --- stock ----------------------------------------------------------------------------

Quantity = Annotated[int, whole(1, 10**9)]
OnHand = Annotated[int, whole(0, 10**12)]


class StockPatch(Body):
    model_config = example(low_at=5)

    low_at: OnHand | None = Field(default=None, description="At or below it the state is `low`.")


class Receive(Body):
    model_config = example(quantity=20, reason="restocked", reference="delivery 88")

    quantity: Quantity
    reason: ErrorText | None = None
    reference: Label | None = None

    def fingerprint(self) -> str:
        return fingerprint_of(self.model_dump())


class Adjust(Body):
    """Compare and set: the count is taken only if nothing moved since it was made."""

    model_config = example(on_hand=19, expected_on_hand=20, reason="one was broken")

    on_hand: OnHand
    expected_on_hand: OnHand
    reason: ErrorText


# --- accounts and tickets -------------------------------------------------------------

Roles = Annotated[list[Role], Field(min_length=1, max_length=5)]


class AccountIn(Body):
    model_config = example(username="shop", password="a-long-password", roles=["producer"])

    username: Username
    password: Password
    roles: Roles
    customer: CustomerId | None = None


class AccountPatch(Body):
    model_config = example(roles=["producer", "viewer"])

    password: Password | None = None
    roles: Roles | None = None
    customer: CustomerId | None = None
    active: Annotated[bool, Field(strict=True)] | None = None
    revoke_tokens: Annotated[bool, Field(strict=True)] = False


class SignIn(Body):
    """Any text is a try: a password that cannot be right is just wrong."""

    model_config = example(username="shop", password="a-long-password")

    username: Annotated[Text, Field(max_length=256)]
    password: Annotated[Text, Field(max_length=1024)]


class SignInForm(SignIn):
    """The OAuth 2 password form (RFC 6749, 4.3.2); what clients add is ignored."""

    grant_type: Text | None = None
    scope: Text | None = None
    client_id: Text | None = None
    client_secret: Text | None = None


class Refresh(Body):
    model_config = example(refresh_token="eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2lnbmF0dXJl")

    refresh_token: Annotated[Text, Field(max_length=4096)]


def _lower(value: str) -> str:
    """Lower case can be longer: what is stored must still fit."""
    lowered = value.lower()
    if len(lowered) > MAX_EMAIL:
        raise PydanticCustomError("size", "longer than 254 characters")
    return lowered


Email = Annotated[
    Text,
    Field(max_length=MAX_EMAIL, pattern=r"^[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+$"),
    AfterValidator(_lower),
]


def _day(value: str) -> str:
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
            return date.fromisoformat(value).isoformat()
    except ValueError:
        pass
    raise PydanticCustomError("date", "not a day: write 1981-11-21")


Day = Annotated[
    Text,
    AfterValidator(_day),
    WithJsonSchema({"type": "string", "format": "date", "examples": ["1981-11-21"]}),
]
Tag = Annotated[Text, Field(min_length=1, max_length=32)]
Tags = Annotated[list[Tag], Field(max_length=32), AfterValidator(lambda t: list(dict.fromkeys(t)))]


class CustomerIn(Body):
    """All of it may be left out; a tag that comes twice is kept once."""

    model_config = example(
        nickname="ana",
        name="Ana Souza",
        email="ana@example.org",
        birth_date="1981-11-21",
        tags=["jazz", "vinyl"],
    )
    personal = True

    nickname: Label | None = None
    name: Annotated[Text, Field(min_length=1, max_length=200)] | None = None
    email: Email | None = None
    birth_date: Day | None = None
    tags: Tags = Field(default_factory=list)


class Register(Body):
    model_config = example(username="ana", password="a-long-password", email="ana@example.org")

    username: Username
    password: Password
    email: Email | None = None


Target = Annotated[Text, Field(max_length=8_192)]  # the page that somebody came from


class PageSignIn(SignIn):
    """The form of `/login`."""

    next: Target = "/"


class PageRegister(Register):
    """The form of `/register`: a field that is left empty is left out."""

    next: Target = "/"

    @field_validator("email", mode="before")
    @classmethod
    def _left_empty(cls, value: Any) -> Any:
        return value or None


class PasswordChange(Body):
    model_config = example(current="a-long-password", new="a-longer-password")
    personal = True

    current: Annotated[Text, Field(max_length=1024)]
    new: Password


Topic = Annotated[Text, Field(min_length=1, max_length=110)]
Topics = Annotated[list[Topic], Field(min_length=1, max_length=64)]


TICKET_DAYS = 7


class TicketIn(Body):
    model_config = example(topics=["queues"], expires_in=900)

    topics: Topics
    expires_in: Annotated[int, whole(60, TICKET_DAYS * 86_400)] = 900
    max_streams: Annotated[int, whole(1, 12_000)] = 16


class TicketRevoke(Body):
    model_config = example(ticket="AWcQ2mAAEAAAAAGl0b2")

    ticket: Annotated[Text, Field(max_length=16_384)]


# --- query strings --------------------------------------------------------------------


def _digits(value: Any) -> Any:
    """Query values are text; an integer is its digits and nothing else."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,17}", value, re.ASCII):
        return int(value)
    raise PydanticCustomError("integer", "an integer, written in digits")


def _flag(value: Any) -> Any:
    if value in ("true", "1"):
        return True
    if value in ("false", "0"):
        return False
    raise PydanticCustomError("flag", "true or false")


Limit = Annotated[int, BeforeValidator(_digits), Field(ge=1, le=200)]
Cursor = Annotated[Text, Field(max_length=512)]


class Query(BaseModel):
    """A query string: unknown and repeated parameters are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoQuery(Query):
    pass


class PageQuery(Query):
    cursor: Cursor | None = None
    limit: Limit = 50


class QueuesQuery(Query):
    prefix: Annotated[str, Field(pattern=r"^[a-z0-9._-]{0,64}$")] = ""
    cursor: Cursor | None = None
    limit: Annotated[int, BeforeValidator(_digits), Field(ge=1, le=1000)] = 50


class MessagesQuery(PageQuery):
    status: Status | None = None
    customer: CustomerId | None = None
    group: Label | None = None
    sku: Sku | None = None
    reference: Label | None = None
    error: ExactError | None = None
    error_contains: ErrorText | None = None
    created_after: Instant | None = None
    created_before: Instant | None = None
    finished_after: Instant | None = None
    finished_before: Instant | None = None

    def filters(self) -> dict[str, Any]:
        return self.model_dump(exclude={"cursor", "limit"}, exclude_none=True, mode="json")


class CustomerOrdersQuery(PageQuery):
    status: Status | None = None
    sku: Sku | None = None
    reference: Label | None = None
    created_after: Instant | None = None
    created_before: Instant | None = None

    def filters(self) -> dict[str, Any]:
        return self.model_dump(exclude={"cursor", "limit"}, exclude_none=True, mode="json")


class OrdersQuery(CustomerOrdersQuery):
    customer: CustomerId | None = None


Phrase = Annotated[Text, Field(min_length=1, max_length=200)]
Year = Annotated[int, BeforeValidator(_digits), Field(ge=0, le=9999)]
Price = Annotated[int, BeforeValidator(_digits), Field(ge=0, le=MAX_CENTS)]


class ProductsQuery(PageQuery):
    q: Phrase | None = Field(default=None, description="A part of the name or the artist.")
    artist: Phrase | None = None
    genre: Phrase | None = None
    year_min: Year | None = None
    year_max: Year | None = None
    price_min: Price | None = None
    price_max: Price | None = None
    in_stock: Annotated[bool, BeforeValidator(_flag)] | None = None
    ticket: Annotated[str, Field(max_length=16_384)] | None = None

    def filters(self) -> dict[str, Any]:
        return self.model_dump(exclude={"cursor", "limit", "ticket"}, exclude_none=True)


class StockQuery(PageQuery):
    q: Phrase | None = Field(default=None, description="A part of the SKU, the name or the artist.")
    state: Literal["in_stock", "low", "out", "uncounted"] | None = None


class MovementsQuery(PageQuery):
    sort: Literal["oldest", "newest"] = "oldest"


class CustomersQuery(PageQuery):
    q: Phrase | None = Field(default=None, description="A part of the nickname, the name or a tag.")
    tag: Tag | None = None
    nickname: Label | None = None
    email: Email | None = None
    active: Annotated[bool, BeforeValidator(_flag)] | None = None

    def filters(self) -> dict[str, Any]:
        return self.model_dump(exclude={"cursor", "limit"}, exclude_none=True)


class CustomersCountQuery(Query):
    active: Annotated[bool, BeforeValidator(_flag)] | None = None


class AccountsQuery(PageQuery):
    prefix: Annotated[str, Field(pattern=r"^[a-z0-9._@-]{0,64}$")] = ""


class ActionsQuery(PageQuery):
    account: Username | None = None
    action: Annotated[str, Field(pattern=r"^[a-z_]{1,64}$", examples=["pause_queue"])] | None = None
    target: Annotated[Text, Field(min_length=1, max_length=128)] | None = None
    after: Instant | None = None
    before: Instant | None = None

    def filters(self) -> dict[str, Any]:
        return self.model_dump(exclude={"cursor", "limit"}, exclude_none=True)


class StatsQuery(Query):
    span: Literal["1h", "24h", "7d"] = "1h"


class DeleteQueueQuery(Query):
    force: Annotated[bool, BeforeValidator(_flag)] = False


def _since(value: str) -> str:
    if value not in ("earliest", "now"):
        _instant(value)
    return value


Since = Annotated[Text, Field(max_length=40), AfterValidator(_since)]


class EventsQuery(Query):
    """`topic` may repeat."""

    topic: Annotated[list[Topic], Field(max_length=64)] = Field(default_factory=list)
    last_event_id: Text | None = None  # what cannot be a cursor is answered by a reset
    snapshot: Annotated[bool, BeforeValidator(_flag)] = False
    coalesce: Literal["latest"] | None = None  # of what a lagging reader missed
    since: Since | None = None
    ticket: Annotated[str, Field(max_length=16_384)] | None = None

    @field_validator("since")
    @classmethod
    def _one_start(cls, value: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("snapshot") and value is not None:
            raise PydanticCustomError("start", "a snapshot is of now: leave out since")
        return value


class HistoryQuery(Query):
    """`topic` may repeat."""

    topic: Annotated[list[Topic], Field(max_length=64)] = Field(default_factory=list)
    after: Text | None = None
    since: Since | None = None
    limit: Limit = 50
    ticket: Annotated[str, Field(max_length=16_384)] | None = None


class StreamsQuery(PageQuery):
    """`topic` may repeat: streams that follow any of them."""

    topic: Annotated[list[Topic], Field(max_length=64)] = Field(default_factory=list)
    account: Username | None = None
    sort: Literal["newest", "lag"] = "newest"

    def filters(self) -> dict[str, Any]:
        return self.model_dump(exclude={"cursor", "limit"}, exclude_none=True)


class TicketQuery(Query):
    ticket: Annotated[str, Field(max_length=16_384)] | None = None


class PageLook(Query):
    """What every page takes: its language."""

    lang: Literal["en", "pt-BR"] | None = None


class LoginQuery(PageLook):
    next: Annotated[str, Field(max_length=8_192)] = "/"


class ConsoleQuery(PageLook):
    """What the scripts of a page keep in its address is theirs."""

    model_config = ConfigDict(extra="ignore")


class OrdersLook(ConsoleQuery):
    customer: Text = ""


class FindQuery(ConsoleQuery):
    q: Annotated[Text, Field(max_length=200)] = ""


class TrackQuery(TicketQuery, PageLook):
    pass


def _filled(value: Any) -> Any:
    """A form sends its empty fields too."""
    return None if value == "" else value


Asked = Annotated[T | None, BeforeValidator(_filled)]


class ShopQuery(PageLook):
    """What the shop window shows."""

    q: Asked[Phrase] = None
    artist: Asked[Phrase] = None
    genre: Asked[Phrase] = None
    year_min: Asked[Year] = None
    year_max: Asked[Year] = None
    in_stock: Asked[Annotated[bool, BeforeValidator(_flag)]] = None
    cursor: Cursor | None = None

    def filters(self) -> dict[str, Any]:
        return self.model_dump(exclude={"cursor", "lang"}, exclude_none=True)


class TicketPageQuery(PageQuery):
    ticket: Annotated[str, Field(max_length=16_384)] | None = None


def parameters(query: type[Query]) -> dict[str, dict[str, Any]]:
    """The JSON Schema of each parameter, without references."""
    schema = query.model_json_schema()
    defs = schema.get("$defs", {})
    return {name: _inlined(kind, defs) for name, kind in schema.get("properties", {}).items()}


def _inlined(kind: Any, defs: dict[str, Any]) -> Any:
    """No default is sent, and a null cannot be said in a query."""
    if isinstance(kind, list):
        return [_inlined(part, defs) for part in kind]
    if not isinstance(kind, dict):
        return kind
    if "$ref" in kind:
        return _inlined(defs[kind["$ref"].rpartition("/")[2]], defs)
    made = {name: _inlined(value, defs) for name, value in kind.items() if name != "default"}
    choices = [part for part in made.get("anyOf", ()) if part.get("type") != "null"]
    return {**choices[0]} if len(choices) == 1 else made


# --- list cursors ---------------------------------------------------------------------


def _filter_mark(filters: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(filters, sort_keys=True).encode()).hexdigest()[:12]


def make_cursor(last: str, filters: Mapping[str, Any]) -> str:
    """Where the next page starts. Opaque to clients; bound to the filters it was made with."""
    text = f"{_filter_mark(filters)}:{last}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_cursor(
    cursor: str | None, filters: Mapping[str, Any], shape: re.Pattern[str] = KEY
) -> str | None:
    """The place a cursor names, of a given shape; ours are visible ASCII at least.

    Raises:
        BadCursor: not one of ours, or made with other filters.
    """
    if cursor is None:
        return None
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        mark, _, last = raw.decode().partition(":")
    except ValueError as error:
        raise BadCursor from error
    if mark != _filter_mark(filters) or shape.fullmatch(last) is None:
        raise BadCursor
    return last


# --- what goes out --------------------------------------------------------------------


class ItemOut(BaseModel):
    sku: str
    quantity: int
    amount_cents: int | None


class Tracking(BaseModel):
    """A link to send to the customer, and the ticket in it."""

    url: str
    ticket: str
    expires_at: str


class Message(BaseModel):
    """A purchase as staff see it."""

    id: str
    reference: str | None
    customer: str
    queue: str
    status: Status
    version: int
    cancel_requested: bool
    items: list[ItemOut]
    total_cents: int | None
    currency: str
    priority: int
    group: str | None
    metadata: dict[str, Any]
    idempotency_key: str | None
    attempts: int
    lost_leases: int
    available_at: str
    expires_at: str | None
    worker: str | None
    lease_expires_at: str | None
    last_error: str | None
    result: Any
    created_at: str
    updated_at: str
    finished_at: str | None


class MessagePosted(Message):
    tracking: Tracking


class MessageClaimed(Message):
    receipt: str
    lease_epoch: int


class Claimed(BaseModel):
    messages: list[MessageClaimed]


class Order(BaseModel):
    """A purchase as its customer sees it."""

    id: str
    reference: str | None
    customer: str
    queue: str
    status: Status
    version: int
    cancel_requested: bool
    items: list[ItemOut]
    total_cents: int | None
    currency: str
    available_at: str
    expires_at: str | None
    position: int | None
    position_exact: bool | None
    eta_seconds: int | None
    created_at: str
    updated_at: str
    finished_at: str | None


class OrderPosted(Order):
    """Its place is not told yet: a replay has the bytes of the first answer."""

    tracking: Tracking


CartProblem = Literal["gone", "other_currency", "not_on_sale", "max_per_order", "out_of_stock"]


class CartItem(BaseModel):
    """A line at the catalogue's price of now; null for what is not sold any more."""

    sku: str
    name: str | None
    quantity: int
    price_cents: int | None
    amount_cents: int | None
    currency: str | None
    available: int | None = Field(description="Null where it is not counted.")
    available_from: str | None
    max_per_order: int | None
    problem: CartProblem | None = Field(description="Why it cannot be bought now.")


class Cart(BaseModel):
    """What a customer means to buy. `version` is 0 until something was put into it."""

    items: list[CartItem]
    total_cents: int = Field(description="Of the lines that have an amount in `currency`.")
    currency: str | None
    version: int
    updated_at: str | None


class Settled(BaseModel):
    """The answer to ack, nack and release."""

    id: str
    queue: str
    status: Status
    version: int


class Extended(BaseModel):
    lease_expires_at: str
    cancel_requested: bool


class ProblemError(BaseModel):
    model_config = ConfigDict(extra="allow")

    detail: str
    pointer: str | None = None
    parameter: str | None = None
    header: str | None = None


class Problem(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str
    errors: list[ProblemError]


class Result(BaseModel):
    status: int
    id: str | None
    problem: Problem | None


class Results(BaseModel):
    accepted: int
    results: list[Result]


class ExtendResult(Result):
    lease_expires_at: str | None
    cancel_requested: bool | None


class ExtendResults(BaseModel):
    accepted: int
    results: list[ExtendResult]


class Counts(BaseModel):
    pending: int
    processing: int
    completed: int
    failed: int
    cancelled: int
    expired: int


class Queue(BaseModel):
    name: str
    description: str
    lease_seconds: int
    max_attempts: int
    max_lost_leases: int
    backoff_seconds: int
    retention_days: int
    paused: bool
    counts: Counts
    oldest_pending_seconds: int | None
    last_claim_at: str | None
    version: int
    created_at: str
    updated_at: str


class HistoryItem(BaseModel):
    id: str
    type: str
    time: str
    version: int
    queue: str
    previous_queue: str | None
    status: Status
    previous_status: Status | None
    reason: str | None


class StaffHistoryItem(HistoryItem):
    actor: str | None
    worker: str | None
    error: str | None
    result: Any


class Failure(BaseModel):
    error: str
    count: int
    oldest: str
    newest: str
    example_id: str


class Failures(BaseModel):
    items: list[Failure]


class Series(BaseModel):
    """How much happened in each step, oldest first; the last one is not over yet."""

    entered: list[int] = Field(description="Posted, forwarded into it, retried, redriven.")
    claimed: list[int]
    returned: list[int] = Field(description="To pending: nacked, released, lease lost.")
    done: list[int] = Field(description="Completed, or forwarded to another queue.")
    failed: list[int]
    dropped: list[int] = Field(description="Cancelled, expired.")


class Frame(BaseModel):
    """Which stretch of time is told; `from` is where its first step begins."""

    as_of: str
    from_: str = Field(alias="from")
    step_seconds: int


class SeriesOfQueue(Series):
    queue: str


class Stats(Frame):
    items: list[SeriesOfQueue]


class QueueStats(Frame, Series):
    queue: str
    span: Literal["1h", "24h", "7d"]


class Purged(BaseModel):
    cancelled: int
    remaining: int


class Redriven(BaseModel):
    matched: int
    redriven: int
    refused: int
    remaining: int


class Stock(BaseModel):
    """How many of a product there are. Customers see what is available and no more."""

    sku: str
    on_hand: int | None
    reserved: int | None
    available: int
    low_at: int | None
    version: int
    updated_at: str


class Product(BaseModel):
    """What is for sale. `stock` is null where it is not counted."""

    sku: str
    name: str
    price_cents: int
    currency: str
    attributes: dict[str, Any]
    available_from: str | None
    max_per_order: int | None
    active: bool
    stock: Stock | None
    version: int
    created_at: str
    updated_at: str


class StockItem(BaseModel):
    """A SKU that is sold or counted: without a product the four between are null."""

    sku: str
    name: str | None
    price_cents: int | None
    currency: str | None
    active: bool | None
    stock: Stock | None


class Customer(BaseModel):
    """Who buys. Of somebody who was erased only the id is left."""

    id: str
    nickname: str | None
    name: str | None
    email: str | None
    birth_date: str | None
    tags: list[str]
    active: bool
    erased: bool
    version: int
    created_at: str
    updated_at: str


class CustomerCount(BaseModel):
    count: int


class Favourite(BaseModel):
    """A product to keep an eye on. `stock` is null where it is not counted."""

    sku: str
    stock: Stock | None
    created_at: str


class StockMovement(BaseModel):
    """A line of the ledger of `on_hand`: the sum of all changes is what is on hand."""

    id: str
    sku: str
    number: int
    kind: Literal["received", "adjusted", "committed"]
    change: int
    on_hand: int
    reason: str | None
    reference: str | None
    order: str | None
    actor: str | None
    time: str


class Account(BaseModel):
    username: str
    roles: list[Role]
    customer: str | None
    active: bool
    created_at: str
    last_seen_at: str | None


class Action(BaseModel):
    """What an admin did: who, to what, with what result."""

    id: str
    at: str
    account: str
    action: str
    target: str | None
    detail: dict[str, Any] | None = Field(description="What was sent, without secrets.")
    status: int | None = Field(description="Of the answer; null while it is not known.")
    code: str | None
    request_id: str
    address: str


class Me(Account):
    scope: str
    expires_at: str


class Tokens(BaseModel):
    access_token: str
    token_type: Literal["bearer"]
    expires_in: int
    refresh_token: str
    scope: str


class Ticket(BaseModel):
    ticket: str
    expires_at: str
    url: str


# What streams and the history tell. Nothing here is validated when it goes out: both
# documents, OpenAPI and AsyncAPI, are made from these, and the tests hold streams to them.

ORDER_TYPES = {
    "order.created": "It was accepted. The only one with its `items`.",
    "order.processing": "A worker has it.",
    "order.requeued": "It waits again; `reason` says why.",
    "order.forwarded": "It waits in the next queue.",
    "order.cancel_requested": "Its worker was asked to end.",
    "order.completed": "It is done.",
    "order.failed": "It will not be tried again by itself.",
    "order.cancelled": "It was taken back.",
    "order.expired": "Nobody took it in time.",
}
QUEUE_TYPES = {
    "queue.created": "There is a new queue.",
    "queue.updated": "Its settings changed.",
    "queue.paused": "Claims get nothing.",
    "queue.resumed": "Claims are served.",
    "queue.deleted": "The queue is gone.",
}
STOCK_TYPES = {
    "stock.changed": "Another number can be bought.",
    "stock.low": "It fell to `low_at` or below.",
    "stock.depleted": "Nothing is available any more.",
    "stock.replenished": "Something is available again.",
}
FAVOURITES_TYPES = {"favourites.changed": "A product was put on the list, or taken off it."}


def _one_of(values: Iterable[str]) -> Any:
    return Field(json_schema_extra={"enum": list(values)})


EventId = Annotated[
    str,
    Field(
        pattern=EVENT_ID,
        description="A cursor: what follows it has not been seen.",
        examples=["k3f9a2c1-1042"],
    ),
]


class CloudEvent(BaseModel, Generic[T]):
    """A change that was committed (CloudEvents 1.0)."""

    specversion: Literal["1.0"]
    id: EventId
    source: str
    subject: str
    time: str
    data: T


class OrderData(BaseModel):
    """An order after the change. `items` come with the first event, `previous_*` later."""

    id: str
    reference: str | None
    customer: str
    queue: str
    previous_queue: str | None
    status: Status
    previous_status: Status | None
    reason: Literal["nack", "released", "lease_expired", "redriven", "retried"] | None
    version: int
    cancel_requested: bool
    items: list[ItemOut] | None
    total_cents: int | None
    currency: str
    available_at: str
    expires_at: str | None
    created_at: str
    updated_at: str
    finished_at: str | None


class QueueData(BaseModel):
    """The settings of a queue after the change, and who made it."""

    name: str
    description: str
    lease_seconds: int
    max_attempts: int
    max_lost_leases: int
    backoff_seconds: int
    retention_days: int
    paused: bool
    version: int
    actor: str


class StockData(BaseModel):
    """What can be bought of a product after the change."""

    sku: str
    available: int
    previous_available: int
    state: Literal["in_stock", "low", "out"]
    reason: Literal["received", "adjusted", "reserved", "released", "committed"]
    version: int


class FavouritesData(BaseModel):
    customer: str
    sku: str
    kept: bool


class OrderEvent(CloudEvent[OrderData]):
    """What happened to an order. `source` is the queue where it happened."""

    type: Annotated[str, _one_of(ORDER_TYPES)]


class QueueEvent(CloudEvent[QueueData]):
    """What happened to a queue itself."""

    type: Annotated[str, _one_of(QUEUE_TYPES)]


class StockEvent(CloudEvent[StockData]):
    """What happened to the stock of a product."""

    type: Annotated[str, _one_of(STOCK_TYPES)]


class FavouritesEvent(CloudEvent[FavouritesData]):
    """What happened to a customer's favourites."""

    type: Annotated[str, _one_of(FAVOURITES_TYPES)]


EVENTS: dict[type[BaseModel], dict[str, str]] = {
    OrderEvent: ORDER_TYPES,
    QueueEvent: QUEUE_TYPES,
    StockEvent: STOCK_TYPES,
    FavouritesEvent: FAVOURITES_TYPES,
}


class EventPage(BaseModel):
    items: list[OrderEvent | QueueEvent | StockEvent | FavouritesEvent]
    next_cursor: str | None
    head: str


class HelloFrame(BaseModel):
    """The first of all. Its id: where the stream goes on from, unless it is to begin anew."""

    epoch: str
    head: EventId
    heartbeat_seconds: int
    expires_at: str


class SnapshotFrame(BaseModel):
    """The present state of a topic, or a part of it. Only the last one of all has an id."""

    topic: str
    as_of: EventId
    items: list[Order | Queue | Stock]
    more: bool
    truncated: bool


class ResetFrame(BaseModel):
    """The cursor cannot be used: read the state anew. It has no id if a snapshot follows."""

    reason: Literal["pruned", "epoch", "unknown"]
    oldest: EventId
    head: EventId


class BookmarkFrame(BaseModel):
    """Its id moves the cursor of a stream whose topics are quiet."""

    head: EventId


class QueueCounts(BaseModel):
    name: str
    paused: bool
    counts: Counts
    oldest_pending_seconds: int | None


class CountsFrame(BaseModel):
    """How many messages the queues have that changed; all queues at first."""

    as_of: EventId
    queues: list[QueueCounts]


class PositionFrame(BaseModel):
    """The place of an order in the line; null while it has none."""

    id: str
    position: int | None
    position_exact: bool | None
    eta_seconds: int | None


class GoodbyeFrame(BaseModel):
    """The last of all. With null for `reconnect_ms`: do not come back with this credential."""

    reason: Literal[
        "shutdown", "lifetime", "slow", "overloaded", "too_many_streams", "expired", "revoked"
    ]
    reconnect_ms: int | None


CONTROL: dict[str, type[BaseModel]] = {
    "hello": HelloFrame,
    "snapshot": SnapshotFrame,
    "reset": ResetFrame,
    "bookmark": BookmarkFrame,
    "counts": CountsFrame,
    "position": PositionFrame,
    "goodbye": GoodbyeFrame,
}


class OpenStream(BaseModel):
    """Who is connected, and how his stream is doing."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "5d0c2f9a1b-17",
                    "process": "5d0c2f9a1b",
                    "account": "shop",
                    "kind": "ticket",
                    "address": "192.0.2.7",
                    "topics": ["order:" + EXAMPLE_ID],
                    "connected_at": "2026-11-21T18:00:00.000Z",
                    "cursor": "k3f9a2c1-1043",
                    "lag": 0,
                    "unsent_bytes": 0,
                    "state": "live",
                    "delivered": 12,
                }
            ]
        }
    )

    id: str
    process: str
    account: str | None = Field(description="Of a ticket its owner; null for the public.")
    kind: Literal["bearer", "session", "ticket", "public"]
    address: str
    topics: list[str] = Field(max_length=64)
    connected_at: str
    cursor: EventId | None = Field(description="The last id it was given; null while it opens.")
    lag: int = Field(description="Events of the log that it has yet to look at.")
    unsent_bytes: int = Field(description="Written to its line, and not with the client yet.")
    state: Literal["opening", "live", "replaying", "full", "ending"]
    delivered: int = Field(description="Events.")


class OpenStreams(BaseModel):
    items: list[OpenStream]
    next_cursor: str | None
    open: int = Field(description="How many streams are open, at all processes.")
    incomplete: list[str] = Field(description="Processes that did not tell theirs in time.")
    truncated: list[str] = Field(description="Processes that have more than they tell.")


class Process(BaseModel):
    id: str
    host: str
    pid: int
    started_at: str
    seen_at: str = Field(description="What follows is as of then.")
    streams: int
    head: EventId
    lag: int = Field(description="How far its head was behind the log's.")


class Processes(BaseModel):
    items: list[Process]


class Ready(BaseModel):
    status: Literal["ok", "unavailable"]
    checks: dict[str, str]


class Page(BaseModel, Generic[T]):
    items: list[T]
    next_cursor: str | None


def account_shape(account: Any) -> dict[str, Any]:
    """An `Account`; `account` is a row of accounts."""
    return {
        "username": account.username,
        "roles": account.roles.split(),
        "customer": account.customer,
        "active": bool(account.active),
        "created_at": instants.stamp(account.created_at),
        "last_seen_at": stamp_or_none(account.last_seen_at),
    }


def results_shape(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "accepted": sum(1 for result in results if 200 <= result["status"] < 300),
        "results": list(results),
    }
