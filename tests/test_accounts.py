"""Accounts of one database, as several processes see them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import asyncpg
import pytest

import auth
import customers
from accounts import OVERLAP, Accounts, wall
from auth import Principal, Signer
from database import Database
from errors import CustomerInactive, InvalidCredentials, LastAdmin, Unauthenticated
from models import Revocation, Role
from tests.databases import opened
from tests.house import PASSWORD

SIGNER = Signer(b"a secret of tests with 32 bytes.", "filaviva")
AGES = 100_000_000  # ms
SOMEBODY_WAITS = (
    "DO $$BEGIN FOR n IN 1..6000 LOOP"
    " EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE NOT granted); PERFORM pg_sleep(0.01);"
    " END LOOP; END$$"
)


@pytest.fixture
async def db(blank: str) -> AsyncIterator[Database]:
    async with opened(blank) as found:
        yield found


async def made(db: Database, name: str) -> Accounts:
    """A process in which this account was made, besides an admin."""
    found = Accounts(db, SIGNER)
    await found.ensure_admin(PASSWORD)
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
        sizes.extend([len(rows)] if rows else [])
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


async def test_a_clock_that_was_ahead_hides_no_revocation(db: Database) -> None:
    """After a row of the future those of the present are still read."""
    here, there = await made(db, "ana"), Accounts(db, SIGNER)
    (_, one), (token, two) = [await signed_in(here, "ana") for _ in range(2)]
    await here.sign_out(one)
    async with db.transaction() as session:
        ahead = wall() + 3_600_000
        await Revocation.all().using_db(session.orm).update(created_at=ahead)
    await there.reload()
    await there.principal("bearer", token)
    await here.sign_out(two)
    await there.reload()
    with pytest.raises(Unauthenticated):
        await there.principal("bearer", token)


async def test_who_changed_his_password_stays_signed_in_everywhere(db: Database) -> None:
    """Also in a process that has not heard of it: with his token, his refresh and his streams."""
    here, there = await made(db, "ana"), Accounts(db, SIGNER)
    pair, (other, _) = await here.sign_in("ana", PASSWORD), await signed_in(here, "ana")
    who = await here.principal("bearer", pair.access_token)
    await here.change_password(who, PASSWORD, "another-long-password")
    assert await there.principal("bearer", pair.access_token) == who
    with pytest.raises(Unauthenticated):
        await there.principal("bearer", other)
    assert await Accounts(db, SIGNER).ended({who}) == set()
    assert await Accounts(db, SIGNER).refresh(pair.refresh_token)


Lock = Callable[[Accounts, Principal], Awaitable[object]]


@pytest.mark.parametrize(
    "lock_out",
    [
        lambda accounts, who: accounts.update(who.account, {"password": "of-the-admin-1"}),
        lambda accounts, who: accounts.update(who.account, {"revoke_tokens": True}),
        lambda accounts, who: accounts.update(who.account, {"active": False}),
        lambda accounts, who: accounts.sign_out(who),
    ],
    ids=["password", "tokens", "inactive", "signed out"],
)
async def test_who_is_locked_out_does_not_come_back_by_a_change_under_way(
    db: Database, monkeypatch: pytest.MonkeyPatch, lock_out: Lock
) -> None:
    """A new password that is being hashed while an admin ends the account's sign-ins is refused."""
    accounts = await made(db, "ana")
    token, who = await signed_in(accounts, "ana")
    hashed = auth.hash_password

    async def meanwhile(password: str) -> str:
        if password == "of-the-intruder":
            await lock_out(accounts, who)
        return await hashed(password)

    monkeypatch.setattr(auth, "hash_password", meanwhile)
    with pytest.raises(InvalidCredentials):
        await accounts.change_password(who, PASSWORD, "of-the-intruder")
    with pytest.raises(Unauthenticated):
        await accounts.principal("bearer", token)
    with pytest.raises(InvalidCredentials):
        await accounts.sign_in("ana", "of-the-intruder")


async def test_an_erased_customer_gets_no_account_again(db: Database) -> None:
    """His account stays closed, and no other is made for him."""
    accounts = Accounts(db, SIGNER)
    await accounts.ensure_admin(PASSWORD)
    his = (await customers.add(db, {"name": "Ana"}))["id"]
    await accounts.create("ana", PASSWORD, [Role.CUSTOMER], his)
    await accounts.erase_customer(his)
    with pytest.raises(CustomerInactive):
        await accounts.update("ana", {"active": True})
    with pytest.raises(CustomerInactive):
        await accounts.create("ana-2", PASSWORD, [Role.CUSTOMER], his)
    assert (await accounts.update("ana", {"active": True, "customer": None})).active


async def test_erasing_and_registering_take_their_locks_in_one_order(postgres_url: str) -> None:
    """Who waits to end accounts holds no row of a customer: else both could wait for the other."""
    async with opened(postgres_url) as db:
        accounts = Accounts(db, SIGNER)
        await accounts.ensure_admin(PASSWORD)
        his = (await customers.add(db, {"name": "Ana"}))["id"]
        holder = await asyncpg.connect(postgres_url)
        await holder.execute("BEGIN; SELECT FROM stream FOR UPDATE")
        erasing = asyncio.create_task(accounts.erase_customer(his))
        # All in one call: who waits gives up after four seconds, and this process may stall.
        await holder.execute(
            f"{SOMEBODY_WAITS}; SELECT FROM customers WHERE id = '{his}' FOR UPDATE NOWAIT; COMMIT"
        )
        assert (await erasing)["active"] is False
        await holder.close()


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
