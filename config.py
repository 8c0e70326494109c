"""The settings: one typed object, checked at start. Nothing else reads the environment.

Every setting is an environment variable `FILAVIVA_<NAME>`; an empty one counts as not
set. `load` is pure and takes the environment as an argument, `settings` reads the real
one, once. Secrets are `SecretStr`: they do not appear in a repr, an error or a log.
"""

import difflib
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from tempfile import mkstemp
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

PREFIX = "FILAVIVA_"
SECRET_KEY_BYTES = 32
PASSWORD_LENGTH = (12, 128)
REDIS_SCHEMES = ("redis", "rediss", "unix")
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
DEFAULT_PORTS = {"http": 80, "https": 443}

Network = IPv4Network | IPv6Network


class BadSettings(Exception):
    """The settings cannot be used. The text has one line per fault and holds no secret."""


# --- reading single values ------------------------------------------------------------


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _origin(text: str) -> str:
    """`scheme://host[:port]` as browsers write it: lower case, no default port, no path.

    Raises ValueError for anything that is not exactly an origin.
    """
    url = urlsplit(text.strip().rstrip("/").lower())
    if url.scheme not in DEFAULT_PORTS or not url.hostname:
        raise ValueError("write it as http://host or https://host, with a port if it needs one")
    if url.path or url.query or url.fragment or "@" in url.netloc or "*" in url.netloc:
        raise ValueError("only scheme, host and port: no path, no user, no wildcard")
    host = f"[{url.hostname}]" if ":" in url.hostname else url.hostname
    default = url.port is None or url.port == DEFAULT_PORTS[url.scheme]
    return f"{url.scheme}://{host}" if default else f"{url.scheme}://{host}:{url.port}"


def _origins(value: object) -> object:
    return tuple(_origin(part) for part in _split(value)) if isinstance(value, str) else value


def _networks(value: object) -> object:
    return tuple(ip_network(part) for part in _split(value)) if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _database_url(value: SecretStr) -> SecretStr:
    _connection(value.get_secret_value())
    return value


def _redis_url(value: SecretStr) -> SecretStr:
    if _parts(value.get_secret_value()).scheme not in REDIS_SCHEMES:
        raise ValueError("it starts with redis://, rediss:// or unix://")
    return value


def _secret_key(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value().encode()) < SECRET_KEY_BYTES:
        raise ValueError(
            f"it has at least {SECRET_KEY_BYTES} bytes; `openssl rand -hex 32` is good"
        )
    return value


def _password(value: SecretStr) -> SecretStr:
    low, high = PASSWORD_LENGTH
    if not low <= len(value.get_secret_value()) <= high:
        raise ValueError(f"it has {low} to {high} characters")
    return value


def _default_database(data: dict[str, Any]) -> SecretStr:
    path = Path(data["data_dir"]).absolute() / "filaviva.db"
    return SecretStr(f"sqlite://{quote(str(path))}")


def _default_public_url(data: dict[str, Any]) -> str:
    host = f"[{data['host']}]" if ":" in data["host"] else data["host"]
    return f"http://{host}:{data['port']}"


# --- the object -----------------------------------------------------------------------


