"""The settings: read from one place, checked at start, secrets never shown."""

import multiprocessing
import stat
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

import config
from config import BadSettings, load

SECRET = "correct-horse-battery-staple-0123456789"


def postgres(query: str = "", start: str = "postgres://user:pw@db:6432/shop") -> dict[str, object]:
    made = config.connection(load({"FILAVIVA_DATABASE_URL": start + query}))
    return made["credentials"]


def refused(**environ: str) -> str:
    with pytest.raises(BadSettings) as caught:
        load({f"FILAVIVA_{name}": value for name, value in environ.items()})
    return str(caught.value)


def test_an_empty_environment_is_enough() -> None:
    """Nothing has to be set: the defaults make a service that runs."""
    made = load({})
    assert (made.host, made.port, made.environment) == ("127.0.0.1", 8000, "development")
    assert made.public_url == "http://127.0.0.1:8000"
    assert made.database_url.get_secret_value().startswith("sqlite:///")
    assert made.redis_url is None
    assert made.rate_limits is True
    assert made.registration is True
    assert made.public_stock is False


def test_the_environment_is_handed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """`load` sees what it is given and nothing else."""
    monkeypatch.setenv("FILAVIVA_PORT", "1234")
    monkeypatch.setenv("PORT", "1234")
    assert load({}).port == 8000


