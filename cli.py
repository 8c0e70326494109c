"""The operator's door: start the service and look after it."""

import asyncio
import logging
import re
import resource
import shlex
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, TypeVar

import typer
import uvicorn
from loguru import logger
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import audit
import auth
import catalogue
import config
import demo
import doctor
import logs
import outlets
import sheet
import stock
from accounts import ADMIN, Accounts, wall
from auth import Kind, Signer
from config import BadSettings, Settings
from database import DRIVER_ERRORS, READ_SECONDS, Database, Dialect
from errors import Problem
from instants import DAY
from models import Account
from moves import Posted, Receive
from schemas import CURRENCY, ProductIn
from streams import files_wanted
from writer import Writer

cli = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # it prints the values of variables
    help="Filaviva, a purchase queue you can watch.",
)

GRACE_SECONDS = 10
SEND_BUFFER = 64 * 1024
CHATTY = ("uvicorn", "tortoise")  # they tell each step of the start and the end
PIPE_WIDTH = 200  # of a table that does not go to a terminal

REFUSALS = (BadSettings, OSError, *DRIVER_ERRORS)
T = TypeVar("T")


def refuse(why: str, status: int = 1) -> NoReturn:
    """Say in a line why it cannot be done, and end."""
    typer.echo(f"filaviva: {why}", err=True)
    raise typer.Exit(status)


def settings() -> Settings:
    """The settings, or one line per fault and the end."""
    try:
        return config.settings()
    except BadSettings as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def is_refusal(error: BaseException) -> bool:
    """Whether an error is a state of affairs that a line explains, and no fault of the code."""
    return isinstance(error, REFUSALS) or type(error) is RuntimeError


def sentence(current: Settings, error: BaseException) -> str:
    """What a refusal means, in one line and without a secret."""
    first, *_ = str(error).splitlines() or [""]
    if isinstance(error, BadSettings) or type(error) is RuntimeError:
        return first
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    where = config.masked_url(current.database_url.get_secret_value())
    return f"the database {where} cannot be used: {type(error).__name__} {first}".rstrip()


# --- serve ----------------------------------------------------------------------------


@cli.command()
def serve() -> None:
    """Start the service with the settings of the environment.

    On a terminal it says where everything is, and how to post a first purchase. It ends
    with status 0 when it is told to stop, with 1 when it cannot start, with 2 when the
    settings are wrong.

    \b
    Examples:
      python cli.py serve
      FILAVIVA_PORT=9000 FILAVIVA_DATA_DIR=/srv/filaviva python cli.py serve
      FILAVIVA_DATABASE_URL=postgres://user:password@host/filaviva python cli.py serve
    """
    current = settings()
    logs.start(current.log_level, current.log_format, current.log_file)
    for library in CHATTY:
        logging.getLogger(library).setLevel(logging.WARNING)
    raise_file_limit(current)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end_well)
    try:
        own_folder(current)
        first = config.admin_password(current)[1]
        door = listening(current.host, current.port)
        url = local_url(*door.getsockname()[:2])
        server = Server(current, url, first_start=first)
        server.run(sockets=[door])
    except REFUSALS as error:
        refuse(sentence(current, error))


def own_folder(current: Settings) -> None:
    """The folder of the SQLite file, for this user alone: the file holds password hashes."""
    if Database(config.tortoise_orm(current)).dialect is Dialect.SQLITE:
        config.data_dir(current)


def end_well(number: int, frame: FrameType | None) -> NoReturn:
    """Being told to stop is no failure."""
    raise SystemExit(0)


def raise_file_limit(current: Settings) -> None:
    """Every stream is an open file, and the usual soft limit of 1,024 is soon used up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = files_wanted(current)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def listening(host: str, port: int) -> socket.socket:
    """A socket to serve on. What it accepts inherits a small send buffer.

    A client that never reads would else cost megabytes of the kernel's memory before we saw
    any backlog.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    door = socket.socket(family)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    door.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    try:
        door.bind((host, port))
    except OSError as error:
        refuse(f"cannot listen on {host} port {port}: {error.strerror}")
    door.set_inheritable(True)
    return door


