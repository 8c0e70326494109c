"""Accounts of one database, as several processes see them."""

from collections.abc import AsyncIterator, Sequence

import pytest

import customers
from accounts import OVERLAP, Accounts
from auth import Principal, Signer
from database import Database
from errors import LastAdmin, Unauthenticated
from models import Revocation, Role
from tests.databases import opened
from tests.house import PASSWORD

SIGNER = Signer(b"a secret of tests with 32 bytes.", "filaviva")
AGES = 100_000_000  # ms


@pytest.fixture
async def db(blank: str) -> AsyncIterator[Database]:
    async with opened(blank) as found:
        yield found


async def made(db: Database, name: str) -> Accounts:
    """A process in which this account was made."""
    found = Accounts(db, SIGNER)
    await found.create(name, PASSWORD, [Role.VIEWER], None)
    return found


async def signed_in(accounts: Accounts, name: str) -> tuple[str, Principal]:
    token = (await accounts.sign_in(name, PASSWORD)).access_token
    return token, await accounts.principal("bearer", token)


async def test_another_process_learns_who_signed_out(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reading ends whom it finds and nobody else, and reads nothing that is long known."""
    here, there = await made(db, "ana"), Accounts(db, SIGNER)
    merge, sizes = there.revoked.merge, list[int]()

    def counted(rows: Sequence[Revocation], now: int) -> None:
        sizes.append(len(rows))
        merge(rows, now)

    monkeypatch.setattr(there.revoked, "merge", counted)
    (first, one), (second, two), (third, three) = [await signed_in(here, "ana") for _ in range(3)]
    for token in (first, second, third):
        await there.principal("bearer", token)
    for token, who in ((first, one), (second, two)):
        await here.sign_out(who)
        await there.reload()
        with pytest.raises(Unauthenticated):
            await there.principal("bearer", token)
        async with db.transaction() as session:  # as if it had been long ago
            await Revocation.filter(created_at__gt=AGES).using_db(session.orm).update(created_at=0)
    assert sizes == [1, 1]
    assert await there.principal("bearer", third) == three
    fresh = Accounts(db, SIGNER)
    await fresh.reload()
    assert len(fresh.revoked) == 2


async def test_a_clock_that_was_set_back_hides_no_revocation(db: Database) -> None:
    """A row that is younger than one that was read, by another clock, is found all the same."""
    here, there = await made(db, "ana"), Accounts(db, SIGNER)
    (_, one), (token, two) = [await signed_in(here, "ana") for _ in range(2)]
    await here.sign_out(one)
    await there.reload()
    await there.principal("bearer", token)
    await here.sign_out(two)
    async with db.transaction() as session:
        rows = await Revocation.all().using_db(session.orm).order_by("-created_at")
        rows[0].created_at -= OVERLAP - 10_000
        await rows[0].save(using_db=session.orm)
    await there.reload()
    with pytest.raises(Unauthenticated):
        await there.principal("bearer", token)


async def test_used_refresh_tokens_are_not_kept_in_memory(db: Database) -> None:
    """There is one for each refresh of thirty days: they are looked up where one is used again."""
    here = await made(db, "ana")
    pair = await here.sign_in("ana", PASSWORD)
    for _ in range(3):
        pair = await here.refresh(pair.refresh_token)
    await here.reload()
    assert len(here.revoked) == 0


async def test_the_last_admin_is_not_erased(db: Database) -> None:
    """An admin's customer takes his account along, unless nobody else could undo anything."""
    accounts = Accounts(db, SIGNER)
    await accounts.ensure_admin(PASSWORD)
    his = (await customers.add(db, {"name": "Ana"}))["id"]
    await accounts.update("admin", {"customer": his})
    with pytest.raises(LastAdmin):
        await accounts.erase_customer(his)
    assert (await customers.get(db, his))["name"] == "Ana"
    assert await customers.count(db, None) == 1
