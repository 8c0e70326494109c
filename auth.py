"""Who is calling, and what they may see: passwords, tokens, tickets, principals.

Nothing here speaks HTTP or reads a database: secrets, rows and the time come in as
arguments. Times are milliseconds since 1970 UTC unless a name ends in `_s`; on the wire
of a token they are whole seconds, cut off.

Three credentials exist. A **bearer** and a **session** are JWTs (HS256); they carry the
account's `generation` and a *family*, the chain of tokens that grew from one sign-in. A
**ticket** is a compact HMAC of our own: it names topics, reads only, and lives in URLs.
"""

import asyncio
import functools
import hashlib
import hmac
import json
import re
import secrets
import struct
import threading
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, Literal, ParamSpec, TypeGuard, TypeVar
from uuid import UUID

from jose import jwk, jws
from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from pwdlib.hashers.argon2 import Argon2Hasher

import errors
from models import STAFF, Account, Revocation, Role

P = ParamSpec("P")
T = TypeVar("T")

USERNAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")

# --- Passwords ------------------------------------------------------------------------

# OWASP's Password Storage Cheat Sheet, argon2id: 19 MiB, two passes, one lane. A launch brings
# its customers within a minute: the library's own 64 MiB and four lanes take eight times the
# processor, away from the purchases.
_HASHER = PasswordHash((Argon2Hasher(time_cost=2, memory_cost=19_456, parallelism=1),))
# Two at once, however many sign in. No thread starts before the first of them.
_HASHING = ThreadPoolExecutor(max_workers=2, thread_name_prefix="password")
_PLACES = threading.BoundedSemaphore(64)  # running and waiting; beyond: overloaded


async def hash_password(plain: str) -> str:
    """The argon2id hash to store. Raises `Overloaded`."""
    return await _in_thread(_hash, plain)


async def verify_password(plain: str, stored: str | None) -> bool:
    """Whether the password fits; `stored` is None for an unknown account.

    It takes the same time in both cases, so that nobody learns which names exist.
    Raises `Overloaded`.
    """
    return await _in_thread(_verify, plain, stored)


async def _in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    if not _PLACES.acquire(blocking=False):
        raise errors.Overloaded(retry_after=1)
    try:
        call = functools.partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(_HASHING, call)
    finally:
        _PLACES.release()


def _hash(plain: str) -> str:
    return _HASHER.hash(_bytes(plain))


def _verify(plain: str, stored: str | None) -> bool:
    stand_in = _stand_in()  # before the branch: its first making must not tell either
    try:
        fits = _HASHER.verify(_bytes(plain), stand_in if stored is None else stored)
    except UnknownHashError:  # what is stored is no argon2 hash: no password opens it
        return False
    return fits and stored is not None


@functools.cache
def _stand_in() -> str:
    return _HASHER.hash(secrets.token_bytes(32))


def _bytes(text: str) -> bytes:
    # A lone surrogate is not UTF-8 and would raise; so it is just another character.
    return text.encode("utf-8", "surrogatepass")


# --- Tokens: what they hold -----------------------------------------------------------

ACCESS_S = 15 * 60
REFRESH_S = 30 * 86_400
LONGEST_S = 365 * 86_400  # a bearer made on the command line
SESSION_S = 30 * 60
SESSION_LONGEST_S = 12 * 3_600  # since the sign-in, however often it is renewed
REUSE_GRACE_MS = 10_000  # a used refresh token answers once more, with the same pair

_TOKEN_MAX = 4_096  # characters
_HEADER_MAX = 128  # characters; ours has 36
_READ_LONGEST_S = 366 * 86_400
_SKEW_S = 60
_TEXT_CLAIMS = ("iss", "aud", "sub", "jti", "fam")
_NUMBER_CLAIMS = ("iat", "exp", "gen")
_TOKEN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Kind(StrEnum):
    """What a JWT is for; its `aud`. None passes as another."""

    ACCESS = "access"  # Authorization: Bearer
    REFRESH = "refresh"  # buys a new pair, once
    SESSION = "session"  # the cookie of the pages


@dataclass(frozen=True, slots=True)
class Claims:
    """A JWT that was verified: ours, of the kind asked for, not expired."""

    kind: Kind
    username: str
    family: str
    token_id: str
    generation: int  # the account's when it was issued
    issued_at: int
    expires_at: int
    signed_in_at: int | None  # of a session only


