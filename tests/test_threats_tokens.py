"""Threats against tokens and tickets: forged, bent, oversized and misplaced credentials."""

import base64
import hmac
import json
import time
import tracemalloc
import zlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import example, given
from hypothesis import strategies as st

import auth
import errors
from auth import Kind, PrincipalCache, Signer
from models import Account

NOW = 1_795_284_000_123
NOW_S = NOW // 1000
SECRET = b"0123456789abcdef0123456789abcdef"
SIGNER = Signer(SECRET, "filaviva")
ORDER = "01a1ff43-dd00-7b3e-8f21-4c5d6e7f8091"
HEADER = b'{"alg":"HS256","typ":"JWT"}'
GOOD: dict[str, Any] = {
    "iss": "filaviva",
    "aud": "access",
    "sub": "ana",
    "iat": NOW_S,
    "exp": NOW_S + 900,
    "jti": "jti1",
    "fam": "fam1",
    "gen": 1,
}


def account() -> Account:
    return Account(username="ana", roles="customer", customer="c-7", password_hash="-")


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def key(label: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=b"filaviva", info=label).derive(SECRET)


def signed(payload: bytes, header: bytes = HEADER, secret: bytes | None = None) -> str:
    """A JWT with a right signature, made without the library that reads it."""
    text = f"{b64(header)}.{b64(payload)}"
    used = key(b"jwt") if secret is None else secret
    return f"{text}.{b64(hmac.digest(used, text.encode(), 'sha256'))}"


def claims(**changes: object) -> bytes:
    return json.dumps(GOOD | changes).encode()


def refused(token: str, kind: Kind = Kind.ACCESS) -> None:
    with pytest.raises(errors.Unauthenticated):
        SIGNER.read(kind, token, NOW)


def ticket_refused(text: str) -> None:
    with pytest.raises(errors.Unauthenticated) as caught:
        SIGNER.read_ticket(text, NOW)
    assert not isinstance(caught.value, auth.ExpiredTicket)


def test_the_forger_can_sign() -> None:
    """The tests below refuse for the reason they name: unbent, their token is taken."""
    assert SIGNER.read(Kind.ACCESS, signed(claims()), NOW).username == "ana"
    old_header = b'{"typ":"JWT","alg":"HS256"}'
    assert SIGNER.read(Kind.ACCESS, signed(claims(), old_header), NOW).username == "ana"


DEEP = b"[" * 1000 + b"]" * 1000


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"null",
        b"{}",
        b"[]",
        b'"HS256"',
        b'{"alg":"HS256"}',
        b'{"alg":"none","typ":"JWT"}',
        b'{"alg":"None","typ":"JWT"}',
        b'{"alg":"","typ":"JWT"}',
        b'{"alg":null,"typ":"JWT"}',
        b'{"alg":["HS256"],"typ":"JWT"}',
        b'{"alg":{"HS256":1},"typ":"JWT"}',
        b'{"alg":"hs256","typ":"JWT"}',
        b'{"alg":"HS384","typ":"JWT"}',
        b'{"alg":"HS512","typ":"JWT"}',
        b'{"alg":"RS256","typ":"JWT"}',
        b'{"alg":"ES256","typ":"JWT"}',
        b'{"alg":"HS256","typ":"JWE"}',
        b'{"alg":"HS256","typ":"JWT","crit":["exp"]}',
        b'{"alg":"HS256","typ":"JWT","crit":[]}',
        b'{"alg":"HS256","typ":"JWT","b64":false}',
        b'{"alg":"HS256","typ":"JWT","kid":"../../etc/passwd"}',
        b'{"alg":"HS256","typ":"JWT","jwk":{"kty":"oct","k":""}}',
        b'{"alg":"HS256","typ":"JWT","zip":"DEF"}',
        b'{"alg":"HS256","typ":"JWT"',
        b'\xff{"alg":"HS256","typ":"JWT"}',
        DEEP,
        b'{"alg":"HS256","typ":"JWT","x":' + DEEP + b"}",
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
        b'{"alg":"HS256",' + b" " * 100 + b'"typ":"JWT"}',
        b"[" * 90,
        b"9" * 90,
        b"1e999",
    ],
)
@pytest.mark.parametrize("secret", [None, b"", b"guess"])
def test_headers_are_ours_or_nothing(header: bytes, secret: bytes | None) -> None:
    """No header but our own is taken, rightly signed, wrongly signed or deep enough to crash."""
    refused(signed(claims(), header, secret))
    refused(f"{b64(header)}.{b64(claims())}.")


