"""Run a program on a file system of its own: one that is soon full, or one that is read-only."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def run_mounted(at: Path, options: str, program: str, *, bind: bool = False) -> str:
    """Return what ``program`` prints, with a memory file system at ``at`` that only it can see.

    ``options`` are those of the mount; with ``bind`` the folder itself is mounted over itself.
    Skips the test where mounting is not allowed.
    """
    mount = (
        f'mount --bind "$1" "$1" && mount -o remount,bind,{options} "$1"'
        if bind
        else f'mount -t tmpfs -o {options} none "$1"'
    )
    if (
        shutil.which("unshare") is None
        or subprocess.run(
            ["unshare", "-m", "sh", "-c", mount, "sh", str(at)], capture_output=True
        ).returncode
    ):
        pytest.skip("no file system can be mounted here: it needs Linux and its rights")
    found = subprocess.run(
        [
            *("unshare", "-m", "sh", "-c", f'{mount} && exec "$2" -c "$3" "$1"', "sh"),
            *(str(at), sys.executable, textwrap.dedent(program)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout
