"""The files that put it into containers. There is no engine here: each is read, or run by hand."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

import cli
import config
from tests.conftest import absent
from tests.services import ROOT, Server, until

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
APPS = ("app-1", "app-2")
USED = re.compile(r"\$\{(\w+)(:\?|:-|-|\?)?([^}]*)\}")


class Instruction(NamedTuple):
    name: str
    text: str


def instructions() -> list[Instruction]:
    """The Dockerfile, one instruction each: without comments, lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [Instruction(*line.split(maxsplit=1)) for line in lines if line]


def stages() -> list[list[Instruction]]:
    found: list[list[Instruction]] = []
    for one in instructions():
        if one.name == "FROM":
            found.append([])
        found[-1].append(one)
    return found


def said(stage: Sequence[Instruction], name: str) -> list[str]:
    return [one.text for one in stage if one.name == name]


# --- the Dockerfile -------------------------------------------------------------------


def test_everything_is_installed_by_its_hash() -> None:
    """No package gets into the image that is not exactly the one that was looked at."""
    install = [text for text in said(stages()[0], "RUN") if " install " in text]
    assert len(install) == 1
    assert {"--require-hashes", "--only-binary", "requirements.txt"} <= set(install[0].split())
    requirements = re.sub(r"\\\n\s*", " ", (ROOT / "requirements.txt").read_text())
    named = [line for line in requirements.splitlines() if line and line[0] not in "# -"]
    assert len(named) > 20
    assert all("==" in line and "--hash=sha256:" in line for line in named)


def test_the_last_stage_has_no_tools_and_is_not_root() -> None:
    """Whoever breaks in finds no installer, no compiler, and nothing that he may change."""
    build, last = stages()
    base = {text.split()[0] for text in (said(build, "FROM") + said(last, "FROM"))}
    assert base == {"python:3.11-slim-bookworm"}
    assert "uninstall --yes --quiet setuptools pip" in said(build, "RUN")[-1]
    assert not re.search(r"\bpip\b|\bapt|\bgcc\b|\bcurl\b", " ".join(said(last, "RUN")))
    names = [one.name for one in last]
    assert names.index("USER") > max(place for place, name in enumerate(names) if name == "RUN")
    user, group = said(last, "USER")[0].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert f"--uid {user}" in " ".join(said(last, "RUN"))


def test_the_image_starts_the_service() -> None:
    """It listens for other containers, keeps its data in a volume and ends when told."""
    last = stages()[-1]
    assert json.loads(said(last, "CMD")[-1]) == ["python", "cli.py", "serve"]
    assert settings_of_image() == {
        "HOST": "0.0.0.0",
        "PORT": "8000",
        "DATA_DIR": "/data",
        "LOG_FORMAT": "json",
    }
    assert said(last, "VOLUME") == ["/data"]
    assert said(last, "EXPOSE") == ["8000"]
    assert said(last, "STOPSIGNAL") == ["SIGTERM"]
    assert 'CMD ["python", "deploy/healthy.py"]' in said(last, "HEALTHCHECK")[0]


def settings_of_image() -> dict[str, str]:
    """What the image sets for the service, without prefix."""
    pairs = (pair.split("=", 1) for text in said(stages()[-1], "ENV") for pair in shlex.split(text))
    return {n.removeprefix(config.PREFIX): v for n, v in pairs if n.startswith(config.PREFIX)}


# --- what goes into the image ---------------------------------------------------------


def ignored(path: Path) -> bool:
    """Whether .dockerignore keeps a path of the project out of the image."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    names = [path, *path.parents][:-1]
    return any(fits(str(name), pattern) for name in names for pattern in patterns)


def fits(name: str, pattern: str) -> bool:
    """Docker's rule: from the root, `**/` any depth, and `*` does not cross a slash."""
    if pattern.startswith("**/"):
        return fnmatch.fnmatch(name.rpartition("/")[2], pattern[3:])
    return name.count("/") == pattern.count("/") and fnmatch.fnmatch(name, pattern)


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """A folder with what `COPY . .` puts into the image, and an empty one for /data."""
    with tempfile.TemporaryDirectory(prefix="filaviva-image-") as name:
        folder = Path(name)
        folder.chmod(0o755)

        def without(here: str, names: list[str]) -> list[str]:
            at = Path(here).relative_to(ROOT)
            return [name for name in names if ignored(at / name)]

        shutil.copytree(ROOT, folder / "srv", ignore=without)
        (folder / "data").mkdir(mode=0o700)
        yield folder


def test_only_what_runs_goes_into_the_image(image: Path) -> None:
    """No history, no tests, no data and no secret of whoever builds it."""
    top = {path.name for path in (image / "srv").iterdir()}
    assert {"main.py", "cli.py", "migrations", "static", "templates", "deploy"} <= top
    assert not top & {".git", ".venv", ".ci", "tests", "bench", "docs", "data", "__pycache__"}
    assert ignored(Path(".env"))
    assert ignored(Path(".env.production"))
    assert ignored(Path("requirements-dev.txt"))
    assert not list((image / "srv").rglob("*.pyc"))