@pytest.mark.parametrize(
    "name, value",
    [
        ("exp", "9999999999"),
        ("exp", 10**400),
        ("exp", float(NOW_S + 900)),
        ("exp", True),
        ("exp", None),
        ("exp", NOW_S),
        ("exp", -1),
        ("exp", NOW_S + 367 * 86_400),
        ("exp", float("nan")),
        ("exp", float("inf")),
        ("exp", [NOW_S + 900]),
        ("iat", str(NOW_S)),
        ("iat", float(NOW_S)),
        ("iat", NOW_S + 61),
        ("iat", -(10**400)),
        ("iat", -1),
        ("iat", 0),
        ("iat", None),
        ("gen", "1"),
        ("gen", True),
        ("gen", 1.0),
        ("sub", 7),
        ("sub", ""),
        ("sub", "Ana"),
        ("sub", "ana\n"),
        ("sub", "a" * 65),
        ("sub", "a\0"),
        ("jti", 1),
        ("jti", ""),
        ("jti", "a" * 65),
        ("jti", "a b"),
        ("fam", None),
        ("fam", ""),
        ("fam", "x\n"),
        ("aud", ["access", "refresh"]),
        ("aud", "refresh"),
        ("aud", ""),
        ("aud", None),
        ("iss", "elsewhere"),
        ("iss", ["filaviva"]),
        ("iss", None),
    ],
)
def test_claims_are_typed_and_bounded(name: str, value: object) -> None:
    """Rightly signed claims of a wrong type or out of bounds are refused all the same."""
    refused(signed(claims(**{name: value})))


@pytest.mark.parametrize("name", sorted(GOOD))
def test_no_claim_may_be_missing(name: str) -> None:
    """A token without an expiry, a subject or any other claim is refused."""
    refused(signed(json.dumps({key_: GOOD[key_] for key_ in GOOD if key_ != name}).encode()))


@pytest.mark.parametrize(
    "payload",
    [b"", b"null", b"[]", b"7", b'"x"', b"{", b"\xff", DEEP, b'{"exp":' + b"9" * 2500 + b"}"],
)
def test_payloads_are_objects(payload: bytes) -> None:
    """A rightly signed payload that is no claims at all is refused."""
    refused(signed(payload))


@pytest.mark.parametrize("ses", [None, "1", 1.0, True, NOW_S + 1, NOW_S - 12 * 3_600])
def test_sessions_carry_their_sign_in(ses: object) -> None:
    """A session without a sign-in time, or beyond 12 hours of it, is refused."""
    changes = {"aud": "session"} | ({} if ses is None else {"ses": ses})
    refused(signed(claims(**changes)), Kind.SESSION)


GARBAGE = [
    "",
    ".",
    "..",
    "...",
    "a.b.c",
    "\0",
    "\0.\0.\0",
    "é.é.é",
    "\ud800.\ud800.\ud800",
    "=.=.=",
    "====.====.====",
    "a" * 10_000_000,
    "." * 10_000_000,
    signed(claims()) + ".",
    signed(claims()) + "=",
    signed(claims()) + "\n",
    " " + signed(claims()),
    signed(claims()).replace(".", ".."),
    signed(claims()).rsplit(".", 1)[0],
    signed(claims()).rsplit(".", 1)[0] + ".",
    signed(claims(x="y" * 4_096)),
    b64(HEADER) + "." + b64(DEEP) + ".",
    b64(DEEP) + "." + b64(claims()) + ".AAAA",
]


