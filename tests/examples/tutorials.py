"""How-tos whose commands lead to a package of one's own: followed word for word in a new folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.forks import Forks

ROOT = Path(__file__).resolve().parents[2]
INSTALL = "-m pip install"
VENV = "-m venv"
PLUGINS = "-p no:asyncio -p no:trio"
IMPORTED = "-W 'ignore:Module already imported'"


def environment() -> dict[str, str]:
    """What is installed for the tests can be seen, so that nothing needs to be downloaded."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "PYTHON"))}
    seen = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(ROOT)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # Without plugins of other tests, which nobody who follows the how-to has; on one loop.
    options = {"PYTEST_ADDOPTS": f"{PLUGINS} -k 'not trio'"}
    return {**kept, **options, "PYTHONPATH": os.pathsep.join(seen), "PATH": path}


class Followed(NamedTuple):
    """Where the commands of the how-to were followed, and what they printed."""

    folder: Path
    printed: str

    forks: Forks

    def run(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.forks.run("-c", code, *arguments)


class Tutorial(NamedTuple):
    """A how-to, and the example that it walks through."""

    example: Path
    how_to: Path

    def blocks(self, language: str) -> list[str]:
        return re.findall(rf"^```{language}\n(.*?)^```$", self.how_to.read_text(), re.M | re.S)

    def quoted(self, block: str) -> bool:
        """Say whether a block stands in the example, line by line, at whatever indentation."""
        files = [p for p in self.example.rglob("*") if p.suffix in (".py", ".toml")]
        plain = textwrap.dedent(block)
        forms = [textwrap.indent(plain, " " * n) for n in (0, 4, 8, 12, 16)]
        return any("\n" + form in "\n" + file.read_text() for file in files for form in forms)

    @contextmanager
    def followed(self, checkout: Path) -> Iterator[Followed]:
        """Do what the how-to says in a folder."""
        name = self.example.name
        ignored = shutil.ignore_patterns(".*", "__pycache__")
        shutil.copytree(self.example, checkout / "examples" / name, ignore=ignored)
        commands = "".join(self.blocks("sh"))
        assert commands.count(INSTALL) == 1
        commands = commands.replace(INSTALL, f"{INSTALL} --no-index --no-build-isolation")
        # The pip of the tests is seen from there: to unpack one more takes seconds.
        assert commands.count(VENV) == 1
        commands = commands.replace(VENV, f"{VENV} --without-pip")
        done = subprocess.run(
            ["bash", "-euxc", commands],
            cwd=checkout,
            env=environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        folder = checkout / f"my-{name}"
        forks = Forks(
            ["datahike_async", "pytest", "anyio.pytest_plugin"],
            python=str(folder / ".venv" / "bin" / "python"),
            cwd=checkout,
            environment={**environment(), "PYTEST_ADDOPTS": f"{PLUGINS} {IMPORTED}"},
        )
        yield Followed(folder, done.stdout, forks)
        forks.close()

    def check_code(self, followed: Followed, runs: int) -> None:
        """Run each block of code, or find it in the example; ``runs`` so many are to be run."""
        ran = 0
        for block in self.blocks("python"):
            if not self.quoted(block):
                done = followed.run(block)
                assert done.returncode == 0, f"{block}\n{done.stdout}"
                ran += 1
        assert ran == runs
        assert self.blocks("toml")
        assert all(self.quoted(block) for block in self.blocks("toml"))
        fences = re.findall(r"^```(\w*)$", self.how_to.read_text(), re.M)
        assert set(fences) == {"", "python", "sh", "toml"}
