"""Accounts: sign in and out, tokens and their end, who stands behind a credential.

Rules and signatures are `auth`'s; here they meet the database. Every change that ends a
credential raises `revocations_version` of the stream row *first*: that serialises such
changes, and every process sees the new number within a second and forgets whom it ended.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import auth
import customers
import database
from auth import Credential, Kind, Pair, Principal, PrincipalCache, Revoked, Signer
from database import Database, Session
from errors import (
    AccountExists,
    CustomerInactive,
    InvalidCredentials,
    LastAdmin,
    NotFound,
    Unauthenticated,
)
from models import Account, Revocation, Role
from schemas import make_cursor, read_cursor

ADMIN = "admin"
READ_AT_ONCE = 500  # accounts
OVERLAP = 600_000  # ms; the database's clock may have been set back by as much


def wall() -> int:
    """This machine's clock, milliseconds since 1970 UTC: tokens are checked without a query."""
    return time.time_ns() // 1_000_000


async def _bump(session: Session) -> None:
    """Tell every process that credentials changed; also the lock of such changes."""
    await session.execute("UPDATE stream SET revocations_version = revocations_version + 1")


async def _end(session: Session, row_id: str, expires_at: int) -> None:
    """Store that a credential has ended (or is spared), until a time."""
    now = await database.now(session)
    await session.execute(
        "INSERT INTO revocations (id, created_at, expires_at) VALUES ($1, $2, $3)"
        " ON CONFLICT DO NOTHING",
        row_id,
        now,
        expires_at,
    )