@pytest.mark.parametrize("text", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("kind", Kind)
def test_garbage_is_unauthenticated(text: str, kind: Kind) -> None:
    """Empty, huge, NUL, not ASCII, not base64: all is 401, and quickly."""
    began = time.thread_time()
    refused(text, kind)
    ticket_refused(text)
    assert time.thread_time() - began < 2


@given(st.text() | st.binary().map(b64), st.sampled_from(Kind))
@example("a.a.a", Kind.ACCESS)
def test_any_text_is_refused_the_same_way(text: str, kind: Kind) -> None:
    """Whatever is sent as a credential raises nothing but `unauthenticated`."""
    refused(text, kind)
    ticket_refused(text)


@given(header=st.binary(max_size=90), payload=st.binary(), signature=st.binary(max_size=40))
def test_any_segments_are_refused_the_same_way(
    header: bytes, payload: bytes, signature: bytes
) -> None:
    """Well-spelled segments with anything in them raise nothing but `unauthenticated`."""
    refused(f"{b64(header)}.{b64(payload)}.{b64(signature)}")
    refused(f"{b64(HEADER)}.{b64(payload)}.{b64(signature)}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(st.sampled_from(sorted(GOOD)), JSON)
def test_any_signed_claim_is_read_or_refused(name: str, value: object) -> None:
    """Even with our own key on it, no value of a claim raises anything else."""
    try:
        found = SIGNER.read(Kind.ACCESS, signed(claims(**{name: value})), NOW)
    except errors.Unauthenticated:
        return
    assert type(found.generation) is int
    assert NOW < found.expires_at <= NOW + 367 * 86_400_000


@given(st.data())
def test_a_bent_token_is_refused(data: st.DataObject) -> None:
    """No character of a token can be changed, dropped or added."""
    token = SIGNER.issue(Kind.ACCESS, account(), "fam1", NOW, 900)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters().filter(lambda char: char != token[at]))
    refused(token[:at] + other + token[at + 1 :])
    refused(token[:at] + token[at + 1 :])
    refused(token[:at] + other + token[at:])


@pytest.mark.parametrize("label", [b"ticket", b"cursor", b"nonce", b"token id"])
def test_keys_of_other_uses_sign_no_tokens(label: bytes) -> None:
    """Neither the master secret nor the key of another use makes a token."""
    refused(signed(claims(), secret=key(label)))
    refused(signed(claims(), secret=SECRET))


def test_no_kind_passes_as_another() -> None:
    """A refresh token is no access token, a cookie no bearer, a ticket none of them."""
    pair = SIGNER.pair(account(), "fam1", NOW)
    ticket = SIGNER.issue_ticket("ana", 1, ["stock"], NOW + 900_000, 1, b"n" * 16)
    tokens = {
        Kind.ACCESS: pair.access_token,
        Kind.REFRESH: pair.refresh_token,
        Kind.SESSION: SIGNER.session(account(), "fam1", NOW),
    }
    for kind in Kind:
        refused(ticket, kind)
        ticket_refused(tokens[kind])
        for made, token in tokens.items():
            if made is kind:
                assert SIGNER.read(kind, token, NOW).kind is kind
            else:
                refused(token, kind)


def test_the_cache_keeps_kinds_apart() -> None:
    """A bearer that was verified once does not pass as a cookie by way of the cache."""
    cache = PrincipalCache()
    token = SIGNER.pair(account(), "fam1", NOW).access_token
    who = auth.token_principal(SIGNER.read(Kind.ACCESS, token, NOW), account())
    cache.put(token, who, cache.changes)
    assert cache.get("bearer", token, NOW) is who
    assert cache.get("session", token, NOW) is None
    assert cache.get("ticket", token, NOW) is None
    assert cache.get("bearer", "\ud800", NOW) is None


def test_other_services_tokens_are_not_ours() -> None:
    """A token of another issuer, or of another secret, is refused."""
    refused(Signer(SECRET, "elsewhere").issue(Kind.ACCESS, account(), "fam1", NOW, 900))
    refused(Signer(SECRET[::-1], "filaviva").issue(Kind.ACCESS, account(), "fam1", NOW, 900))


# --- Tickets --------------------------------------------------------------------------


def ticket_text(*topics: str) -> str:
    return SIGNER.issue_ticket("shop", 1, topics, NOW + 900_000, 16, SIGNER.nonce(ORDER))


LONG = ticket_text(*(f"customer:{'c' * 50}{n}" for n in range(64)))


@given(st.data(), st.sampled_from([ticket_text(f"order:{ORDER}"), LONG]))
def test_a_bent_ticket_is_refused(data: st.DataObject, text: str) -> None:
    """No character of a ticket can be changed, dropped or added, the last included."""
    at = data.draw(st.integers(0, len(text) - 1) | st.just(len(text) - 1))
    other = data.draw(
        st.sampled_from("ABCxyz019-_+/=.\n").filter(lambda char: char != text[at])
        | st.characters().filter(lambda char: char != text[at])
    )
    ticket_refused(text[:at] + other + text[at + 1 :])
    ticket_refused(text[:at] + text[at + 1 :])
    ticket_refused(text[:at] + other + text[at:])
    ticket_refused(text + other)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_flipped_byte_of_a_ticket_is_refused(at: int, mask: int) -> None:
    """No bit of what a ticket carries can be changed: version, body or MAC."""
    text = ticket_text(f"order:{ORDER}")
    blob = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    blob[at % len(blob)] ^= mask
    ticket_refused(b64(bytes(blob)))


def test_the_sealer_can_seal() -> None:
    """The tests below refuse for the reason they name: unbent, their ticket is taken."""
    assert unsealed(LONG)[:1] == b"\x02"
    assert sealed(unsealed(LONG)) == LONG


@pytest.mark.parametrize("length", range(16))
def test_a_cut_mac_is_refused(length: int) -> None:
    """A MAC is whole or wrong: a prefix of it does not do."""
    text = ticket_text("stock")
    blob = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    ticket_refused(b64(blob[: len(blob) - 16 + length]))


def test_expiry_is_told_to_genuine_tickets_only() -> None:
    """A forged ticket learns nothing, not even that it would have expired."""
    text = ticket_text("stock")
    later = NOW + 900_000
    with pytest.raises(auth.ExpiredTicket):
        SIGNER.read_ticket(text, later)
    with pytest.raises(errors.Unauthenticated) as caught:
        Signer(SECRET[::-1], "filaviva").read_ticket(text, later)
    assert type(caught.value) is errors.Unauthenticated


def unsealed(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))[:-16]


