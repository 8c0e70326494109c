"""Passwords, tokens, tickets, principals and permissions, without HTTP or a database."""

import asyncio
import secrets
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

import auth
import errors
from auth import Access, Claims, Kind, Principal, PrincipalCache, Revoked, Signer
from models import Account, Revocation, Role

NOW = 1_795_284_000_123
SECRET = b"0123456789abcdef0123456789abcdef"
ORDER = "01a1ff43-dd00-7b3e-8f21-4c5d6e7f8091"
SIGNER = Signer(SECRET, "filaviva")
MINUTE = 60_000


def account(
    username: str = "ana", roles: str = "customer", customer: str | None = "c-7"
) -> Account:
    return Account(username=username, roles=roles, customer=customer, password_hash="-")


def principal(*roles: Role, customer: str | None = None) -> Principal:
    words = " ".join(sorted(roles))
    row = account(roles=words, customer=customer)
    return auth.token_principal(claims_of(SIGNER.pair(row, "fam1", NOW).access_token), row)


def claims_of(token: str, kind: Kind = Kind.ACCESS, now: int = NOW) -> Claims:
    return SIGNER.read(kind, token, now)


def ticket_for(*topics: str, expires_at: int = NOW + 900_000) -> str:
    return SIGNER.issue_ticket("shop", 3, topics, expires_at, 16, SIGNER.nonce(ORDER))


# --- Passwords ------------------------------------------------------------------------


class CountingHasher(Argon2Hasher):
    """Argon2 made cheap, that counts its verifications and how many ran at once."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.verified: list[str] = []
        self.running = 0
        self.most = 0
        self.gate = threading.Event()
        self.gate.set()
        self._lock = threading.Lock()

    def verify(self, password: str | bytes, hash: str | bytes) -> bool:  # noqa: A002 pwdlib's name
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
            self.verified.append(str(hash))
        self.gate.wait(60)
        with self._lock:
            self.running -= 1
        return super().verify(password, hash)


@pytest.fixture
def hasher(monkeypatch: pytest.MonkeyPatch) -> Iterator[CountingHasher]:
    counting = CountingHasher()
    monkeypatch.setattr(auth, "_HASHER", PasswordHash((counting,)))
    auth._stand_in.cache_clear()
    yield counting
    counting.gate.set()
    auth._stand_in.cache_clear()


async def test_a_password_opens_its_own_hash_only() -> None:
    """A stored password is argon2id of OWASP's strength, and only the same password fits it."""
    stored = await auth.hash_password("correct horse battery")
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert len(stored) <= 255
    assert await auth.verify_password("correct horse battery", stored)
    assert not await auth.verify_password("correct horse batterz", stored)


async def test_unknown_accounts_cost_one_verification(hasher: CountingHasher) -> None:
    """A sign-in to a name that does not exist does the same work as to one that does."""
    stored = await auth.hash_password("correct horse battery")
    assert await auth.verify_password("correct horse battery", stored)
    assert not await auth.verify_password("correct horse battery", None)
    assert not await auth.verify_password("another password", None)
    known, unknown, again = hasher.verified
    assert known == stored
    assert unknown == again != stored


async def test_a_stored_value_that_is_no_hash_opens_to_nobody(hasher: CountingHasher) -> None:
    """A damaged or disabled password is a refusal, not a failure."""
    for stored in ("", "!", "$argon2id$", "plain text"):
        assert not await auth.verify_password("plain text", stored)
    assert hasher.most <= 1


async def test_any_text_is_a_password(hasher: CountingHasher) -> None:
    """NUL, emoji and lone surrogates are hashed like anything else."""
    for plain in ("a\0b", "páss🎉word", "x\ud800y"):
        stored = await auth.hash_password(plain)
        assert await auth.verify_password(plain, stored)
        assert not await auth.verify_password(plain + "!", stored)
    assert len(hasher.verified) == 6