def local_url(host: str, port: int) -> str:
    """Where this machine reaches what listens there."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Config(uvicorn.Config):
    """uvicorn's settings, and an app that remembers why it could not be opened."""

    opened: "Opened"

    def load_app(self) -> Any:
        self.opened = Opened(super().load_app())
        return self.opened


class Opened:
    """The app. Why it could not be opened is kept in `fault` and not told as a traceback."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.fault: BaseException | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        told: list[dict[str, Any]] = []

        async def hold_back(message: dict[str, Any]) -> None:
            if message["type"] == "lifespan.startup.failed":
                told.append(message)
            else:
                await send(message)

        try:
            await self._app(scope, receive, hold_back)
        except Exception as error:
            if not told:
                raise
            self.fault = error if is_refusal(error) else None
            await send({"type": told[0]["type"]} if self.fault else told[0])


class Server(uvicorn.Server):
    """uvicorn, with our manners at its start and its end."""

    def __init__(self, current: Settings, url: str, *, first_start: bool) -> None:
        made = Config(
            "main:app",
            log_config=None,
            access_log=False,
            proxy_headers=False,  # TRUSTED_PROXIES decides
            server_header=False,
            http=outlets.Protocol,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        # Before the signal handlers are set: sse-starlette wraps uvicorn's when it is imported,
        # and streams are told of the end by that alone.
        made.load()
        super().__init__(made)
        self._opened = made.opened
        self._settings = current
        self._url = url
        self._first_start = first_start

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.started:  # nothing is served yet, and a migration's lock may take minutes
            end_well(sig, frame)
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        logging.getLogger("uvicorn.error").addFilter(says_more)
        try:
            await super().startup(sockets)
        except SystemExit:
            fault = self._opened.fault
            if fault is None:
                raise
            why = sentence(self._settings, fault)
            if self._settings.log_file is not None:
                logger.error("cannot start: {}", why)
            refuse(why)
        await greet(self._settings, self._url, first_start=self._first_start)

    async def _drain(self) -> None:
        """Serve on for a while, not ready any more: whoever sends requests here shall stop."""
        deadline = time.monotonic() + self._settings.drain_seconds
        while time.monotonic() < deadline and not self.force_exit:  # noqa: ASYNC110 - a signal's
            await asyncio.sleep(0.05)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        logger.info("told to stop")
        await self._drain()
        await super().shutdown(sockets)
        logger.info("stopped")


def says_more(record: logging.LogRecord) -> bool:
    """All but uvicorn's line that follows every failed start."""
    return not record.getMessage().startswith("Application startup failed")


# --- the first words ------------------------------------------------------------------

PURCHASE = (
    '{"customer": "c-7", "items": [{"sku": "disc-001", "quantity": 2, "amount_cents": 1980}]}'
)
FIELD = r"""sed 's/.*"{}":"\([^"]*\)".*/\1/'"""  # cuts a field out of an answer, with what all have


async def greet(current: Settings, url: str, *, first_start: bool) -> None:
    """On a terminal: where everything is. Elsewhere a line of the log, without a secret."""
    password, _ = config.admin_password(current)
    if not sys.stdout.isatty():
        logger.info("serving at {}, with data in {}", url, current.data_dir.absolute())
        if first_start and await opens(current, password):
            logger.info("the first password of {} is in {}", ADMIN, password_file(current))
        return
    known = await opens(current, password)
    shown = password if first_start and known else None
    typer.echo(welcome(current, url, sign_in(current, shown, known=known)))
    typer.echo(first_steps(url, password_source(current, known=known)))