class Settings(BaseSettings):
    """All settings, in the order of the manual. Immutable; made by `load`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    data_dir: Path = Field(
        Path("data"), description="Folder of the SQLite file and of the secrets made at start."
    )
    database_url: Annotated[SecretStr, AfterValidator(_database_url)] = Field(
        default_factory=_default_database,
        description="sqlite:///absolute/path or postgres://user:password@host:port/name.",
    )
    redis_url: Annotated[SecretStr, AfterValidator(_redis_url)] | None = Field(
        None, description="redis://host:port/0. Without it events arrive a second later."
    )
    secret_key: Annotated[SecretStr, AfterValidator(_secret_key)] | None = Field(
        None, description="Signs tokens and tickets, 32 bytes or more; made at first start."
    )
    admin_password: Annotated[SecretStr, AfterValidator(_password)] | None = Field(
        None, description="Password of the account admin; made at first start."
    )
    environment: Literal["development", "production"] = Field(
        "development", description="production refuses an old or empty schema; it never migrates."
    )
    public_url: Annotated[str, BeforeValidator(_origin)] = Field(
        default_factory=_default_public_url,
        description="Where people reach the service; links that leave it are made from this.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)] = Field(
        (), description="Origins of pages elsewhere that may call the API, with commas."
    )
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_networks)] = Field(
        (), description="Networks of proxies whose X-Forwarded-* headers count, with commas."
    )
    registration: bool = Field(True, description="Whether people may register themselves.")
    public_stock: bool = Field(False, description="Whether anybody sees products and stock.")
    metrics_token: SecretStr | None = Field(
        None, min_length=16, description="Bearer token that opens /metrics to a scraper."
    )
    rate_limits: bool = Field(True, description="on or off.")
    pool_size: int = Field(10, ge=2, le=1000, description="Database connections per process.")
    max_streams: int = Field(12_000, ge=1, description="Open streams per process.")
    max_stream_rate: int = Field(
        500, ge=1, description="Streams opened a second per process, while RATE_LIMITS is on."
    )
    max_streams_per_principal: int = Field(16, ge=1, description="Open streams per account.")
    max_streams_per_address: int = Field(
        64, ge=1, description="Open streams per address, of those without an account."
    )
    drain_seconds: float = Field(
        0, ge=0, le=300, description="How long to serve on, not ready, when told to stop."
    )
    event_retention_days: int = Field(
        30, ge=1, le=3650, description="How long a stream can be resumed from."
    )
    audit_days: int = Field(365, ge=1, le=3650, description="How long it is known what admins did.")
    tracking_days: int = Field(7, ge=1, le=365, description="How long a tracking link works.")
    order_ttl_seconds: int = Field(
        0, ge=0, description="When an unclaimed order of a customer expires; 0: never."
    )
    shop: bool = Field(False, description="Whether the pages /shop and /cart are there.")
    log_level: Annotated[
        Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)
    ] = Field("INFO", description="The least serious level that is logged.")
    log_format: Literal["text", "json"] | None = Field(
        None, description="text or json; by default text on a terminal and json elsewhere."
    )
    log_file: Path | None = Field(None, description="A file to log to instead, rotated.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What `load` hands in, and nothing from behind its back."""
        return (init_settings,)


def load(environ: Mapping[str, str]) -> Settings:
    """The settings in `environ`. Raises BadSettings with every fault at once."""
    given = {name: value for name, value in environ.items() if name.upper().startswith(PREFIX)}
    unknown = [_unknown(name) for name in sorted(given) if name not in names()]
    known = {
        name.removeprefix(PREFIX).lower(): value
        for name, value in given.items()
        if value and name in names()
    }
    try:
        made = Settings(**known)  # pyright: ignore[reportArgumentType]  # text, parsed here
    except ValidationError as error:
        raise BadSettings("\n".join([*unknown, *_faults(error)])) from None
    if unknown:
        raise BadSettings("\n".join(unknown))
    return made


@cache
def settings() -> Settings:
    """The settings of this process. Raises BadSettings."""
    return load(os.environ)


@cache
def names() -> tuple[str, ...]:
    """Every variable there is, in the order of the manual."""
    return tuple(f"{PREFIX}{field.upper()}" for field in Settings.model_fields)


def _unknown(name: str) -> str:
    bare = name.upper().removeprefix(PREFIX)
    near = difflib.get_close_matches(bare, map(str.upper, Settings.model_fields), n=1, cutoff=0)
    return f"{name} is not a setting; did you mean {PREFIX}{near[0]}?"