async def test_a_burst_of_sign_ins_is_bounded(hasher: CountingHasher) -> None:
    """Two hashes run at once, 64 wait, the next is told to come back; then all is well again."""
    stored = await auth.hash_password("correct horse battery")
    hasher.gate.clear()
    calls = [
        asyncio.create_task(auth.verify_password("correct horse battery", stored))
        for _ in range(70)
    ]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED, timeout=60)
    hasher.gate.set()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, errors.Overloaded)]
    assert len(refused) == 6
    assert answers.count(True) == 64
    assert hasher.most <= 2
    assert await auth.verify_password("correct horse battery", stored)


# --- Keys and tokens ------------------------------------------------------------------


@pytest.mark.parametrize("secret", [b"", b"x" * 31])
def test_short_secrets_do_not_start(secret: bytes) -> None:
    """A secret that could be guessed refuses to start."""
    with pytest.raises(ValueError, match="32 bytes"):
        Signer(secret, "filaviva")
    with pytest.raises(ValueError, match="issuer"):
        Signer(SECRET, "")


def test_keys_are_hkdf() -> None:
    """Keys for different uses come from the one secret by RFC 5869, so none reveals another."""
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=b"filaviva", info=b"cursor")
    assert SIGNER.cursor_key == hkdf.derive(SECRET)
    keys = {SIGNER._id_key, SIGNER._nonce_key, SIGNER._ticket_key, SIGNER.cursor_key}
    assert len(keys) == 4


@given(
    kind=st.sampled_from(Kind),
    now=st.integers(1_000_000_000_000, 4_000_000_000_000),
    lifetime_s=st.integers(1, auth.SESSION_LONGEST_S),
    generation=st.integers(1, 2**31 - 1),
)
def test_tokens_round_trip(kind: Kind, now: int, lifetime_s: int, generation: int) -> None:
    """What is signed is what is read, to the second, until it expires and not after."""
    row = account()
    row.generation = generation
    token = SIGNER.issue(kind, row, "fam1", now, lifetime_s, "jti1")
    second = now // 1000 * 1000
    claims = SIGNER.read(kind, token, now)
    assert claims == Claims(
        kind=kind,
        username="ana",
        family="fam1",
        token_id="jti1",
        generation=generation,
        issued_at=second,
        expires_at=second + lifetime_s * 1000,
        signed_in_at=second if kind is Kind.SESSION else None,
    )
    assert SIGNER.read(kind, token, claims.expires_at - 1) == claims
    with pytest.raises(errors.Unauthenticated):
        SIGNER.read(kind, token, claims.expires_at)


def test_clocks_may_differ_by_a_minute() -> None:
    """A token from a minute ahead is taken, one from further ahead is not."""
    token = SIGNER.issue(Kind.ACCESS, account(), "fam1", NOW, 900)
    assert claims_of(token, now=NOW - MINUTE)
    with pytest.raises(errors.Unauthenticated):
        claims_of(token, now=NOW - MINUTE - 1000)


def test_a_bearer_lives_a_year_at_most() -> None:
    """The command line makes tokens of up to 365 days, and nobody longer ones."""
    year = 365 * 86_400
    token = SIGNER.issue(Kind.ACCESS, account(), "fam1", NOW, year)
    assert claims_of(token, now=NOW + (year - 1) * 1000)
    for lifetime_s in (0, -1, year + 1):
        with pytest.raises(ValueError, match="365"):
            SIGNER.issue(Kind.ACCESS, account(), "fam1", NOW, lifetime_s)


def test_a_pair_is_an_access_and_a_refresh_token() -> None:
    """A sign-in answers 15 minutes of access and 30 days of refresh, of one family."""
    pair = SIGNER.pair(account(roles="producer worker"), "fam1", NOW)
    access = claims_of(pair.access_token)
    refresh = claims_of(pair.refresh_token, Kind.REFRESH)
    assert (pair.expires_in, pair.scope) == (900, "producer worker")
    assert access.expires_at - access.issued_at == 900_000
    assert refresh.expires_at - refresh.issued_at == 30 * 86_400_000
    assert access.family == refresh.family == "fam1"
    assert access.token_id != refresh.token_id
    assert pair.access_token != SIGNER.pair(account(), "fam1", NOW).access_token