def test_the_process_reads_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`settings` reads the environment of the process, once."""
    monkeypatch.setenv("FILAVIVA_PORT", "1234")
    config.settings.cache_clear()
    try:
        assert config.settings().port == 1234
        monkeypatch.setenv("FILAVIVA_PORT", "1235")
        assert config.settings().port == 1234
    finally:
        config.settings.cache_clear()


def test_settings_cannot_be_changed() -> None:
    """What was checked at start stays as it was."""
    with pytest.raises(ValidationError):
        load({}).port = 1


@pytest.mark.parametrize(
    "name,near",
    [
        ("FILAVIVA_PROT", "FILAVIVA_PORT"),
        ("FILAVIVA_DATABSE", "FILAVIVA_DATABASE_URL"),
        ("FILAVIVA_REDIS", "FILAVIVA_REDIS_URL"),
        ("filaviva_secret_key", "FILAVIVA_SECRET_KEY"),
    ],
)
def test_a_misspelt_setting_is_refused_with_the_right_name(name: str, near: str) -> None:
    """A typo stops the start and says what was meant."""
    with pytest.raises(BadSettings) as caught:
        load({name: "x"})
    assert str(caught.value) == f"{name} is not a setting; did you mean {near}?"


def test_every_fault_is_told_at_once() -> None:
    """Who has three faults repairs them in one go."""
    with pytest.raises(BadSettings) as caught:
        load({"FILAVIVA_PORT": "x", "FILAVIVA_POOL_SIZE": "0", "FILAVIVA_NOPE": "1"})
    told = str(caught.value).splitlines()
    assert [line.split(" ")[0].rstrip(":") for line in told] == [
        "FILAVIVA_NOPE",
        "FILAVIVA_PORT",
        "FILAVIVA_POOL_SIZE",
    ]


def test_an_empty_variable_is_not_set() -> None:
    """`FILAVIVA_X=` in a compose file means the default."""
    made = load({"FILAVIVA_REDIS_URL": "", "FILAVIVA_SECRET_KEY": "", "FILAVIVA_PORT": ""})
    assert (made.redis_url, made.secret_key, made.port) == (None, None, 8000)


@pytest.mark.parametrize(
    "name,value",
    [
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("POOL_SIZE", "1"),
        ("ENVIRONMENT", "staging"),
        ("LOG_LEVEL", "LOUD"),
        ("LOG_FORMAT", "xml"),
        ("RATE_LIMITS", "maybe"),
        ("MAX_STREAMS", "0"),
        ("EVENT_RETENTION_DAYS", "0"),
        ("AUDIT_DAYS", "0"),
        ("AUDIT_DAYS", "3651"),
        ("ORDER_TTL_SECONDS", "-1"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("TRUSTED_PROXIES", "everyone"),
        ("CORS_ORIGINS", "*"),
        ("CORS_ORIGINS", "https://*.shop.example"),
        ("CORS_ORIGINS", "https://shop.example/path"),
        ("PUBLIC_URL", "shop.example"),
        ("PUBLIC_URL", "ftp://shop.example"),
        ("REDIS_URL", "http://cache"),
        ("METRICS_TOKEN", "short"),
        ("DATABASE_URL", "mysql://u:p@h/d"),
        ("DATABASE_URL", "sqlite://"),
        ("DATABASE_URL", "sqlite://:memory:"),
        ("DATABASE_URL", "sqlite:///a.db?mode=ro"),
        ("DATABASE_URL", "postgres://h"),
        ("DATABASE_URL", "postgres:///d"),
        ("DATABASE_URL", "postgres://h/d?ssl=maybe"),
        ("DATABASE_URL", "postgres://h/d?sllmode=require"),
        ("DATABASE_URL", "postgres://h/d?timeout=0"),
    ],
)
def test_what_cannot_work_is_refused(name: str, value: str) -> None:
    """A value that cannot work stops the start, under the name of its variable."""
    assert refused(**{name: value}).startswith(f"FILAVIVA_{name}: ")


@pytest.mark.parametrize(
    "name,value",
    [
        ("SECRET_KEY", "hunter2"),
        ("ADMIN_PASSWORD", "hunter2"),
        ("METRICS_TOKEN", "hunter2"),
        ("DATABASE_URL", "mysql://user:hunter2@host/name"),
        ("DATABASE_URL", "postgres://user:hunter2/x@host/name"),
        ("DATABASE_URL", "postgres://user:[hunter2@host/name"),
        ("REDIS_URL", "http://:hunter2@host"),
        ("REDIS_URL", "redis://[:hunter2@host"),
    ],
)
def test_a_refused_secret_is_not_shown(name: str, value: str) -> None:
    """The sentence about a bad secret does not contain it."""
    assert "hunter2" not in refused(**{name: value})


def test_secrets_are_never_printed() -> None:
    """Neither the object nor the list of settings shows a secret."""
    made = load(
        {
            "FILAVIVA_SECRET_KEY": SECRET,
            "FILAVIVA_ADMIN_PASSWORD": SECRET,
            "FILAVIVA_METRICS_TOKEN": SECRET,
            "FILAVIVA_DATABASE_URL": f"postgres://user:{SECRET}@db/shop",
            "FILAVIVA_REDIS_URL": f"redis://:{SECRET}@cache/0",
        }
    )
    assert SECRET not in repr(made) + str(made) + repr(config.describe(made))
    shown = {row.name: row.value for row in config.describe(made)}
    assert shown["FILAVIVA_DATABASE_URL"] == "postgres://user:***@db/shop"
    assert shown["FILAVIVA_REDIS_URL"] == "redis://:***@cache/0"
    assert shown["FILAVIVA_SECRET_KEY"] == "***"


def test_every_setting_is_described() -> None:
    """Each setting has a name, a default and a meaning for the manual."""
    rows = config.describe(load({}))
    assert [row.name for row in rows] == list(config.names())
    assert all(row.default and row.meaning for row in rows)


@pytest.mark.parametrize(
    "text,origin",
    [
        ("https://Shop.Example/", "https://shop.example"),
        ("https://shop.example:443", "https://shop.example"),
        ("http://shop.example:80", "http://shop.example"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_public_url_is_written_as_browsers_do(text: str, origin: str) -> None:
    """PUBLIC_URL can be compared with an Origin header byte by byte."""
    assert load({"FILAVIVA_PUBLIC_URL": text}).public_url == origin


def test_public_url_follows_host_and_port() -> None:
    """Without PUBLIC_URL links point to where the service listens."""
    assert load({"FILAVIVA_HOST": "::1", "FILAVIVA_PORT": "81"}).public_url == "http://[::1]:81"


def test_lists_have_commas() -> None:
    """Networks and origins are lists with commas; a single address is a network."""
    made = load(
        {
            "FILAVIVA_TRUSTED_PROXIES": "10.0.0.0/8, 127.0.0.1,::1",
            "FILAVIVA_CORS_ORIGINS": "https://a.example,http://b.example:81",
        }
    )
    assert made.trusted_proxies == tuple(map(ip_network, ("10.0.0.0/8", "127.0.0.1", "::1")))
    assert made.cors_origins == ("https://a.example", "http://b.example:81")


# --- the database ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "query,ssl",
    [
        ("?ssl=false", False),
        ("?ssl=true", True),
        ("?ssl=require", "require"),
        ("?sslmode=disable", "disable"),
        ("?sslmode=verify-full", "verify-full"),
    ],
)
def test_ssl_means_what_it_says(query: str, ssl: bool | str) -> None:
    """`?ssl=false` is no encryption, although the driver takes any text for true."""
    assert postgres(query)["ssl"] is ssl or postgres(query)["ssl"] == ssl


def test_postgres_url_is_taken_apart() -> None:
    """Each part of the URL reaches the driver, percent-encoding undone."""
    found = postgres(
        "?statement_cache_size=0&timeout=3", "postgresql://us%40er:p%40ss%2F@db:6432/shop"
    )
    assert found == {
        "host": "db",
        "port": 6432,
        "user": "us@er",
        "password": "p@ss/",
        "database": "shop",
        "statement_cache_size": 0,
        "timeout": 3.0,
        "minsize": 1,
        "maxsize": 10,
        "application_name": "filaviva",
    }


def test_pool_size_reaches_the_pool() -> None:
    """POOL_SIZE bounds the connections of a process."""
    environ = {"FILAVIVA_DATABASE_URL": "postgres://h/d", "FILAVIVA_POOL_SIZE": "3"}
    found = config.connection(load(environ), "filaviva-writer")["credentials"]
    assert (found["maxsize"], found["application_name"]) == (3, "filaviva-writer")


def test_sqlite_is_durable(tmp_path: Path) -> None:
    """The default database is a file in DATA_DIR whose commits survive a power cut."""
    folder = tmp_path / "a folder?#%"
    found = config.connection(load({"FILAVIVA_DATA_DIR": str(folder)}))["credentials"]
    assert found["file_path"] == str(folder / "filaviva.db")
    assert (found["journal_mode"], found["synchronous"]) == ("WAL", "FULL")


def test_aerich_finds_its_configuration() -> None:
    """The migrations tool and the service are configured by the same object."""
    config.settings.cache_clear()
    found = config.TORTOISE_ORM
    assert found["apps"]["models"]["models"] == ["models", "aerich.models"]
    assert found["connections"]["default"]["engine"] == "tortoise.backends.sqlite"
    config.settings.cache_clear()


# --- secrets made at first start ------------------------------------------------------


def made_in(folder: Path) -> config.Settings:
    return load({"FILAVIVA_DATA_DIR": str(folder / "data")})


def test_a_secret_key_is_made_once(tmp_path: Path) -> None:
    """The key is made at first start, for this user alone, and is the same ever after."""
    made = made_in(tmp_path)
    first = config.secret_key(made)
    path = tmp_path / "data" / "secret-key"
    assert len(first) >= config.SECRET_KEY_BYTES
    assert config.secret_key(made) == first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [found.name for found in path.parent.iterdir()] == ["secret-key"]


def test_a_given_secret_key_is_used(tmp_path: Path) -> None:
    """A key from the environment is taken as it is and written nowhere."""
    made = load({"FILAVIVA_DATA_DIR": str(tmp_path), "FILAVIVA_SECRET_KEY": SECRET})
    assert config.secret_key(made) == SECRET.encode()
    assert list(tmp_path.iterdir()) == []


def test_a_weak_secret_key_is_refused(tmp_path: Path) -> None:
    """A key shorter than 32 bytes stops the start, from the file too."""
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "secret-key"
    path.write_text("short\n")
    path.chmod(0o600)
    with pytest.raises(BadSettings):
        config.secret_key(made_in(tmp_path))


@pytest.mark.parametrize("read", [config.secret_key, config.admin_password])
def test_a_secret_that_others_can_read_is_refused(
    tmp_path: Path, read: Callable[[config.Settings], object]
) -> None:
    """A secret open to every user of the machine stops the start and says what to do."""
    read(made_in(tmp_path))
    for path in (tmp_path / "data").iterdir():
        path.chmod(0o644)
    with pytest.raises(BadSettings, match="chmod 600"):
        read(made_in(tmp_path))


def test_the_first_password_is_made_once(tmp_path: Path) -> None:
    """The caller is told when the password is new, and can show it that once."""
    made = made_in(tmp_path)
    first, is_new = config.admin_password(made)
    low, high = config.PASSWORD_LENGTH
    assert is_new
    assert low <= len(first) <= high
    assert config.admin_password(made) == (first, False)


def test_a_given_password_is_used() -> None:
    """A password from the environment is taken and written nowhere."""
    made = load({"FILAVIVA_ADMIN_PASSWORD": SECRET})
    assert made.admin_password == SecretStr(SECRET)
    assert config.admin_password(made) == (SECRET, False)


def first_start(folder: str) -> tuple[bytes, tuple[str, bool]]:
    made = load({"FILAVIVA_DATA_DIR": folder})
    return config.secret_key(made), config.admin_password(made)


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    """Of many first starts at the same moment one makes the secrets and all use them."""
    with multiprocessing.get_context("spawn").Pool(8) as pool:
        found = pool.map(first_start, [str(tmp_path / "data")] * 16, chunksize=1)
    assert len({key for key, _ in found}) == 1
    assert len({password for _, (password, _) in found}) == 1
    assert sum(made for _, (_, made) in found) == 1
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "admin-password",
        "secret-key",
    ]