def _faults(error: ValidationError) -> list[str]:
    """One line per fault, without the value: it may be a secret."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        f"{PREFIX}{str(fault['loc'][0]).upper()}: {fault['msg'].removeprefix('Value error, ')}"
        for fault in faults
        if fault["type"] != "default_factory_not_called"  # follows from a fault named already
    ]


# --- what it looks like ---------------------------------------------------------------


class Setting(NamedTuple):
    """One row of `cli config` and of the manual; all text, secrets masked."""

    name: str
    value: str
    default: str
    meaning: str


def describe(current: Settings) -> list[Setting]:
    """Every setting with its value (secrets masked), its default and what it means."""
    return [
        Setting(
            name=f"{PREFIX}{field.upper()}",
            value=_shown(field, getattr(current, field)),
            default=_default(field, info),
            meaning=info.description or "",
        )
        for field, info in Settings.model_fields.items()
    ]


def masked_url(url: str) -> str:
    """`url` with its password, if any, as `***`."""
    parts = urlsplit(url)
    if not parts.password:
        return url
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user.split(':')[0]}:***@{host}").geturl()


def _default(field: str, info: FieldInfo) -> str:
    computed = {"database_url": "SQLite in DATA_DIR", "public_url": "http://HOST:PORT"}
    return computed.get(field) or _shown(field, info.default)


def _shown(field: str, value: object) -> str:
    match value:
        case None | ():
            return "none"
        case bool():
            yes, no = ("on", "off") if field == "rate_limits" else ("true", "false")
            return yes if value else no
        case SecretStr():
            text = value.get_secret_value()
            return masked_url(text) if "://" in text else "***"
        case tuple():
            return ",".join(map(str, value))
        case _:
            return str(value)


# --- secrets that are made at first start ---------------------------------------------


def data_dir(current: Settings) -> Path:
    """DATA_DIR, made for this user alone if it is missing."""
    current.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    return current.data_dir


def secret_key(current: Settings) -> bytes:
    """The key that signs tokens, 32 bytes or more; made in DATA_DIR/secret-key if not set.

    Raises BadSettings when the file is too short or others may read it.
    """
    if current.secret_key:
        return current.secret_key.get_secret_value().encode()
    path = data_dir(current) / "secret-key"
    key, _ = _kept(path, lambda: secrets.token_hex(SECRET_KEY_BYTES))
    if len(key.encode()) < SECRET_KEY_BYTES:
        raise BadSettings(
            f"{path} has fewer than {SECRET_KEY_BYTES} bytes; remove it for a new one"
        )
    return key.encode()


def admin_password(current: Settings) -> tuple[str, bool]:
    """The first password of the account `admin`, and whether this call made it.

    Made in DATA_DIR/admin-password if not set. Raises BadSettings as `secret_key` does.
    """
    if current.admin_password:
        return current.admin_password.get_secret_value(), False
    return _kept(data_dir(current) / "admin-password", lambda: secrets.token_urlsafe(18))


def _kept(path: Path, make: Callable[[], str]) -> tuple[str, bool]:
    """The text of `path`, made there with mode 0600 if missing, and whether it was.

    A file is complete from the first moment that it has its name: of two processes that
    start at once one makes it, and both read the same.
    """
    made = False if path.exists() else _place(path, make())
    if path.stat().st_mode & stat.S_IRWXO:
        raise BadSettings(f"{path} is open to every user of this machine; chmod 600 {path}")
    return path.read_text(encoding="utf-8").strip(), made


def _place(path: Path, text: str) -> bool:
    """Write `text` to `path` unless it exists; whether it was written."""
    handle, draft = mkstemp(dir=path.parent, prefix=f".{path.name}-")  # O_EXCL, mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
            return True
        return False
    finally:
        Path(draft).unlink()


# --- the database ---------------------------------------------------------------------


def _flag_or_mode(text: str) -> bool | str:
    """asyncpg's `ssl`: its driver takes any text but a mode for true, "false" included."""
    if text.lower() in ("true", "on", "1"):
        return True
    if text.lower() in ("false", "off", "0"):
        return False
    if text in SSL_MODES:
        return text
    raise ValueError(f"ssl is true, false or one of {', '.join(SSL_MODES)}")


def _positive(text: str) -> float:
    if (value := float(text)) <= 0:
        raise ValueError("a time is above 0")
    return value


POSTGRES_OPTIONS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "ssl": ("ssl", _flag_or_mode),
    "sslmode": ("ssl", _flag_or_mode),
    "host": ("host", str),  # the folder of a unix socket
    "timeout": ("timeout", _positive),
    "command_timeout": ("command_timeout", _positive),
    "statement_cache_size": ("statement_cache_size", int),  # 0 behind PgBouncer
}


def connection(current: Settings, name: str = "filaviva") -> dict[str, Any]:
    """Tortoise's engine and credentials for DATABASE_URL.

    `name` is what PostgreSQL shows as `application_name`. The pool has at most POOL_SIZE
    connections.
    """
    found = _connection(current.database_url.get_secret_value())
    if found["engine"].endswith("asyncpg"):
        pool = {"minsize": 1, "maxsize": current.pool_size, "application_name": name}
        return {**found, "credentials": {"timeout": 10.0, **found["credentials"], **pool}}
    return found


def tortoise_orm(current: Settings) -> dict[str, Any]:
    """What `Tortoise.init(config=…)` and aerich take."""
    return {
        "connections": {"default": connection(current)},
        "apps": {
            "models": {"models": ["models", "aerich.models"], "default_connection": "default"}
        },
        "use_tz": True,
        "timezone": "UTC",
    }


def __getattr__(name: str) -> Any:
    """`config.TORTOISE_ORM`, which aerich looks for, made when it is asked for."""
    if name == "TORTOISE_ORM":
        return tortoise_orm(settings())
    raise AttributeError(name)


def _connection(text: str) -> dict[str, Any]:
    """Engine and credentials of a database URL. Raises ValueError, without the URL."""
    url = _parts(text)
    match url.scheme:
        case "sqlite":
            return {"engine": "tortoise.backends.sqlite", "credentials": _sqlite(url)}
        case "postgres" | "postgresql":
            return {"engine": "tortoise.backends.asyncpg", "credentials": _postgres(url)}
        case _:
            raise ValueError("it starts with sqlite:///, postgres:// or postgresql://")


def _parts(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError:
        raise ValueError("it is no URL; percent-encode [ and ] in a password") from None


def _sqlite(url: SplitResult) -> dict[str, Any]:
    """The file, and the pragmas that make a commit durable and a reader wait for nobody."""
    path = unquote(url.netloc + url.path)
    if not path or ":memory:" in path:
        raise ValueError("SQLite needs a file: sqlite:///absolute/path")
    if url.query:
        raise ValueError("a SQLite URL takes no options")
    return {
        "file_path": path,
        "journal_mode": "WAL",
        "synchronous": "FULL",
        "busy_timeout": 5000,
        "foreign_keys": "ON",
    }


def _postgres(url: SplitResult) -> dict[str, Any]:
    options = dict(_options(parse_qsl(url.query, keep_blank_values=True)))
    host = url.hostname or options.get("host")
    if not host or not url.path.strip("/"):
        raise ValueError("it names a host and a database: postgres://user:password@host:5432/name")
    return {
        **options,
        "host": host,
        "port": _port(url),
        "user": unquote(url.username) if url.username else None,
        "password": unquote(url.password) if url.password else None,
        "database": unquote(url.path.strip("/")),
    }


def _port(url: SplitResult) -> int:
    try:
        return url.port or 5432
    except ValueError:  # its text quotes what may be half a password
        raise ValueError("the port is no number; percent-encode : / @ in a password") from None


def _options(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, object]]:
    for name, text in pairs:
        if name not in POSTGRES_OPTIONS:
            raise ValueError(f"no option {name!r}; there are {', '.join(POSTGRES_OPTIONS)}")
        key, read = POSTGRES_OPTIONS[name]
        yield key, read(text)
