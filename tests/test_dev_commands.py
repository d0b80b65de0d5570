"""The commands of dev.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def dev() -> Any:
    spec = importlib.util.spec_from_file_location("dev", ROOT / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("arguments", "workers"),
    [
        ([], True),
        (["-x"], True),
        (["--durations=20"], True),
        (["--durations", "20", "--slow"], True),
        (["tests/tx"], False),
        (["-x", "tests/test_cli.py::test_help"], False),
        (["-k", "upsert"], False),
        (["-kupsert"], False),
        (["-n", "3"], False),
        (["--numprocesses=3"], False),
    ],
)
def test_only_a_path_or_a_choice_of_tests_runs_without_workers(
    dev: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str], workers: bool
) -> None:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(dev, "run", lambda *command, **_: ran.append(command) or 0)
    assert dev.test(arguments) == 0
    assert ("worksteal" in ran[-1]) is workers
    assert set(arguments) - {"--slow"} <= set(ran[-1])