class Contained(Server):
    """The CMD of the image in a copy of its files, as somebody who owns nothing but /data."""

    def __init__(self, image: Path, **settings: str) -> None:
        self._image = image
        own = {"DATA_DIR": str(image / "data"), "HOST": "127.0.0.1"}
        super().__init__(**{**settings_of_image(), "PORT": "", **own, **settings})
        self._as_nobody: list[str] = as_nobody() if os.geteuid() == 0 else []
        if self._as_nobody:
            shutil.chown(self._image / "data", "nobody", "nogroup")

    def command(self) -> Sequence[str]:
        program, *rest = json.loads(said(stages()[-1], "CMD")[-1])
        assert program == "python"
        return [*self._as_nobody, "env", "-C", str(self._image / "srv"), sys.executable, *rest]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PYTHONDONTWRITEBYTECODE": "1"}

    def healthy(self) -> subprocess.CompletedProcess[str]:
        """What HEALTHCHECK does."""
        return subprocess.run(
            [sys.executable, str(self._image / "srv/deploy/healthy.py")],
            env={"FILAVIVA_PORT": str(self.port), "HTTP_PROXY": "http://127.0.0.1:9"},
            capture_output=True,
            text=True,
            timeout=60,
        )


def as_nobody() -> list[str]:
    """What makes root run a command as a user who owns nothing.

    Our Python may be in root's home: then that user may read everything, and still write
    nothing.
    """
    plain = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    if works(plain):
        return plain
    if not works([*plain, *reading]):
        absent("the user nobody cannot run this Python: apt-get install util-linux")
    return [*plain, *reading]