def sealed(blob: bytes) -> str:
    """A ticket with a right MAC over anything."""
    return b64(blob + hmac.digest(key(b"ticket"), blob, "sha256")[:16])


def bomb() -> bytes:
    return b"\x02" + zlib.compress(b"\0" * 8_000_000, 9)


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\x00",
        b"\x01",
        b"\x01" + b"x" * 25,
        b"\x01" + b"\xff" * 40,
        b"\x03" + b"x" * 40,
        b"\x03" + unsealed(LONG)[1:],
        b"\x02",
        b"\x02not zlib",
        b"\x02" + zlib.compress(b"x" * 40)[:-1],
        b"\x02" + zlib.compress(b"\xff" * 40) + b"more",
        bomb(),
    ],
)
def test_even_sealed_nonsense_is_refused(blob: bytes) -> None:
    """Should the key ever sign nonsense, reading it is 401 too."""
    ticket_refused(sealed(blob))


def test_a_zlib_bomb_stays_small() -> None:
    """8 MB of zeros in a ticket that is short enough to read cost no 8 MB of memory."""
    text = sealed(bomb())
    assert len(text) < 16_384
    tracemalloc.start()
    try:
        ticket_refused(text)
        assert tracemalloc.get_traced_memory()[1] < 500_000
    finally:
        tracemalloc.stop()


def test_tickets_are_capped() -> None:
    """A text of more than 16 KiB is refused unread."""
    ticket_refused(sealed(b"\x01" + b"x" * 20_000))