async def opens(current: Settings, password: str) -> bool:
    """Whether this is the password of the account `admin`, as far as can be found out."""
    try:
        async with Database(config.tortoise_orm(current)).read() as session:
            account = await Account.get_or_none(using_db=session.orm, username=ADMIN)
    except DRIVER_ERRORS:
        return False
    return account is not None and await auth.verify_password(password, account.password_hash)


def password_file(current: Settings) -> Path:
    return (current.data_dir / "admin-password").absolute()


def sign_in(current: Settings, shown: str | None, *, known: bool) -> str:
    if shown is not None:
        return f"{ADMIN}, password {shown}   (shown only now; kept in {password_file(current)})"
    if not known:
        return f"{ADMIN}, with the password the account was given"
    if current.admin_password is not None:
        return f"{ADMIN}, with the password in FILAVIVA_ADMIN_PASSWORD"
    return f"{ADMIN}, with the password in {password_file(current)}"


def password_source(current: Settings, *, known: bool) -> str:
    """How a shell comes by admin's password: it stands in no line that could be kept."""
    if not known:
        return "$(read -rsp 'Password of admin: ' p; printf %s \"$p\")"
    if current.admin_password is not None:
        return "$FILAVIVA_ADMIN_PASSWORD"
    return f"$(cat {shlex.quote(str(password_file(current)))})"


def welcome(current: Settings, url: str, how: str) -> str:
    redis = current.redis_url
    rows = {
        "address": url,
        "console": f"{url}/admin",
        **({"shop": f"{url}/shop"} if current.shop else {}),
        "documentation": f"{url}/docs",
        "data": str(current.data_dir.absolute()),
        "database": config.masked_url(current.database_url.get_secret_value()),
        "Redis": config.masked_url(redis.get_secret_value()) if redis else "none",
        "sign in": how,
    }
    lines = (f"  {name:15}{value}" for name, value in rows.items())
    return "\n".join(["", "Filaviva is running. Ctrl+C ends it.", "", *lines])


def first_steps(url: str, password: str) -> str:
    api = f"{url}/api/v1"
    form = f'-d username={ADMIN} --data-urlencode "password={password}"'
    token = f"$(curl -s {api}/auth/token {form} | {FIELD.format('access_token')})"
    json = "-H 'Content-Type: application/json'"
    post = f'curl -s {api}/queues/orders/messages -H "Authorization: Bearer {token}" {json}'
    ticket = f'$(echo "$POSTED" | {FIELD.format("ticket")})'
    return f"""
Post a purchase, then watch it from its beginning, in one shell:

POSTED=$({post} -d '{PURCHASE}'); echo "$POSTED"
curl -N "{api}/events?since=earliest&ticket={ticket}"
"""


# --- migrate, config, token, doctor, audit --------------------------------------------


def with_database(current: Settings, work: Callable[[Database], Awaitable[T]]) -> T:
    """Do something with the open database; a line and status 1 if it cannot be had."""

    async def opened() -> T:
        db = Database(config.tortoise_orm(current))
        try:
            await db.open()
            return await work(db)
        finally:
            await db.close()

    try:
        return asyncio.run(opened())
    except Exception as error:
        if not is_refusal(error):
            raise
        refuse(sentence(current, error))


@cli.command()
def migrate() -> None:
    """Bring the schema of the database up to date.

    Several at once wait for each other. Each step is one transaction: a failed one leaves
    the schema as it was. Of an SQLite file that is not empty a copy is kept beside it.

    \b
    Examples:
      python cli.py migrate
      FILAVIVA_DATABASE_URL=postgres://user:password@host/filaviva python cli.py migrate
    """
    current = settings()
    logs.start("WARNING", current.log_format, current.log_file)
    own_folder(current)
    done = with_database(current, Database.migrate)
    typer.echo(f"applied {', '.join(done)}" if done else "the schema is up to date")


