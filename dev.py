#!/usr/bin/env python3
"""Run what a developer or a first visitor runs; each command does all of its own set-up.

    python3 dev.py demo      the main job: load this machine's Python packages, then ask questions
    python3 dev.py test      the tests (--slow adds the long ones)
    python3 dev.py check     formatting, lint, types and import contracts
    python3 dev.py servers   install the S3 servers that tests use (`test` does it too)
    python3 dev.py bench     the benchmarks (see benchmarks/README.md)

Needs nothing but Python 3.11 or newer with venv and pip: the first run makes ``.venv`` beside this
file and installs the project and its backends into it; the servers go to ``.servers``, and one
that cannot be had is a warning, or a failure where CI=true. What follows the command goes on to it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = Path(os.environ.get("DATAHIKE_ASYNC_VENV", ROOT / ".venv"))
BACKENDS = sorted(p.parent for p in (ROOT / "backends").glob("*/pyproject.toml"))
GROUPS = {
    "demo": [],
    "test": ["test"],
    "check": ["test", "lint"],
    "servers": [],
    "bench": ["test", "bench"],
}


def python() -> str:
    return str(VENV / ("Scripts" if os.name == "nt" else "bin") / "python")


def run(*command: str, **environment: str) -> int:
    return subprocess.call(command, cwd=ROOT, env={**os.environ, **environment})


def set_up(groups: list[str]) -> None:
    """Make the environment, unless the project's own files say it is up to date."""
    manifests = [ROOT / "pyproject.toml", *(b / "pyproject.toml" for b in BACKENDS)]
    digest = hashlib.sha256(b"".join(p.read_bytes() for p in manifests)).hexdigest()
    if not Path(python()).exists():
        print(f"Making an environment in {VENV.name} …", flush=True)
        venv.create(VENV, with_pip=True)
    for group in ["core", *groups]:
        stamp = VENV / f".installed-{group}"
        if stamp.exists() and stamp.read_text() == digest:
            continue
        print(f"Installing ({group}) …", flush=True)
        pip = [python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        if group == "core":
            wanted = ["-e", f"{ROOT}[demo]"]
            for backend in BACKENDS:
                wanted += ["-e", str(backend)]
            command = [*pip, *wanted]
        else:
            # pip learned --group in 25.1; an older one gets the same list spelled out.
            command = [*pip, *requirements(group)]
        if subprocess.call(command, cwd=ROOT) != 0:
            sys.exit("Installing failed; the output above says why.")
        stamp.write_text(digest)


def requirements(group: str) -> list[str]:
    import tomllib

    with open(ROOT / "pyproject.toml", "rb") as file:
        return list(tomllib.load(file)["dependency-groups"][group])


def demo(arguments: list[str]) -> int:
    return run(python(), "-m", "datahike_async", "demo", *arguments)


def test(arguments: list[str]) -> int:
    marker = ["-m", "not slow"]
    if "--slow" in arguments:
        arguments = [a for a in arguments if a != "--slow"]
        marker = []
    if status := servers(["--quiet"]):
        return status
    if not chosen(arguments):
        # The whole suite, on all cores; one test alone starts sooner without.
        marker += ["-n", str(min(os.cpu_count() or 1, 8)), "--dist", "worksteal"]
    return run(python(), "-m", "pytest", *marker, *arguments)


def chosen(arguments: list[str]) -> bool:
    """Whether tests are named, by path or ``-k``, or the number of workers is given."""
    return any(
        a.startswith(("-k", "-n", "--numprocesses"))
        or (not a.startswith("-") and (ROOT / a.partition("::")[0]).exists())
        for a in arguments
    )


def check(arguments: list[str]) -> int:
    # Every check runs, so that one run shows everything there is to mend.
    failed = 0
    for command in (
        ("ruff", "format", "--check", "."),
        ("ruff", "check", "."),
        ("mypy",),
        ("importlinter.cli", "lint"),
    ):
        print("$", " ".join(command), flush=True)
        if command[0] == "importlinter.cli":
            failed |= run(str(Path(python()).parent / "lint-imports"))
        else:
            failed |= run(python(), "-m", *command)
    return failed


def servers(arguments: list[str]) -> int:
    return run(python(), str(ROOT / "tests" / "servers" / "install.py"), *arguments)


def bench(arguments: list[str]) -> int:
    return run(python(), "-m", "benchmarks", *arguments)


def main() -> int:
    commands = {"demo": demo, "test": test, "check": check, "servers": servers, "bench": bench}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        print(__doc__)
        return 2
    if sys.version_info < (3, 11):
        sys.exit("datahike-async needs Python 3.11 or newer.")
    set_up(GROUPS[sys.argv[1]])
    return commands[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