def test_a_refresh_repeats_byte_for_byte() -> None:
    """A client that lost the answer to a refresh gets the very same pair, from any process."""
    first = SIGNER.pair(account(), "fam1", NOW)
    claims = claims_of(first.refresh_token, Kind.REFRESH)
    used_at = NOW + 5 * MINUTE
    pair = SIGNER.refreshed(claims, account(), used_at)
    assert pair == Signer(SECRET, "filaviva").refreshed(claims, account(), used_at)
    renewed = claims_of(pair.refresh_token, Kind.REFRESH, used_at)
    assert renewed.issued_at == used_at // 1000 * 1000
    assert renewed.family == "fam1"
    ids = {claims.token_id, renewed.token_id, claims_of(pair.access_token, now=used_at).token_id}
    assert len(ids) == 3


def test_different_refreshes_differ() -> None:
    """Another token, another first use or another secret gives another pair."""
    claims = claims_of(SIGNER.pair(account(), "fam1", NOW).refresh_token, Kind.REFRESH)
    other = replace(claims, token_id="other")
    pairs = {
        SIGNER.refreshed(claims, account(), NOW).refresh_token,
        SIGNER.refreshed(claims, account(), NOW + 1).refresh_token,
        SIGNER.refreshed(other, account(), NOW).refresh_token,
        Signer(SECRET[::-1], "filaviva").refreshed(claims, account(), NOW).refresh_token,
    }
    assert len(pairs) == 4


def test_only_refresh_tokens_refresh() -> None:
    """An access token buys nothing, and a refresh token stands for nobody."""
    pair = SIGNER.pair(account(), "fam1", NOW)
    with pytest.raises(ValueError, match="refresh"):
        SIGNER.refreshed(claims_of(pair.access_token), account(), NOW)
    with pytest.raises(ValueError, match="nobody"):
        auth.token_principal(claims_of(pair.refresh_token, Kind.REFRESH), account())


def test_pairs_do_not_show_in_logs() -> None:
    """The printed form of a pair holds neither of its tokens."""
    pair = SIGNER.pair(account(), "fam1", NOW)
    assert pair.access_token not in repr(pair)
    assert pair.refresh_token not in repr(pair)


def test_a_session_is_renewed_in_its_second_half() -> None:
    """The cookie is written anew only when half of its 30 minutes is gone."""
    claims = claims_of(SIGNER.session(account(), "fam1", NOW), Kind.SESSION)
    assert SIGNER.renewed(claims, account(), NOW + 14 * MINUTE) is None
    assert SIGNER.renewed(claims, account(), claims.expires_at) is None
    token = SIGNER.renewed(claims, account(), NOW + 16 * MINUTE)
    assert token is not None
    later = claims_of(token, Kind.SESSION, NOW + 16 * MINUTE)
    assert later.expires_at == NOW // 1000 * 1000 + 46 * MINUTE
    assert (later.signed_in_at, later.family) == (claims.signed_in_at, "fam1")


def test_a_session_ends_twelve_hours_after_the_sign_in() -> None:
    """However eagerly it is used, a session never outlives its 12 hours, nor falls short."""
    now = NOW
    claims = claims_of(SIGNER.session(account(), "fam1", now), Kind.SESSION)
    while now < claims.expires_at:
        token = SIGNER.renewed(claims, account(), now)
        claims = claims_of(token, Kind.SESSION, now) if token else claims
        now += MINUTE
    assert claims.expires_at == NOW // 1000 * 1000 + 12 * 60 * MINUTE
    assert SIGNER.renewed(claims, account(), claims.expires_at - 1000) is None


def test_only_sessions_are_renewed() -> None:
    """A bearer is never stretched the way a cookie is."""
    with pytest.raises(ValueError, match="session"):
        SIGNER.renewed(claims_of(SIGNER.pair(account(), "f", NOW).access_token), account(), NOW)


# --- Tickets --------------------------------------------------------------------------

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}", fullmatch=True)
QUEUES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
TOPICS = st.one_of(
    st.uuids(version=4).map(lambda id_: f"order:{str(id_)[:14]}7{str(id_)[15:]}"),
    NAMES.map("customer:{}".format),
    NAMES.map("stock:{}".format),
    QUEUES.map("queue:{}".format),
    NAMES.map("favourites:{}".format),
    st.sampled_from(["queues", "stock"]),
)


@given(
    owner=st.from_regex(auth.USERNAME, fullmatch=True),
    generation=st.integers(0, 2**32 - 1),
    topics=st.sets(TOPICS, min_size=1, max_size=64),
    expires_s=st.integers(NOW // 1000 + 1, 2**32 - 1),
    max_streams=st.integers(1, 65_535),
    nonce=st.binary(min_size=16, max_size=16),
)
def test_tickets_round_trip(
    owner: str, generation: int, topics: set[str], expires_s: int, max_streams: int, nonce: bytes
) -> None:
    """A ticket says exactly what it was given, and the same inputs give the same bytes."""
    given_ = (owner, generation, topics, expires_s * 1000, max_streams, nonce)
    text = SIGNER.issue_ticket(*given_)
    ticket = SIGNER.read_ticket(text, NOW)
    assert (ticket.owner, ticket.ticket_generation, ticket.topics) == (owner, generation, topics)
    assert (ticket.expires_at, ticket.max_streams) == (expires_s * 1000, max_streams)
    assert text == Signer(SECRET, "filaviva").issue_ticket(*given_)
    assert text == SIGNER.issue_ticket(owner, generation, sorted(topics) * 2, *given_[3:])


def test_nonces_follow_their_text() -> None:
    """The ticket of a replayed post has the id of the first, that of another post its own."""
    assert SIGNER.nonce("a") == Signer(SECRET, "elsewhere").nonce("a") != SIGNER.nonce("b")
    assert SIGNER.nonce("a") != Signer(SECRET[::-1], "filaviva").nonce("a")
    assert len(SIGNER.nonce("")) == 16


def test_the_largest_ticket_fits_a_url() -> None:
    """64 of the longest topics stay well below the 8 KiB of an address, path included."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._@+-"

    def name() -> str:
        return "Z" + "".join(secrets.choice(letters) for _ in range(63))

    text = ticket_for(*(f"customer:{name()}" for _ in range(64)))
    assert len(SIGNER.read_ticket(text, NOW).topics) == 64
    assert len(text) < 6_500


def test_a_tracking_ticket_is_short() -> None:
    """The link a customer gets by mail stays below 160 characters of ticket."""
    assert len(ticket_for(f"order:{ORDER}")) < 160


def test_an_expired_ticket_is_told_apart() -> None:
    """A page can tell an expired link from a false one, while the code stays the same."""
    text = ticket_for("stock", expires_at=NOW)
    with pytest.raises(auth.ExpiredTicket) as caught:
        SIGNER.read_ticket(text, NOW)
    assert (caught.value.code, caught.value.status) == ("unauthenticated", 401)
    assert errors.catalogue()["unauthenticated"] is errors.Unauthenticated
    assert SIGNER.read_ticket(text, NOW - 1000).topics == {"stock"}


@pytest.mark.parametrize("topics", [[], ["orders:1"], [f"customer:c{n}" for n in range(65)]])
def test_tickets_name_one_to_64_good_topics(topics: list[str]) -> None:
    """Nothing malformed is ever signed."""
    with pytest.raises(errors.Invalid):
        ticket_for(*topics)


@pytest.mark.parametrize(
    "owner, generation, expires_at, max_streams, nonce",
    [
        ("Ana", 1, NOW, 1, b"n" * 16),
        ("ana\nqueues", 1, NOW, 1, b"n" * 16),
        ("ana", -1, NOW, 1, b"n" * 16),
        ("ana", 1, 2**32 * 1000, 1, b"n" * 16),
        ("ana", 1, -1, 1, b"n" * 16),
        ("ana", 1, NOW, 0, b"n" * 16),
        ("ana", 1, NOW, 65_536, b"n" * 16),
        ("ana", 1, NOW, 1, b"n" * 15),
    ],
)
def test_tickets_refuse_what_does_not_fit(
    owner: str, generation: int, expires_at: int, max_streams: int, nonce: bytes
) -> None:
    """A value that a ticket cannot carry is refused where it is made, not cut."""
    with pytest.raises(ValueError, match=r"ticket|owner"):
        SIGNER.issue_ticket(owner, generation, ["stock"], expires_at, max_streams, nonce)


# --- Principals, revocations, the cache -----------------------------------------------


def test_roles_are_words() -> None:
    """Roles add up, and a word that is no role gives no right."""
    assert auth.roles_of(account(roles="producer worker")) == {Role.PRODUCER, Role.WORKER}
    assert auth.roles_of(account(roles="")) == frozenset()
    assert auth.roles_of(account(roles="administrator admins")) == frozenset()


@pytest.mark.parametrize("role", Role)
def test_staff_is_everybody_but_customers(role: Role) -> None:
    """Any role but customer makes staff."""
    assert principal(role).staff is (role is not Role.CUSTOMER)
    assert principal(role).has(role, Role.ADMIN)
    assert not principal(role).has()


def test_own_needs_role_and_customer() -> None:
    """Only the customer role with that very id owns; nobody owns what belongs to nobody."""
    assert principal(Role.CUSTOMER, customer="c-7").owns("c-7")
    assert not principal(Role.CUSTOMER, customer="c-7").owns("c-8")
    assert not principal(Role.CUSTOMER).owns(None)
    assert not principal(Role.VIEWER, customer="c-7").owns("c-7")


def bearer() -> Principal:
    return auth.token_principal(
        claims_of(SIGNER.pair(account(), "fam1", NOW).access_token), account()
    )


def ticket() -> Principal:
    row = account("shop")
    text = SIGNER.issue_ticket(
        "shop", row.ticket_generation, ["stock"], NOW + 900_000, 4, b"n" * 16
    )
    return auth.ticket_principal(SIGNER.read_ticket(text, NOW))


def test_principals_say_what_they_are() -> None:
    """Bearer, session and ticket are told apart, and a ticket has no role of its owner."""
    cookie = claims_of(SIGNER.session(account(), "fam1", NOW), Kind.SESSION)
    assert bearer().kind == "bearer"
    assert auth.token_principal(cookie, account()).kind == "session"
    assert (ticket().kind, ticket().account, ticket().max_streams) == ("ticket", "shop", 4)
    assert not ticket().roles
    assert not ticket().staff


@pytest.mark.parametrize(
    "change, bearer_holds, ticket_holds",
    [
        ({}, True, True),
        ({"generation": 2}, False, True),
        ({"ticket_generation": 2}, True, False),
        ({"active": False}, False, False),
        ({"username": "other"}, False, False),
    ],
)
def test_credentials_follow_their_account(
    change: dict[str, object], bearer_holds: bool, ticket_holds: bool
) -> None:
    """A change of password or role ends tokens, not tickets; both end with the account."""
    revoked = Revoked()
    refresh = claims_of(SIGNER.pair(account(), "fam1", NOW).refresh_token, Kind.REFRESH)
    ana, shop = account(), account("shop")
    for name, value in change.items():
        setattr(ana, name, value)
        setattr(shop, name, value)
    assert auth.still_valid(bearer(), ana, revoked, NOW) is bearer_holds
    assert auth.may_refresh(refresh, ana, revoked, NOW) is bearer_holds
    assert auth.still_valid(ticket(), shop, revoked, NOW) is ticket_holds


def test_credentials_end() -> None:
    """What expired, was revoked, or lost its account is not valid any more."""
    revoked = Revoked()
    refresh = claims_of(SIGNER.pair(account(), "fam1", NOW).refresh_token, Kind.REFRESH)
    for who, row in ((bearer(), account()), (ticket(), account("shop"))):
        assert auth.still_valid(who, row, revoked, NOW)
        assert not auth.still_valid(who, None, revoked, NOW)
        assert not auth.still_valid(who, row, revoked, who.expires_at)
    assert not auth.may_refresh(refresh, None, revoked, NOW)
    assert not auth.may_refresh(refresh, account(), revoked, refresh.expires_at)
    revoked.add(auth.family_row("fam1"), NOW + MINUTE)
    assert not auth.still_valid(bearer(), account(), revoked, NOW)
    assert not auth.may_refresh(refresh, account(), revoked, NOW)
    assert auth.still_valid(ticket(), account("shop"), revoked, NOW)
    revoked.add(auth.ticket_row(ticket().token_id), NOW + MINUTE)
    assert not auth.still_valid(ticket(), account("shop"), revoked, NOW)


def test_a_changed_password_spares_the_family_that_changed_it() -> None:
    """Who changes his password stays signed in; his other families, and older tokens, end."""
    revoked = Revoked()
    row = account()
    mine, other = (SIGNER.pair(row, family, NOW) for family in ("fam1", "fam2"))
    refreshes = [claims_of(pair.refresh_token, Kind.REFRESH) for pair in (mine, other)]
    row.generation = 2
    revoked.merge([row_of(auth.kept_row("fam1", 1, 2), NOW + MINUTE)], NOW)
    assert auth.still_valid(bearer(), row, revoked, NOW)
    assert [auth.may_refresh(claims, row, revoked, NOW) for claims in refreshes] == [True, False]
    row.generation = 3
    assert not auth.still_valid(bearer(), row, revoked, NOW)
    revoked.add(auth.kept_row("fam1", 2, 3), NOW + MINUTE)
    assert not auth.still_valid(bearer(), row, revoked, NOW)
    row.generation = 2
    revoked.add(auth.family_row("fam1"), NOW + MINUTE)
    assert not auth.still_valid(bearer(), row, revoked, NOW)


def row_of(row_id: str, expires_at: int) -> Revocation:
    return Revocation(id=row_id, created_at=NOW, expires_at=expires_at)


def test_revocations_add_up_until_they_expire() -> None:
    """A reading of the database that began too early does not undo what was revoked here."""
    revoked = Revoked()
    revoked.add("fam:here", NOW + 10)
    revoked.merge([row_of("fam:there", NOW + 20), row_of("ticket:t", NOW + 20)], NOW)
    assert revoked.family("here")
    assert revoked.family("there")
    assert revoked.ticket("t")
    assert not revoked.family("t")
    revoked.merge([], NOW + 10)
    assert not revoked.family("here")
    assert revoked.family("there")
    assert len(revoked) == 2
    revoked.merge([row_of("fam:there", NOW + 15)], NOW + 15)
    assert revoked.family("there")
    revoked.merge([], NOW + 20)
    assert not revoked.family("there")


def test_a_family_stays_revoked_as_long_as_it_could_live() -> None:
    """The revocation outlives a refresh bought in the same moment, and a bearer of a year."""
    late = claims_of(SIGNER.pair(account(), "fam1", NOW).refresh_token, Kind.REFRESH)
    assert auth.family_ends_at(NOW, 0) >= late.expires_at
    assert auth.family_ends_at(NOW, NOW + 400 * 86_400_000) == NOW + 400 * 86_400_000


def test_row_ids_fit_their_column() -> None:
    """The ids of revocations fit the 80 characters of the table."""
    for name in (auth.family_row, auth.ticket_row, auth.used_row):
        assert len(name("x" * 64)) <= 80
    assert len(auth.new_id()) == 22
    assert len(auth.kept_row(auth.new_id(), 2**31 - 1, 2**31 - 1)) <= 80


def test_the_cache_answers_until_expiry() -> None:
    """A verified credential is found again by its text and kind until it expires."""
    cache, who = PrincipalCache(), bearer()
    cache.put("token", who, cache.changes)
    assert cache.get("bearer", "token", NOW) is who
    assert cache.get("bearer", "token2", NOW) is None
    assert cache.get("bearer", "token", who.expires_at) is None
    assert len(cache) == 0


def test_the_cache_is_bounded() -> None:
    """The least recently used principal makes room for the newest."""
    cache, who = PrincipalCache(size=2), bearer()
    for text in ("a", "b"):
        cache.put(text, who, cache.changes)
    assert cache.get("bearer", "a", NOW)
    cache.put("c", who, cache.changes)
    assert [bool(cache.get("bearer", text, NOW)) for text in "abc"] == [True, False, True]


def test_a_change_beats_a_put_that_began_before_it() -> None:
    """A principal read before a revocation cannot enter the cache after it."""
    cache, who = PrincipalCache(), bearer()
    for tell in (cache.outdate, lambda: cache.drop(lambda _: False)):
        before = cache.changes
        tell()
        cache.put("token", who, before)
        assert cache.get("bearer", "token", NOW) is None
    cache.put("token", who, cache.changes)
    cache.drop(lambda one: one == who)
    assert cache.get("bearer", "token", NOW) is None


def test_the_cache_drops_those_who_ended_alone() -> None:
    """A change forgets whom it ended, and nobody else."""
    cache, who, other = PrincipalCache(), bearer(), ticket()
    cache.put("his", who, cache.changes)
    cache.put("theirs", other, cache.changes)
    assert cache.principals() == {who, other}
    cache.drop(lambda one: one == who)
    assert cache.get("bearer", "his", NOW) is None
    assert cache.get("ticket", "theirs", NOW) is other


# --- Topics and permissions -----------------------------------------------------------


@pytest.mark.parametrize(
    "text, parsed",
    [
        (f"order:{ORDER}", ("order", ORDER)),
        ("customer:c-7", ("customer", "c-7")),
        ("customer:A" + "@" * 63, ("customer", "A" + "@" * 63)),
        ("queue:orders", ("queue", "orders")),
        ("queues", ("queues", "")),
        ("stock:disc+1", ("stock", "disc+1")),
        ("stock", ("stock", "")),
        ("favourites", ("favourites", "")),
    ],
)
def test_topics_are_read(text: str, parsed: tuple[str, str]) -> None:
    """Every kind of topic is read into its kind and id."""
    assert auth.parse_topic(text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "order",
        "order:",
        f"order:{ORDER.upper()}",
        "order:01a1ff43-dd00-4b3e-8f21-4c5d6e7f8091",
        "order:01a1ff43-dd00-7b3e-cf21-4c5d6e7f8091",
        f"order:{{{ORDER}}}",
        "customer",
        "customer:",
        "customer:.x",
        "customer:a" + "b" * 64,
        "customer:é",
        "queue",
        "queue:Orders",
        "queue:a\n",
        "queues:",
        "queues:a",
        "stock:",
        "stock:a b",
        "stock\n",
        "stock\0",
        " stock",
        "Stock",
        "favourites:",
        "favourites:c-7",
        "Favourites",
        "stock:\ud800",
    ],
)
def test_malformed_topics_are_refused(text: str) -> None:
    """A malformed topic is located and refused, without repeating the input."""
    with pytest.raises(errors.Invalid) as caught:
        auth.parse_topic(text)
    assert caught.value.errors == [{"detail": "Not a topic.", "parameter": "topic"}]
    with pytest.raises(errors.Invalid) as caught:
        auth.parse_topic(text, pointer="#/topics/1")
    assert caught.value.errors == [{"detail": "Not a topic.", "pointer": "#/topics/1"}]


@given(st.text())
def test_parsing_never_fails_otherwise(text: str) -> None:
    """Any text is a topic or `invalid`."""
    try:
        kind, name = auth.parse_topic(text)
    except errors.Invalid:
        return
    assert text == (f"{kind}:{name}" if name else kind)


ROLES = ("nobody", "ticket", "customer", "producer", "worker", "viewer", "admin")
# One line for each kind of thing, one word for each column of ROLES.
MATRIX = {
    "order": "- named own yes yes yes yes",
    "customer": "- named own yes - yes yes",
    "queue": "- named - yes yes yes yes",
    "queues": "- named - yes yes yes yes",
    "stock": "pub named,pub yes yes yes yes yes",
    "stock:": "pub named,pub yes yes yes yes yes",
    "read order": "- named own yes - yes yes",
}
TOPIC_OF = {
    "order": f"order:{ORDER}",
    "customer": "customer:c-7",
    "queue": "queue:orders",
    "queues": "queues",
    "stock": "stock",
    "stock:": "stock:disc-001",
    "read order": f"order:{ORDER}",
}
CELLS = [
    (row, who, word)
    for row, words in MATRIX.items()
    for who, word in zip(ROLES, words.split(), strict=True)
]


def caller(who: str, topics: frozenset[str], customer: str) -> Principal | None:
    if who == "nobody":
        return None
    if who == "ticket":
        return replace(ticket(), topics=topics)
    return principal(Role(who), customer=customer)


def asked(row: str, who: Principal | None, customer: str | None, public: bool) -> Access:
    if row == "read order":
        return auth.may_read_order(who, customer, ORDER)
    return auth.may_follow(who, TOPIC_OF[row], order_customer=customer, public_stock=public)


def expected(word: str, who: str, named: bool, own: bool, public: bool) -> Access:
    words = word.split(",")
    holds = {"yes": True, "named": named, "own": own, "pub": public, "-": False}
    if any(holds[one] for one in words):
        return Access.ALLOWED
    if who == "nobody":
        return Access.ANONYMOUS
    return Access.FORBIDDEN if words == ["-"] else Access.HIDDEN


@pytest.mark.parametrize("row, who, word", CELLS)
@pytest.mark.parametrize("public", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_the_table_of_permissions(
    row: str, who: str, word: str, named: bool, own: bool, public: bool
) -> None:
    """Each cell of the table of who may follow and read what, allowed and refused."""
    topics = frozenset({TOPIC_OF[row]}) if named else frozenset({"customer:someone"})
    person = caller(who, topics, "c-7" if own else "c-8")
    assert asked(row, person, "c-7", public) is expected(word, who, named, own, public)


@pytest.mark.parametrize("row", ["order", "read order"])
@pytest.mark.parametrize("who", ROLES)
def test_an_order_that_is_not_there_is_hidden(row: str, who: str) -> None:
    """Nobody is told more of a missing order than of another's."""
    person = caller(who, frozenset({TOPIC_OF[row]}), "c-7")
    answer = asked(row, person, None, False)
    there = asked(row, person, "c-9", False)
    assert answer is (Access.HIDDEN if there is Access.ALLOWED else there)


@given(st.sets(st.sampled_from(Role)), st.sampled_from(sorted(MATRIX)), st.booleans())
def test_roles_add_up(roles: set[Role], row: str, own: bool) -> None:
    """Several roles allow what any of them allows, and nothing else."""
    mine = "c-7" if own else "c-8"
    together = asked(row, principal(*roles, customer=mine), "c-7", False)
    alone = [asked(row, principal(role, customer=mine), "c-7", False) for role in roles]
    assert (together is Access.ALLOWED) == (Access.ALLOWED in alone)
    if together is Access.FORBIDDEN:
        assert Access.HIDDEN not in alone


def test_a_ticket_opens_only_what_it_names() -> None:
    """A ticket for a customer's topic does not open that customer's orders by name."""
    who = replace(ticket(), topics=frozenset({"customer:c-7"}))
    assert auth.may_read_order(who, "c-7", ORDER) is Access.HIDDEN


def follows(who: Principal | None) -> Access:
    return auth.may_follow(who, "favourites", order_customer=None, public_stock=True)


@pytest.mark.parametrize("role", Role)
def test_favourites_belong_to_a_customer_id(role: Role) -> None:
    """Whoever has a customer id follows his own; others have none, and nobody must sign in."""
    his, nobodys = principal(role, customer="c-7"), principal(role)
    assert follows(his) is Access.ALLOWED
    assert auth.followed(his, ["favourites", "stock"]) == {"favourites:c-7", "stock"}
    assert follows(nobodys) is Access.HIDDEN
    assert follows(None) is Access.ANONYMOUS


def test_a_ticket_for_favourites_names_whose() -> None:
    """Such a ticket follows one customer's, whoever holds it; any other ticket nobody's."""
    his = replace(ticket(), topics=frozenset({"favourites:c-7", "stock"}))
    assert follows(his) is Access.ALLOWED
    assert auth.followed(his, ["favourites"]) == {"favourites:c-7"}
    assert auth.followed(his, ["stock"]) == {"stock"}
    assert follows(ticket()) is Access.HIDDEN


def test_refusals_are_problems() -> None:
    """Each refusal becomes its problem: 401, 403, 404."""
    Access.ALLOWED.demand()
    for access, status in ((Access.ANONYMOUS, 401), (Access.FORBIDDEN, 403), (Access.HIDDEN, 404)):
        with pytest.raises(errors.Problem) as caught:
            access.demand()
        assert caught.value.status == status