@cli.command("config")
def show_config() -> None:
    """Show every setting with its value.

    And its default, and what it means. Secrets are masked.

    \b
    Examples:
      python cli.py config
      python cli.py config | grep STREAMS
    """
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    table = Table(box=None, pad_edge=False)
    for title in ("setting", "value", "default", "meaning"):
        table.add_column(title, overflow="fold", no_wrap=title == "setting")
    for row in config.describe(settings()):
        changed = "bold" if row.value != row.default else None
        table.add_row(*(escape(text) for text in row), style=changed)
    console.print(table)


@cli.command()
def token(
    username: Annotated[str, typer.Argument(help="An account that exists.")],
    days: Annotated[int, typer.Option(min=1, max=365, help="How long it is valid.")] = 30,
) -> None:
    """Print a bearer token for an account.

    For a machine, or to try something. It ends before its time with a new password or role
    of the account, or when an admin revokes the account's tokens. Run it with the settings
    of the service: SECRET_KEY and PUBLIC_URL are part of the token.

    \b
    Examples:
      python cli.py token shop --days 365 > shop.token
      curl -H "Authorization: Bearer $(python cli.py token admin --days 1)" \\
           http://127.0.0.1:8000/api/v1/queues
    """
    current = settings()
    logs.start("WARNING", current.log_format, current.log_file)
    refuse_absent(current)
    refuse_keyless(current)
    typer.echo(with_database(current, lambda db: _token(db, current, username, days)))


def refuse_absent(current: Settings) -> None:
    """Make no database: whoever looks for one has the wrong settings, or is too early."""
    db = Database(config.tortoise_orm(current))
    if db.dialect is Dialect.SQLITE and not db.path.exists():
        refuse(f"there is no database at {db.path} yet; start the service first")


def refuse_keyless(current: Settings) -> None:
    """Make no key: a token of it would open nothing."""
    if current.secret_key is None and not (current.data_dir / "secret-key").exists():
        refuse("there is no secret key; set FILAVIVA_SECRET_KEY or DATA_DIR as the service has it")


async def _token(db: Database, current: Settings, username: str, days: int) -> str:
    signer = Signer(config.secret_key(current), current.public_url)
    account = await Accounts(db, signer).find(username)
    if account is None or not account.active:
        refuse(f"there is no active account '{username}'")
    seconds = days * DAY // 1000
    return signer.issue(Kind.ACCESS, account, auth.new_id(), wall(), seconds)


@cli.command("doctor")
def examine() -> None:
    """Check the whole installation.

    Settings, files, disk, database, schema, Redis, and the audit. It changes nothing, and
    may run beside the service. Each line says ok, warn or fail, and what to do. The
    status is 1 if anything failed.

    \b
    Examples:
      python cli.py doctor
      python cli.py doctor || echo "look at it"
    """
    current = settings()
    logs.start("CRITICAL", current.log_format, current.log_file)
    findings = asyncio.run(doctor.examine(current))
    for one in findings:
        advice = f"\n{'':17}→ {one.advice}" if one.advice else ""
        typer.echo(
            f"{typer.style(f'{one.level:5}', fg=COLOURS[one.level])} {one.what:11}"
            f"{one.text}{advice}"
        )
    if any(one.level is doctor.Level.FAIL for one in findings):
        raise typer.Exit(1)


COLOURS = {doctor.Level.OK: "green", doctor.Level.WARN: "yellow", doctor.Level.FAIL: "red"}