@dataclass(frozen=True, slots=True)
class Pair:
    """The answer to a sign-in or a refresh. The tokens stay out of `repr`, and so of logs."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    expires_in: int  # seconds, of the access token
    scope: str  # the account's roles, space-separated


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket that was verified: ours, not expired."""

    id: str
    owner: str  # username of who issued it; its rights do not come along
    topics: frozenset[str]
    expires_at: int
    max_streams: int
    ticket_generation: int  # the owner's when it was issued


class ExpiredTicket(errors.Unauthenticated):
    """A genuine ticket past its time, so that a page can say so and whom to ask."""

    default_detail = "This ticket has expired; ask whoever gave it to you for a new one."


def new_id() -> str:
    """A fresh id for a family or a token: 128 random bits, 22 URL-safe characters."""
    return _b64(secrets.token_bytes(16))


# --- Tokens: the signer ---------------------------------------------------------------

_NONCE_BYTES = 16
# Half of the hash: RFC 2104 section 5 allows no shorter cut, and 128 bits are out of reach
# for a guess that has to be sent to us one by one. A whole one costs 22 characters of URL.
_MAC_BYTES = 16
_TICKET_MAX = 16_384  # characters in, and bytes after decompression
_TICKET_HEAD = struct.Struct(f">IHI{_NONCE_BYTES}s")  # expiry, streams, generation, nonce
_TICKET_TOPICS = 64
_PLAIN, _DEFLATED = b"\x01", b"\x02"  # the version; the body that follows it
# zlib's output may change with its build, and a short ticket must be the same bytes from
# every process; only those that would strain a URL are compressed.
_DEFLATE_FROM = 1_024