class Accounts:
    """The accounts of one database, and what this process knows of their credentials."""

    def __init__(self, db: Database, signer: Signer) -> None:
        self._db = db
        self._signer = signer
        self._cache = PrincipalCache()
        self.revoked = Revoked()
        self._read_to = OVERLAP  # when the newest revocation that was read was made

    async def ensure_admin(self, password: str) -> bool:
        """Make the account `admin` if there is none; whether it was made."""
        async with self._db.read() as session:
            if await Account.exists(using_db=session.orm, username=ADMIN):
                return False
        hashed = await auth.hash_password(password)
        async with self._db.transaction() as session:
            await _bump(session)  # two processes that start at once: the second finds it
            if await Account.exists(using_db=session.orm, username=ADMIN):
                return False
            await self._create(session, ADMIN, hashed, [Role.ADMIN], None)
        return True

    # --- who is it --------------------------------------------------------------------

    async def principal(self, kind: Credential, credential: str) -> Principal:
        """Who a credential stands for: verified once, then known by its hash.

        Raises:
            Unauthenticated: it is not valid (any more).
        """
        now = wall()
        known = self._cache.get(kind, credential, now)
        if known is not None:
            return known
        changes = self._cache.changes
        found = await self._verified(kind, credential, now)
        self._cache.put(credential, found, changes)
        return found

    async def _verified(self, kind: Credential, credential: str, now: int) -> Principal:
        if kind == "ticket":
            found = auth.ticket_principal(self._signer.read_ticket(credential, now))
            account = await self.find(found.account)
        else:
            token = Kind.SESSION if kind == "session" else Kind.ACCESS
            claims = self._signer.read(token, credential, now)
            account = await self.find(claims.username)
            if account is None:
                raise Unauthenticated
            found = auth.token_principal(claims, account)
        if not auth.still_valid(found, account, self.revoked, now) and await self.ended({found}):
            raise Unauthenticated
        return found

    @property
    def changes(self) -> int:
        """How many changes this process was told of. As long as it is the same, nobody ended."""
        return self._cache.changes

    async def find(self, username: str) -> Account | None:
        async with self._db.read() as session:
            return await Account.get_or_none(using_db=session.orm, username=username)

    async def reload(self) -> None:
        """Take in what other processes changed and revoked, and forget whom that ended.

        What was taken in before is not read again: such rows live for up to thirty days. Used
        refresh tokens are looked up by their ids.
        """
        self._cache.outdate()
        now = wall()
        async with self._db.read() as session:
            # A row may be of a clock that was ahead: what comes after it is not to be missed.
            since = min(self._read_to, await database.now(session)) - OVERLAP
            new = Revocation.filter(expires_at__gt=now, created_at__gte=since)
            rows = await new.exclude(id__startswith="used:").using_db(session.orm)
        self.revoked.merge(rows, now)
        self._read_to = max([self._read_to, *(row.created_at for row in rows)])
        ended = await self.ended(self._cache.principals())
        self._cache.drop(lambda one: one in ended)

    async def ended(self, principals: Collection[Principal]) -> set[Principal]:
        """Which of these principals no longer hold."""
        accounts = await self._find_all({one.account for one in principals})
        doubtful = self._invalid(principals, accounts)
        spared = [
            auth.kept_row(one.family, one.generation, accounts[one.account].generation)
            for one in doubtful
            if one.account in accounts
        ]
        if spared:
            async with self._db.read() as session:
                await self._learn(session, spared)
        return self._invalid(doubtful, accounts)

    def _invalid(
        self, principals: Collection[Principal], accounts: Mapping[str, Account]
    ) -> set[Principal]:
        now = wall()
        return {
            one
            for one in principals
            if not auth.still_valid(one, accounts.get(one.account), self.revoked, now)
        }

    async def _learn(self, session: Session, row_ids: Sequence[str]) -> None:
        """Take in which of these revocations there are, made elsewhere a moment ago."""
        rows = await Revocation.filter(id__in=row_ids).using_db(session.orm)
        self.revoked.merge(rows, wall())

    async def _find_all(self, names: Collection[str]) -> dict[str, Account]:
        """In steps: nobody waits until thousands of rows were read."""
        left, found = list(names), dict[str, Account]()
        while left:
            some, left = left[:READ_AT_ONCE], left[READ_AT_ONCE:]
            async with self._db.read() as session:
                rows = await Account.filter(username__in=some).using_db(session.orm)
            found.update((row.username, row) for row in rows)
        return found

    # --- sign in and out --------------------------------------------------------------

    async def _checked(self, username: str, password: str) -> Account:
        account = await self.find(username) if auth.USERNAME.fullmatch(username) else None
        fits = await auth.verify_password(password, account.password_hash if account else None)
        if account is None or not fits or not account.active:
            raise InvalidCredentials
        return account

    async def _seen(self, account: Account) -> None:
        async with self._db.transaction() as session:
            await session.execute(
                "UPDATE accounts SET last_seen_at = $1 WHERE id = $2", wall(), account.id
            )

    async def sign_in(self, username: str, password: str) -> Pair:
        """A new family of tokens.

        Raises:
            InvalidCredentials: wrong name or password, or the account is not active.
        """
        account = await self._checked(username, password)
        await self._seen(account)
        return self._signer.pair(account, auth.new_id(), wall())

    async def open_session(self, username: str, password: str) -> str:
        """The token of a page's cookie.

        Raises:
            InvalidCredentials: as `sign_in`.
        """
        account = await self._checked(username, password)
        await self._seen(account)
        return self._signer.session(account, auth.new_id(), wall())

    async def renewed_session(self, token: str) -> str | None:
        """The cookie's next token when it is time for one."""
        now = wall()
        claims = self._signer.read(Kind.SESSION, token, now)
        account = await self.find(claims.username)
        if account is None or not auth.may_refresh(claims, account, self.revoked, now):
            return None
        return self._signer.renewed(claims, account, now)

    def renewal_due(self, principal: Principal) -> bool:
        """Whether a session has less than half its 30 minutes left."""
        half = auth.SESSION_S * 1000 // 2
        return principal.kind == "session" and principal.expires_at - wall() <= half

    async def refresh(self, token: str) -> Pair:
        """A new pair for a refresh token; the same pair for 10 s after its first use.

        Raises:
            InvalidCredentials: it is not valid; or it was used before, then its family ends.
        """
        now = wall()
        try:
            claims = self._signer.read(Kind.REFRESH, token, now)
        except Unauthenticated:
            raise InvalidCredentials("The refresh token is not valid.") from None
        async with self._db.transaction() as session:
            await session.execute("UPDATE stream SET revocations_version = revocations_version")
            account = await Account.get_or_none(using_db=session.orm, username=claims.username)
            if account is not None:
                await self._learn_of(session, claims.family, claims.generation, account)
            if account is None or not auth.may_refresh(claims, account, self.revoked, now):
                raise InvalidCredentials("The refresh token is not valid.")
            first = await self._first_use(session, claims, now)
            reused = now - first > auth.REUSE_GRACE_MS
            if reused:
                await self._end_family(session, claims.family, claims.expires_at)
        if reused:
            self._forget_family(claims.family, claims.expires_at)
            raise InvalidCredentials("The refresh token was used before; sign in again.")
        await self._seen(account)
        return self._signer.refreshed(claims, account, first)

    async def _learn_of(
        self, session: Session, family: str, generation: int, account: Account
    ) -> None:
        """Take in whether a family ended, or was spared by a change of its account."""
        spared = auth.kept_row(family, generation, account.generation)
        await self._learn(session, [auth.family_row(family), spared])

    async def _first_use(self, session: Session, claims: auth.Claims, now: int) -> int:
        """When a refresh token was used first; now, if it never was."""
        row_id = auth.used_row(claims.token_id)
        used = await Revocation.get_or_none(using_db=session.orm, id=row_id)
        if used is not None:
            return used.created_at
        await Revocation.create(
            using_db=session.orm, id=row_id, created_at=now, expires_at=claims.expires_at
        )
        return now

    async def _end_family(self, session: Session, family: str, expires_at: int) -> None:
        await _bump(session)
        await _end(session, auth.family_row(family), auth.family_ends_at(wall(), expires_at))

    def _forget_family(self, family: str, expires_at: int) -> None:
        self.revoked.add(auth.family_row(family), auth.family_ends_at(wall(), expires_at))
        self._cache.drop(lambda one: one.family == family)

    async def sign_out(self, principal: Principal) -> None:
        """End all tokens that grew from this sign-in."""
        async with self._db.transaction() as session:
            await self._end_family(session, principal.family, principal.expires_at)
        self._forget_family(principal.family, principal.expires_at)

    async def revoke_ticket(self, text: str, caller: Principal) -> None:
        """End a ticket of the caller's own; of anybody's for an admin.

        Raises:
            NotFound: it is no ticket of ours, or somebody else's.
        """
        try:
            ticket = self._signer.read_ticket(text, wall())
        except Unauthenticated:
            raise NotFound("There is no such ticket.") from None
        if ticket.owner != caller.account and not caller.has(Role.ADMIN):
            raise NotFound("There is no such ticket.")
        row_id = auth.ticket_row(ticket.id)
        async with self._db.transaction() as session:
            await _bump(session)
            await _end(session, row_id, ticket.expires_at)
        self.revoked.add(row_id, ticket.expires_at)
        self._cache.drop(lambda one: one.kind == "ticket" and one.token_id == ticket.id)

    async def change_password(self, principal: Principal, current: str, new: str) -> None:
        """A new password; every other family of the account ends.

        Raises:
            InvalidCredentials: the current one is wrong, or the caller's sign-in ended meanwhile.
        """
        account = await self._checked(principal.account, current)
        proved = (principal, account.password_hash)
        await self.update(principal.account, {"password": new}, proved)

    # --- making and changing accounts -------------------------------------------------

    async def register(self, username: str, password: str, email: str | None) -> Account:
        """An account for a new customer, whose id the caller cannot choose.

        Raises:
            AccountExists, CustomerExists: as they say.
        """
        hashed = await auth.hash_password(password)
        async with self._db.transaction() as session:
            await _bump(session)
            await self._refuse_taken(session, username)
            customer = (await customers.create(session, {"email": email}))["id"]
            return await self._create(session, username, hashed, [Role.CUSTOMER], customer)

    async def create(
        self, username: str, password: str, roles: Sequence[Role], customer: str | None
    ) -> Account:
        """
        Raises:
            AccountExists: the name is taken.
            CustomerInactive: this customer was erased.
        """
        hashed = await auth.hash_password(password)
        async with self._db.transaction() as session:
            await _bump(session)
            await self._refuse_taken(session, username)
            await self._refuse_erased(session, customer)
            return await self._create(session, username, hashed, roles, customer)

    async def _refuse_taken(self, session: Session, username: str) -> None:
        if await Account.exists(using_db=session.orm, username=username):
            raise AccountExists(f"There is an account '{username}'.")

    async def _create(
        self,
        session: Session,
        username: str,
        hashed: str,
        roles: Sequence[Role],
        customer: str | None,
    ) -> Account:
        return await Account.create(
            using_db=session.orm,
            username=username,
            password_hash=hashed,
            roles=" ".join(sorted(set(roles))),
            customer=customer,
            created_at=await database.now(session),
        )

    async def update(
        self,
        username: str,
        changes: Mapping[str, Any],
        proved: tuple[Principal, str] | None = None,
    ) -> Account:
        """Change an account; what it changes ends its tokens, and perhaps its tickets.

        `proved`: who changes his own password, which he knew by this hash. He stays signed in.

        Raises:
            NotFound: no such account.
            InvalidCredentials: what was proved does not hold any more.
            CustomerInactive: an active account may not be of a customer who was erased.
            LastAdmin: nobody would be left to administer.
        """
        hashed = None
        if changes.get("password") is not None:
            hashed = await auth.hash_password(changes["password"])
        async with self._db.transaction() as session:
            await _bump(session)
            account = await self._unchanged(session, username, proved)
            before = account.generation
            self._apply(account, changes, hashed)
            if account.active:
                await self._refuse_erased(session, account.customer)
            await account.save(using_db=session.orm)
            await self._refuse_no_admin(session)
            spared = await self._spare(session, proved, before, account.generation)
        for row_id, ends_at in spared:
            self.revoked.add(row_id, ends_at)
        self._cache.drop(lambda one: one.account == username)
        return account

    async def erase_customer(self, customer: str) -> dict[str, Any]:
        """Forget a customer, and end the accounts that were his; the customer as he is now.

        Raises:
            NotFound: no such customer.
            LastAdmin: nobody would be left to administer.
        """
        async with self._db.transaction() as session:
            await _bump(session)  # before the customer's row, as whoever registers
            shape = await customers.erase(session, customer)
            his = await Account.filter(customer=customer, active=True).using_db(session.orm)
            for account in his:
                self._apply(account, {"active": False}, None)
                await account.save(using_db=session.orm)
            await self._refuse_no_admin(session)
        ended = {account.username for account in his}
        self._cache.drop(lambda one: one.account in ended)
        return shape

    async def _unchanged(
        self, session: Session, username: str, proved: tuple[Principal, str] | None
    ) -> Account:
        """The account, if what was proved of it still holds."""
        account = await Account.get_or_none(using_db=session.orm, username=username)
        if account is None:
            raise NotFound("There is no such account.")
        if proved is not None and not await self._holds(session, account, *proved):
            raise InvalidCredentials("This sign-in is over.")
        return account

    async def _holds(
        self, session: Session, account: Account, who: Principal, password_hash: str
    ) -> bool:
        """Whether his sign-in and his password are still what they were when he proved them.

        Hashing the new one takes a while; whoever was locked out meanwhile must not come back.
        """
        await self._learn_of(session, who.family, who.generation, account)
        same = account.password_hash == password_hash
        return same and auth.still_valid(who, account, self.revoked, wall())

    async def _refuse_erased(self, session: Session, customer: str | None) -> None:
        if customer is not None and await customers.is_erased(session, customer):
            raise CustomerInactive("This customer was erased.")

    async def _spare(
        self, session: Session, proved: tuple[Principal, str] | None, before: int, after: int
    ) -> list[tuple[str, int]]:
        """Let the caller's own family outlive the change he made."""
        if proved is None or before == after:
            return []
        who, _ = proved
        row = auth.kept_row(who.family, who.generation, after)
        ends_at = auth.family_ends_at(wall(), who.expires_at)
        await _end(session, row, ends_at)
        return [(row, ends_at)]

    def _apply(self, account: Account, changes: Mapping[str, Any], hashed: str | None) -> None:
        before = (account.password_hash, account.roles, account.customer, account.active)
        if hashed is not None:
            account.password_hash = hashed
        if changes.get("roles") is not None:
            account.roles = " ".join(sorted(set(changes["roles"])))
        if "customer" in changes:
            account.customer = changes["customer"]
        if changes.get("active") is not None:
            account.active = changes["active"]
        after = (account.password_hash, account.roles, account.customer, account.active)
        everything = bool(changes.get("revoke_tokens")) or (before[3] and not account.active)
        if everything or before != after:
            account.generation += 1
        if everything:
            account.ticket_generation += 1

    async def _refuse_no_admin(self, session: Session) -> None:
        active = await Account.filter(active=True).using_db(session.orm)
        if not any(Role.ADMIN in auth.roles_of(account) for account in active):
            raise LastAdmin

    async def page(
        self, prefix: str, cursor: str | None, limit: int
    ) -> tuple[list[Account], str | None]:
        """Accounts by name, those whose name begins so, and the cursor of the next page."""
        marks = {"prefix": prefix}
        after = read_cursor(cursor, marks) or ""
        async with self._db.read() as session:
            rows = (
                await Account.filter(username__gt=after, username__startswith=prefix)
                .order_by("username")
                .limit(limit + 1)
                .using_db(session.orm)
            )
        more = len(rows) > limit
        return rows[:limit], make_cursor(rows[limit - 1].username, marks) if more else None