@cli.command("audit")
def compare(
    repair: Annotated[
        bool, typer.Option("--repair", help="First count again what is counted wrong.")
    ] = False,
    seconds: Annotated[
        float,
        typer.Option(min=0.1, max=3600, help="How long one snapshot may last; more slows writers."),
    ] = READ_SECONDS,
) -> None:
    """Compare orders, counts, stock, its ledger and the event log.

    Each difference is a line: the SKU, queue or order, what was found, what it should be.
    It may run beside the service. The status is 1 if anything was found, or could not be
    compared in time. --repair mends counts (queues, customers), nothing else, says what it
    mended, and then compares; the service stands still while it counts.

    \b
    Examples:
      python cli.py audit
      python cli.py audit --repair
      FILAVIVA_DATABASE_URL=postgres://user@replica/filaviva python cli.py audit --seconds 600
    """
    current = settings()
    logs.start("CRITICAL", current.log_format, current.log_file)
    refuse_absent(current)
    if with_database(current, lambda db: _audit(db, seconds, repair=repair)):
        raise typer.Exit(1)
    typer.echo("nothing found")


async def _audit(db: Database, seconds: float, *, repair: bool) -> int:
    """Tell everything that is found; how much it was."""
    for line in await audit.mend_counters(db, seconds) if repair else ():
        typer.echo(f"mended: {line}")
    found = 0
    async for remark in audit.differences(db, seconds):
        typer.echo(remark.text)
        found += 1
    return found


# --- import ---------------------------------------------------------------------------

STEP = 5_000  # products in one transaction: the service beside it waits no longer for it
FAULTS = 20  # of a file that are told
ONCE = "cli import"  # with a space: no key of a call over HTTP


def three_capitals(value: str) -> str:
    if re.fullmatch(CURRENCY, value) is None:
        raise typer.BadParameter("three capital letters, as in BRL")
    return value


@cli.command("import")
def import_products(
    file: Annotated[Path, typer.Argument(help="A CSV file in UTF-8.")],
    currency: Annotated[
        str, typer.Option(help="Of all its prices.", callback=three_capitals)
    ] = "BRL",
    quantity: Annotated[
        int | None,
        typer.Option(
            "--stock", min=1, max=10**9, help="Receive so many of each that is not counted yet."
        ),
    ] = None,
) -> None:
    """Create and change products from a CSV file.

    Its first line names the columns: sku, title and price_cents; artist, genre and tracks become
    attributes. All rows are checked before anything is written, and each fault is told with its
    line. Of a product that is there, what the file does not name stays as it is; a file that
    comes again changes nothing. It may run beside the service.

    \b
    Examples:
      python cli.py import samples/discs.csv
      python cli.py import samples/discs.csv --stock 20
    """
    current = settings()
    logs.start("WARNING", current.log_format, current.log_file)
    products = listed(current, file, currency)
    refuse_absent(current)
    for line in with_database(current, lambda db: _import(db, products, quantity)):
        typer.echo(line)


def listed(current: Settings, file: Path, currency: str) -> list[ProductIn]:
    """The products of a file, or a line per fault and the end."""
    try:
        return sheet.read(file, currency)
    except OSError as error:
        refuse(sentence(current, error))
    except sheet.BadSheet as bad:
        for fault in bad.faults[:FAULTS]:
            typer.echo(f"{file}: {fault}", err=True)
        if len(bad.faults) > FAULTS:
            typer.echo(f"{file}: and {len(bad.faults) - FAULTS} more", err=True)
        raise typer.Exit(1) from None


async def _import(
    db: Database, products: Sequence[ProductIn], quantity: int | None
) -> Sequence[str]:
    """Write products, and perhaps their first stock; what there is to say of it."""
    if lacking := await db.pending_migrations():
        refuse(f"the schema lacks {', '.join(lacking)}: run `python cli.py migrate` first")
    new = changed = 0
    try:
        for part in parts(products):
            added, edited = await catalogue.merge(db, part)
            new, changed = new + added, changed + edited
        same = len(products) - new - changed
        said = [f"{len(products)} products: {new} new, {changed} changed, {same} as they were"]
        if quantity is not None:
            said.append(f"{await stock_up(db, products, quantity)} of them received {quantity}")
    except Problem as problem:
        refuse(problem.detail)
    return said


def parts(products: Sequence[ProductIn]) -> Iterator[Sequence[ProductIn]]:
    return (products[at : at + STEP] for at in range(0, len(products), STEP))