class Signer:
    """Signs and reads everything that must not be forged, with keys from one secret.

    `cursor_key` is for the cursors of lists, `wire_key` for what processes tell each other:
    32 bytes. Raises `ValueError` for a secret
    shorter than 32 bytes.
    """

    def __init__(self, secret: bytes, issuer: str) -> None:
        if len(secret) < 32:
            raise ValueError("the secret key needs at least 32 bytes")
        if not issuer:
            raise ValueError("the issuer must have a name")
        self._issuer = issuer
        derive = functools.partial(_derive, hmac.digest(b"filaviva", secret, "sha256"))
        # As an object: jose tries to read a key that comes as bytes as JSON.
        self._jwt_key = jwk.construct(derive(b"jwt"), "HS256")
        self._id_key = derive(b"token id")
        self._nonce_key = derive(b"nonce")
        self._ticket_key = derive(b"ticket")
        self.cursor_key = derive(b"cursor")
        self.wire_key = derive(b"wire")

    # JWT

    def issue(
        self,
        kind: Kind,
        account: Account,
        family: str,
        now: int,
        lifetime_s: int,
        jti: str | None = None,
        signed_in_at: int | None = None,
    ) -> str:
        """A JWT of this kind, up to 365 days. A session counts from `signed_in_at`, else now.

        Raises `ValueError` for a lifetime out of bounds.
        """
        if not 0 < lifetime_s <= LONGEST_S:
            raise ValueError("a token lives 1 second to 365 days")
        iat = now // 1000
        claims: dict[str, str | int] = {
            "iss": self._issuer,
            "aud": kind.value,
            "sub": account.username,
            "iat": iat,
            "exp": iat + lifetime_s,
            "jti": jti or new_id(),
            "fam": family,
            "gen": account.generation,
        }
        if kind is Kind.SESSION:
            claims["ses"] = iat if signed_in_at is None else signed_in_at // 1000
        return jws.sign(claims, self._jwt_key, algorithm="HS256")

    def read(self, kind: Kind, token: str, now: int) -> Claims:
        """The claims of a token of this kind. Raises `Unauthenticated`, whatever came in."""
        try:
            payload = self._verified_payload(token)
            return _claims(payload, kind, self._issuer, now // 1000)
        except errors.Unauthenticated:
            raise
        except Exception:  # jose lets through what its input provokes, RecursionError too
            raise errors.Unauthenticated from None

    def _verified_payload(self, token: str) -> dict[str, Any]:
        _require(len(token) <= _TOKEN_MAX and token.count(".") == 2)
        header, payload, signature = token.split(".")
        # jose parses the header before it checks the signature, so anybody chooses what
        # it reads: a deep one overflows the stack. A short one cannot be deep.
        _require(len(header) <= _HEADER_MAX)
        _require(json.loads(_unb64(header)) == {"alg": "HS256", "typ": "JWT"})
        _unb64(payload)
        _unb64(signature)  # one spelling for each token: jose ignores strange characters
        return json.loads(jws.verify(token, self._jwt_key, algorithms=["HS256"]))

    # Pairs: access and refresh

    def pair(self, account: Account, family: str, now: int, seed: str | None = None) -> Pair:
        """A new access and refresh token; with a `seed` the same inputs give the same bytes."""
        return Pair(
            access_token=self.issue(
                Kind.ACCESS, account, family, now, ACCESS_S, self._token_id(Kind.ACCESS, seed)
            ),
            refresh_token=self.issue(
                Kind.REFRESH, account, family, now, REFRESH_S, self._token_id(Kind.REFRESH, seed)
            ),
            expires_in=ACCESS_S,
            scope=account.roles,
        )

    def refreshed(self, claims: Claims, account: Account, first_used_at: int) -> Pair:
        """The pair that a refresh token buys, dated from its first use.

        The caller keeps `used_row(claims.token_id)` with the time of the first use. Within
        `REUSE_GRACE_MS` of it the same pair comes out again, byte for byte, so a client
        that lost the answer can repeat; later the token was stolen from somebody, and
        the caller ends the family. Ask `may_refresh` first.
        """
        if claims.kind is not Kind.REFRESH:
            raise ValueError("only a refresh token buys a new pair")
        return self.pair(
            account, claims.family, first_used_at, f"{claims.token_id}|{first_used_at}"
        )

    def _token_id(self, kind: Kind, seed: str | None) -> str | None:
        if seed is None:
            return None
        return _b64(_mac(self._id_key, f"{kind.value}|{seed}".encode())[:_NONCE_BYTES])

    # Sessions

    def session(self, account: Account, family: str, now: int) -> str:
        """The cookie's token after a sign-in: 30 minutes."""
        return self.issue(Kind.SESSION, account, family, now, SESSION_S)

    def renewed(self, claims: Claims, account: Account, now: int) -> str | None:
        """The session's next token, or None.

        It carries the account's present generation: ask `may_refresh` first.
        None while more than half of the 30 minutes is left, and when the 12 hours since
        the sign-in leave nothing to add.
        """
        if claims.signed_in_at is None:
            raise ValueError("only a session is renewed")
        now_s = now // 1000
        until_s = min(now_s + SESSION_S, claims.signed_in_at // 1000 + SESSION_LONGEST_S)
        left = claims.expires_at - now
        if not 0 < left <= SESSION_S * 1000 // 2 or until_s * 1000 <= claims.expires_at:
            return None
        return self.issue(
            Kind.SESSION,
            account,
            claims.family,
            now,
            until_s - now_s,
            signed_in_at=claims.signed_in_at,
        )

    # Tickets

    def nonce(self, text: str) -> bytes:
        """The nonce of a ticket that a replay must repeat, from e.g. the message's id."""
        return _mac(self._nonce_key, _bytes(text))[:_NONCE_BYTES]

    def issue_ticket(
        self,
        owner: str,
        ticket_generation: int,
        topics: Iterable[str],
        expires_at: int,
        max_streams: int,
        nonce: bytes,
    ) -> str:
        """A ticket for 1 to 64 topics; the same inputs give the same text.

        `expires_at` is cut to whole seconds. `nonce` is 16 bytes, from `nonce()` or
        `secrets.token_bytes`. Raises `Invalid` for a malformed topic or their number,
        `ValueError` for the rest.
        """
        named = sorted(set(topics))
        if not 1 <= len(named) <= _TICKET_TOPICS:
            raise errors.Invalid(f"A ticket names 1 to {_TICKET_TOPICS} topics.")
        for topic in named:
            if not is_favourites(topic):
                parse_topic(topic)
        if len(nonce) != _NONCE_BYTES or not USERNAME.fullmatch(owner) or max_streams < 1:
            raise ValueError("not an owner, a nonce or a number of streams")
        head = _ticket_head(expires_at // 1000, max_streams, ticket_generation, nonce)
        sealed = _deflated(head + "\n".join([owner, *named]).encode())
        return _b64(sealed + _mac(self._ticket_key, sealed)[:_MAC_BYTES])

    def read_ticket(self, text: str, now: int) -> Ticket:
        """What the ticket says. Raises `ExpiredTicket` past its time, else `Unauthenticated`."""
        try:
            ticket = _ticket(self._unsealed(text))
        except (ValueError, struct.error, zlib.error):
            raise errors.Unauthenticated from None
        if ticket.expires_at <= now:
            raise ExpiredTicket
        return ticket

    def _unsealed(self, text: str) -> bytes:
        _require(len(text) <= _TICKET_MAX)
        blob = _unb64(text)
        sealed, mac = blob[:-_MAC_BYTES], blob[-_MAC_BYTES:]
        # The MAC comes first: nothing is inflated or parsed that we did not write.
        _require(hmac.compare_digest(mac, _mac(self._ticket_key, sealed)[:_MAC_BYTES]))
        return _inflated(sealed)


def _derive(root: bytes, label: bytes) -> bytes:
    """One 32-byte key: the expand step of HKDF-SHA256 (RFC 5869), the label as its info."""
    return hmac.digest(root, label + b"\x01", "sha256")


def _mac(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def _require(condition: bool) -> None:
    if not condition:
        raise errors.Unauthenticated


def _b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes:
    """Strictly: one spelling for each value. Raises `ValueError`."""
    data = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    if _b64(data) != text:
        raise ValueError("not base64url in its only spelling")
    return data


def _claims(payload: dict[str, Any], kind: Kind, issuer: str, now_s: int) -> Claims:
    _require(all(type(payload.get(name)) is str for name in _TEXT_CLAIMS))
    # `type`, not `isinstance`: true is an int in Python.
    _require(all(type(payload.get(name)) is int for name in _NUMBER_CLAIMS))
    _require(payload["iss"] == issuer and payload["aud"] == kind.value)
    _require(USERNAME.fullmatch(payload["sub"]) is not None)
    _require(all(_TOKEN_ID.fullmatch(payload[name]) for name in ("jti", "fam")))
    iat, exp = payload["iat"], payload["exp"]
    _require(0 <= iat <= now_s + _SKEW_S and 0 < exp - iat <= _READ_LONGEST_S)
    _require(now_s < exp)
    return Claims(
        kind=kind,
        username=payload["sub"],
        family=payload["fam"],
        token_id=payload["jti"],
        generation=payload["gen"],
        issued_at=iat * 1000,
        expires_at=exp * 1000,
        signed_in_at=_signed_in_at(payload) if kind is Kind.SESSION else None,
    )


def _signed_in_at(payload: dict[str, Any]) -> int:
    _require(type(payload.get("ses")) is int)
    ses: int = payload["ses"]
    _require(ses <= payload["iat"] and payload["exp"] - ses <= SESSION_LONGEST_S)
    return ses * 1000


def _ticket_head(expires_s: int, max_streams: int, generation: int, nonce: bytes) -> bytes:
    try:
        return _TICKET_HEAD.pack(expires_s, max_streams, generation, nonce)
    except struct.error as failure:
        raise ValueError("a number of the ticket is out of range") from failure


def _ticket(body: bytes) -> Ticket:
    expires_s, max_streams, generation, nonce = _TICKET_HEAD.unpack_from(body)
    owner, *topics = body[_TICKET_HEAD.size :].decode().split("\n")
    return Ticket(
        id=_b64(nonce),
        owner=owner,
        topics=frozenset(topics),
        expires_at=expires_s * 1000,
        max_streams=max_streams,
        ticket_generation=generation,
    )


def _deflated(body: bytes) -> bytes:
    if len(body) >= _DEFLATE_FROM:
        shorter = zlib.compress(body, 9)
        if len(shorter) < len(body):
            return _DEFLATED + shorter
    return _PLAIN + body


def _inflated(sealed: bytes) -> bytes:
    version, body = sealed[:1], sealed[1:]
    if version == _PLAIN:
        return body
    _require(version == _DEFLATED)
    inflater = zlib.decompressobj()
    plain = inflater.decompress(body, _TICKET_MAX)
    _require(inflater.eof and not inflater.unused_data)  # else a bomb, or cut, or more
    return plain


# --- Revocations ----------------------------------------------------------------------


def family_row(family: str) -> str:
    """The id of the `Revocation` that ends a family."""
    return f"fam:{family}"


def ticket_row(ticket_id: str) -> str:
    """The id of the `Revocation` that ends a ticket."""
    return f"ticket:{ticket_id}"


def used_row(token_id: str) -> str:
    """The id of the `Revocation` that notes a refresh token's first use."""
    return f"used:{token_id}"


def kept_row(family: str, before: int, after: int) -> str:
    """The id of the `Revocation` that spares a family when the account's generation rises.

    Whoever changes his own password stays signed in: the tokens of this family and of
    generation `before` (the caller's own) hold while the account's generation is `after`.
    """
    return f"keep:{family}:{before}:{after}"


def family_ends_at(now: int, expires_at: int) -> int:
    """How long a row that ends or spares a family must be kept.

    `expires_at` is the credential's that asks for it. No other of the family can outlive a
    refresh token bought in this moment, by a call that has not seen the end yet.
    """
    return max(expires_at, now + (REFRESH_S + _SKEW_S) * 1000)


class Revoked:
    """Families and tickets that ended before their time, and families spared, in memory.

    A revocation is never taken back, so rows only add up and what `add` put here at once
    survives a reading of the database that began before it was written. As large as
    the unexpired rows.
    """

    def __init__(self) -> None:
        self._ends: dict[str, int] = {}  # row id -> expires_at

    def merge(self, rows: Iterable[Revocation], now: int) -> None:
        """Takes in rows (all, or those that are new) and forgets what expired."""
        for row in rows:
            self.add(row.id, row.expires_at)
        self._ends = {name: end for name, end in self._ends.items() if end > now}

    def add(self, row_id: str, expires_at: int) -> None:
        self._ends[row_id] = max(expires_at, self._ends.get(row_id, 0))

    def family(self, family: str) -> bool:
        return family_row(family) in self._ends

    def ticket(self, ticket_id: str) -> bool:
        return ticket_row(ticket_id) in self._ends

    def kept(self, family: str, before: int, after: int) -> bool:
        return kept_row(family, before, after) in self._ends

    def __len__(self) -> int:
        return len(self._ends)


# --- Principals -----------------------------------------------------------------------

Credential = Literal["bearer", "ticket", "session"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a verified credential stands for."""

    kind: Credential
    account: str  # username; of a ticket its owner, whose rights it does not have
    roles: frozenset[Role]  # none of a ticket
    customer: str | None  # whose orders are his own; null: nobody's
    topics: frozenset[str]  # of a ticket only
    expires_at: int
    family: str  # "" of a ticket
    token_id: str  # of a JWT its jti, of a ticket its id
    generation: int  # the account's when it was issued; 0 of a ticket
    ticket_generation: int  # of a ticket likewise; else the account's, for tickets it makes
    max_streams: int | None  # of a ticket; null: the service's setting

    def has(self, *roles: Role) -> bool:
        """Whether it has any of these roles."""
        return not self.roles.isdisjoint(roles)

    def owns(self, customer: str | None) -> bool:
        """Whether what belongs to this customer is his own."""
        return self.has(Role.CUSTOMER) and customer is not None and customer == self.customer

    @property
    def staff(self) -> bool:
        return not self.roles.isdisjoint(STAFF)


def roles_of(account: Account) -> frozenset[Role]:
    """The account's roles; a word that is none gives nothing."""
    words = account.roles.split()
    return frozenset(role for role in Role if role.value in words)


def token_principal(claims: Claims, account: Account) -> Principal:
    """Who a bearer or a session stands for. The generation is the token's, for `still_valid`."""
    if claims.kind is Kind.REFRESH:
        raise ValueError("a refresh token stands for nobody")
    return Principal(
        kind="session" if claims.kind is Kind.SESSION else "bearer",
        account=claims.username,
        roles=roles_of(account),
        customer=account.customer,
        topics=frozenset(),
        expires_at=claims.expires_at,
        family=claims.family,
        token_id=claims.token_id,
        generation=claims.generation,
        ticket_generation=account.ticket_generation,
        max_streams=None,
    )


def ticket_principal(ticket: Ticket) -> Principal:
    """Who a ticket stands for: its topics and nothing else."""
    return Principal(
        kind="ticket",
        account=ticket.owner,
        roles=frozenset(),
        customer=None,
        topics=ticket.topics,
        expires_at=ticket.expires_at,
        family="",
        token_id=ticket.id,
        generation=0,
        ticket_generation=ticket.ticket_generation,
        max_streams=ticket.max_streams,
    )


def still_valid(principal: Principal, account: Account | None, revoked: Revoked, now: int) -> bool:
    """Whether the credential holds now, by its account's present row (None: gone).

    A ticket outlives the tokens of its owner: a new password or role ends those alone.
    """
    if principal.expires_at <= now or not _is_active(account, principal.account):
        return False
    if principal.kind == "ticket":
        same = principal.ticket_generation == account.ticket_generation
        return same and not revoked.ticket(principal.token_id)
    return _holds(principal.family, principal.generation, account, revoked)


def may_refresh(claims: Claims, account: Account | None, revoked: Revoked, now: int) -> bool:
    """Whether a refresh token still buys a pair, or a session its renewal.

    The first use of a refresh token is the caller's to look up.
    """
    if claims.expires_at <= now or not _is_active(account, claims.username):
        return False
    return _holds(claims.family, claims.generation, account, revoked)


def _holds(family: str, generation: int, account: Account, revoked: Revoked) -> bool:
    if revoked.family(family):
        return False
    present = account.generation
    return generation == present or revoked.kept(family, generation, present)


def _is_active(account: Account | None, username: str) -> TypeGuard[Account]:
    return account is not None and account.active and account.username == username


class PrincipalCache:
    """Verified principals by the hash of their credential: no signature, no query.

    Bounded; the least recently used go first. Whoever learns of a change of accounts or
    revocations calls `drop`; who has to read first whom it ended, `outdate` before that.
    """

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._kept: OrderedDict[bytes, Principal] = OrderedDict()
        self.changes = 0  # how many it was told of: see `put`

    def get(self, kind: Credential, credential: str, now: int) -> Principal | None:
        key = _cache_key(kind, credential)
        principal = self._kept.get(key)
        if principal is None:
            return None
        if principal.expires_at <= now:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return principal

    def put(self, credential: str, principal: Principal, changes: int) -> None:
        """Keeps it, unless the cache was told of a change since `changes` was read from it.

        Read that number before the account's row: else a principal of the row as it was
        before a change would come in after the change was told, and stay.
        """
        if changes != self.changes:
            return
        key = _cache_key(principal.kind, credential)
        self._kept[key] = principal
        self._kept.move_to_end(key)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)

    def outdate(self) -> None:
        """Whatever is being verified now is not kept: it may be older than a change."""
        self.changes += 1

    def principals(self) -> set[Principal]:
        return set(self._kept.values())

    def drop(self, is_ended: Callable[[Principal], bool]) -> None:
        """Those alone: else each change would send everyone to the database."""
        self.outdate()
        self._kept = OrderedDict(
            (key, principal) for key, principal in self._kept.items() if not is_ended(principal)
        )

    def __len__(self) -> int:
        return len(self._kept)


def _cache_key(kind: Credential, credential: str) -> bytes:
    # With the kind: a bearer that is sent as a cookie must not pass for either.
    return hashlib.sha256(_bytes(f"{kind}:{credential}")).digest()


# --- Permissions ----------------------------------------------------------------------

_UUID7 = r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}"
_TOPIC = re.compile(
    rf"(order):({_UUID7})|(customer|stock):({_NAME})"
    r"|(queue):([a-z0-9][a-z0-9._-]{0,63})|(queues|stock|favourites)()"
)
FAVOURITES = "favourites"
_WHOSE = re.compile(rf"{FAVOURITES}:{_NAME}")  # what it stands for: never said from outside
_FOLLOWERS = {
    "order": STAFF,
    "customer": STAFF - {Role.WORKER},
    "queue": STAFF,
    "queues": STAFF,
    "stock": frozenset(Role),
}
_ORDER_READERS = STAFF - {Role.WORKER}


class Access(Enum):
    """The answer of a permission."""

    ALLOWED = "allowed"
    ANONYMOUS = "anonymous"  # 401: nobody is signed in
    FORBIDDEN = "forbidden"  # 403: none of the roles reaches this kind of thing
    HIDDEN = "hidden"  # 404: not his, or not there; which of the two stays unsaid

    def demand(self) -> None:
        """Raises `Unauthenticated`, `Forbidden` or `NotFound` unless it is allowed."""
        if self is not Access.ALLOWED:
            raise _REFUSALS[self]


_REFUSALS: dict[Access, type[errors.Problem]] = {
    Access.ANONYMOUS: errors.Unauthenticated,
    Access.FORBIDDEN: errors.Forbidden,
    Access.HIDDEN: errors.NotFound,
}


def parse_topic(text: str, *, pointer: str | None = None) -> tuple[str, str]:
    """The kind of a topic and its id, which is "" for `queues` and for all of `stock`.

    Raises `Invalid`, located at `pointer` if it stood in a body, else at the parameter.
    """
    match = _TOPIC.fullmatch(text)
    if match is None:
        sentence = "Not a topic."
        where = {"parameter": "topic"} if pointer is None else {"pointer": pointer}
        raise errors.Invalid(sentence, errors=[{"detail": sentence, **where}])
    kind, name = (part for part in match.groups() if part is not None)
    return kind, name


def may_follow(
    principal: Principal | None, topic: str, *, order_customer: str | None, public_stock: bool
) -> Access:
    """Whether the topic may be followed. Raises `Invalid` for a malformed one.

    `order_customer` is whose order it is, for `order:` only; None means that there is no
    such order, hidden from everybody. Whether a queue exists is the caller's to look up.
    """
    kind, name = parse_topic(topic)
    if kind == "stock" and public_stock:
        return Access.ALLOWED
    if kind == FAVOURITES:
        return _favourites_access(principal)
    if kind == "order":
        return _order_access(principal, topic, order_customer, _FOLLOWERS[kind])
    own = principal.owns(name) if principal and kind == "customer" else None
    return _judge(principal, topic, _FOLLOWERS[kind], own)


def _favourites_access(principal: Principal | None) -> Access:
    """Whoever has a customer id has favourites."""
    if principal is None:
        return Access.ANONYMOUS
    return Access.ALLOWED if _whose_favourites(principal) else Access.HIDDEN


def is_favourites(topic: str) -> bool:
    """Whether it is the topic of somebody's favourites, as `followed` names it."""
    return _WHOSE.fullmatch(topic) is not None


def _whose_favourites(principal: Principal) -> frozenset[str]:
    if principal.kind == "ticket":
        return frozenset(filter(is_favourites, principal.topics))
    return frozenset(() if principal.customer is None else {f"{FAVOURITES}:{principal.customer}"})


def followed(principal: Principal | None, topics: Iterable[str]) -> frozenset[str]:
    """The topics of a call that was allowed, `favourites` as whose they are."""
    named = frozenset(topics)
    if principal is None or FAVOURITES not in named:
        return named
    return named - {FAVOURITES} | _whose_favourites(principal)


def may_read_order(
    principal: Principal | None, customer: str | None, order_id: UUID | str
) -> Access:
    """Whether an order and its history may be read as its customer sees them.

    `customer` is whose order it is; None means that there is no such order.
    """
    return _order_access(principal, f"order:{order_id}", customer, _ORDER_READERS)


def _order_access(
    principal: Principal | None, topic: str, customer: str | None, readers: frozenset[Role]
) -> Access:
    own = principal.owns(customer) if principal else None
    access = _judge(principal, topic, readers, own)
    return Access.HIDDEN if access is Access.ALLOWED and customer is None else access


def _judge(
    principal: Principal | None, topic: str, readers: frozenset[Role], own: bool | None
) -> Access:
    """`own`: whether it is the customer's own; None: of a kind that no customer owns."""
    if principal is None:
        return Access.ANONYMOUS
    if principal.kind == "ticket":
        return Access.ALLOWED if topic in principal.topics else Access.HIDDEN
    if own or principal.has(*readers):
        return Access.ALLOWED
    hides = own is not None and principal.has(Role.CUSTOMER)
    return Access.HIDDEN if hides else Access.FORBIDDEN