def works(command: list[str]) -> bool:
    try:
        done = subprocess.run([*command, "env", sys.executable, "-V"], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


def test_the_image_serves_as_an_unprivileged_user(image: Path) -> None:
    """The files of the image are enough, nothing is written beside them, and it ends well."""
    with Contained(image) as server:
        owner = Path(f"/proc/{server.pid}").stat().st_uid
        assert owner != 0
        # It waits for 3 s; what looks after a container asks more often than once, too.
        until(lambda: server.healthy().returncode == 0, 60, "healthy")
        said = until(lambda: server.healthy().stdout, 60, "healthy")
        assert json.loads(said)["checks"]["schema"] == "ok"
        assert server.stop() == 0
        assert server.healthy().returncode == 1
    kept = image / "data"
    assert {"filaviva.db", "secret-key", "admin-password"} <= {p.name for p in kept.iterdir()}
    assert not list((image / "srv").rglob("__pycache__"))


def test_an_image_in_production_does_not_serve_an_empty_schema(image: Path) -> None:
    """A process that starts before the migration says so and ends; compose waits for it anyway."""
    server = Contained(
        image, ENVIRONMENT="production", DATABASE_URL=f"sqlite://{image}/data/new.db"
    )
    server.launch()
    try:
        assert server.wait() == 1
        assert "cli.py migrate" in server.log
    finally:
        server.close()


# --- compose.yaml ---------------------------------------------------------------------


def depends(name: str) -> dict[str, str]:
    needs = COMPOSE["services"][name]["depends_on"]
    return {other: need["condition"] for other, need in needs.items()}


def test_two_processes_wait_for_one_migration() -> None:
    """Nobody serves before the schema is there, and nobody else changes it."""
    first, second = (COMPOSE["services"][name] for name in APPS)
    assert {k: v for k, v in first.items() if k != "networks"} == {
        k: v for k, v in second.items() if k != "networks"
    }
    for name in APPS:
        assert depends(name)["migrate"] == "service_completed_successfully"
        assert depends(name)["postgres"] == "service_healthy"
    job = COMPOSE["services"]["migrate"]
    assert job["command"] == ["python", "cli.py", "migrate"]
    assert job["restart"] == "no"
    assert "migrate" not in depends("migrate")


def test_its_settings_are_settings(tmp_path: Path) -> None:
    """Every variable in compose.yaml is one of ours, and together they are accepted."""
    environment = COMPOSE["services"]["app-1"]["environment"]
    filled = {name: filled_in(value) for name, value in environment.items()}
    made = config.load({**filled, "FILAVIVA_DATA_DIR": str(tmp_path)})
    assert made.environment == "production"
    assert made.rate_limits
    assert made.redis_url is not None


EXAMPLES = {
    "POSTGRES_PASSWORD": "0123456789abcdef",
    "FILAVIVA_SECRET_KEY": "k" * 64,
    "FILAVIVA_ADMIN_PASSWORD": "p" * 20,
    "FILAVIVA_PUBLIC_URL": "https://shop.example",
}


def filled_in(text: str) -> str:
    """`text` as compose would interpolate it with EXAMPLES."""

    def value(found: re.Match[str]) -> str:
        name, how, rest = found.groups()
        return EXAMPLES.get(name) or (rest if how in (":-", "-") else pytest.fail(f"{name} unset"))

    return USED.sub(value, text)


def test_no_secret_has_a_default() -> None:
    """A forgotten secret stops the start; it never becomes one that stands in a repository."""
    text = re.sub("#.*", "", (ROOT / "compose.yaml").read_text())
    how: dict[str, set[str]] = {}
    for name, kind, _ in USED.findall(text):
        how.setdefault(name, set()).add(kind)
    assert {name for name, kinds in how.items() if kinds == {":?"}} == EXAMPLES.keys()
    optional = how.keys() - EXAMPLES.keys()
    assert not [name for name in optional if re.search("PASSWORD|SECRET_KEY", name)]
    lines = (ROOT / "deploy" / "example.env").read_text().splitlines()
    assert {line for line in lines if line and line[0] != "#"} == {f"{n}=" for n in EXAMPLES}
    offered = {line.removeprefix("# ").partition("=")[0] for line in lines if line.endswith("=")}
    named = {match[1] for line in lines if (match := re.match(r"# (FILAVIVA_\w+)=", line))}
    assert offered | named == how.keys()


def test_only_nginx_is_reached_from_outside() -> None:
    """The databases and the processes are on a network that leads nowhere else."""
    published = [name for name, one in COMPOSE["services"].items() if "ports" in one]
    assert published == ["nginx"]
    assert COMPOSE["networks"]["inside"]["internal"] is True
    outside = [n for n, one in COMPOSE["services"].items() if "outside" in one["networks"]]
    assert outside == ["nginx"]
    assert "privileged" not in json.dumps(COMPOSE).replace("no-new-privileges", "")


def test_the_processes_trust_nginx_alone() -> None:
    """Only nginx may say who the caller is; its address stands fixed in both places."""
    trusted = COMPOSE["services"]["app-1"]["environment"]["FILAVIVA_TRUSTED_PROXIES"]
    address = COMPOSE["services"]["nginx"]["networks"]["inside"]["ipv4_address"]
    assert [ip_network(trusted)] == [ip_network(address)]
    subnet = ip_network(COMPOSE["networks"]["inside"]["ipam"]["config"][0]["subnet"])
    own = [COMPOSE["services"][name]["networks"]["inside"]["ipv4_address"] for name in APPS]
    assert all(ip_address(one) in subnet for one in [address, *own])


def test_nginx_asks_the_processes_there_are() -> None:
    """The files it mounts exist, and name the services and the port of the image."""
    mounts = [volume.split(":")[0] for volume in COMPOSE["services"]["nginx"]["volumes"]]
    assert {Path(mount).name for mount in mounts} == {"nginx.conf", "listen.conf", "upstream.conf"}
    assert all((ROOT / mount).is_file() for mount in mounts)
    asked = re.findall(r"server (\S+)", (ROOT / "deploy" / "upstream.conf").read_text())
    assert asked == [f"{name}:{settings_of_image()['PORT']}" for name in APPS]
    listens = re.findall(r"^listen (\d+);", (ROOT / "deploy/listen.conf").read_text(), re.MULTILINE)
    inside = COMPOSE["services"]["nginx"]["ports"][0].rpartition(":")[2]
    assert listens == [inside]


def test_redis_keeps_nothing() -> None:
    """What comes back from a disk of Redis would be older than the truth."""
    command = COMPOSE["services"]["redis"]["command"]
    pairs = dict(zip(command[1::2], command[2::2], strict=True))
    assert (pairs["--save"], pairs["--appendonly"]) == ("", "no")
    assert "volumes" not in COMPOSE["services"]["redis"]


def test_every_service_is_looked_after() -> None:
    """Each says when it is healthy, and a process gets the time that it needs to end."""
    for name, one in COMPOSE["services"].items():
        image_has_one = one["image"] == "filaviva:local"
        assert image_has_one or one["healthcheck"]["test"][0] == "CMD", name
        assert one["restart"] == ("no" if name == "migrate" else "unless-stopped")
    for name in APPS:
        grace = COMPOSE["services"][name]["stop_grace_period"]
        assert int(grace.removesuffix("s")) > cli.GRACE_SECONDS


def test_the_manual_names_what_must_be_set() -> None:
    """Whoever follows docs/deploy.md has every secret and every file."""
    manual = (ROOT / "docs" / "deploy.md").read_text()
    for name in [*EXAMPLES, "deploy/example.env", "compose.yaml", "deploy/nginx.conf"]:
        assert name in manual