async def stock_up(db: Database, products: Sequence[ProductIn], quantity: int) -> int:
    """Receive some of each product that is not counted yet; of how many.

    The service finds the events when it looks at the log, within a second.

    Raises:
        Problem: what the first that failed ran into; the others were received.
    """
    writer, received = Writer(db, lambda appended, events: None), 0
    await writer.start()
    try:
        for part in parts(products):
            async with db.read() as session:
                counted = await stock.find(session, [one.sku for one in part])
            done = await writer.do_many(
                [
                    Receive(one.sku, quantity, ADMIN, reason="import", key=ONCE)
                    for one in part
                    if one.sku not in counted
                ]
            )
            for problem in (one for one in done if isinstance(one, Problem)):
                raise problem
            received += sum(isinstance(one, Posted) and not one.replayed for one in done)
    finally:
        await writer.stop()
    return received


# --- demo -----------------------------------------------------------------------------


@cli.command("demo")
def run_demo(
    url: Annotated[str | None, typer.Option(help="The service; by default the local one.")] = None,
    username: Annotated[
        str, typer.Option(help="An account that may post, work and make queues.")
    ] = ADMIN,
    password: Annotated[
        str | None, typer.Option(help="Its password; asked for if not known.")
    ] = None,
    purchases: Annotated[int, typer.Option(min=1, max=demo.ALL, help="How many.")] = demo.ALL,
    seed: Annotated[int, typer.Option(help="Other discs and other failures.")] = 1997,
) -> None:
    """Post and work through real purchases.

    They are of 1997; workers carry them through payments, picking and shipping, and some
    fail. Without --url the service of these settings is used; if none runs, one is started for the
    demo alone, with its data in a temporary folder. In the end the counts of the service are
    compared with what the demo knows; the status is 1 if anything differs. Started again, it
    goes on where it was interrupted.

    \b
    Examples:
      python cli.py demo
      python cli.py demo --purchases 500
      python cli.py demo --url https://shop.example --username operator
    """
    current = settings()
    signal.signal(signal.SIGTERM, end_badly)
    console = Console()
    try:
        with ExitStack() as stack:
            found = stage(current, url, username, password, console, stack)
            different = asyncio.run(demo.run(*found, purchases, seed, console))
    except demo.DemoFailed as error:
        refuse(str(error))
    for line in different:
        typer.echo(line, err=True)
    if different:
        raise typer.Exit(1)
    console.print("The service, the books and the plan agree.")


def end_badly(number: int, frame: FrameType | None) -> NoReturn:
    """Ended from outside: as a shell says it, and after the throw-away service has ended."""
    raise SystemExit(128 + number)


def stage(
    current: Settings,
    url: str | None,
    username: str,
    password: str | None,
    console: Console,
    stack: ExitStack,
) -> tuple[str, str, str]:
    """Where the demo plays: address, username and password of a service that answers."""
    if url is None and current.environment == "production":
        refuse("this looks like production; name the service with --url if you mean it")
    where = (url or local_url(current.host, current.port)).rstrip("/")
    if demo.answers(where):
        return where, username, password or known_password(current, username)
    if url is not None:
        refuse(f"nothing answers at {url}")
    with listening("127.0.0.1", 0) as door:
        port: int = door.getsockname()[1]
    text = f"No service answers at {where}: starting one that ends with the demo."
    console.print(text, soft_wrap=True)
    return f"http://127.0.0.1:{port}", ADMIN, stack.enter_context(demo.own_service(port))


def known_password(current: Settings, username: str) -> str:
    """Admin's from where the service keeps the first one; else whoever started this is asked."""
    if username == ADMIN and (current.admin_password or password_file(current).exists()):
        return config.admin_password(current)[0]
    return typer.prompt(f"Password of {username}", hide_input=True)


if __name__ == "__main__":
    cli()
