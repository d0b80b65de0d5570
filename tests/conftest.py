"""Fixtures of the whole suite: async tests run on asyncio and on trio, and block neither."""

from __future__ import annotations

import asyncio
import gc
import inspect
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import blockbuster.blockbuster as blockbuster
import pytest
import trio.lowlevel

from datahike_async.config import Config
from tests.indexes import INDEXES


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rounds", type=int, default=200, help="how often the slow tests of first starts start"
    )
    parser.addoption(
        "--crypto-hash", action="store_true", help="have commits be hashes where tests do not say"
    )
    parser.addoption(
        "--index",
        choices=sorted(INDEXES),
        help="have databases of that index where tests do not say",
    )


def pytest_configure(config: pytest.Config) -> None:
    changed: dict[str, Any] = {}
    if config.getoption("--crypto-hash"):
        changed["crypto_hash"] = True
    index = config.getoption("--index")
    if index is not None:
        changed |= INDEXES[index]
        changed["index"] = changed["index"].removeprefix(":")
    if changed:
        init: Any = Config.__init__
        names = list(inspect.signature(init).parameters)[-len(init.__defaults__) :]
        given = dict(zip(names, init.__defaults__, strict=True)) | changed
        init.__defaults__ = tuple(given.values())


ROOMS = ("edn", "index", "merging", "query", "snapshot", "tx", "values")
"""Tests of rooms that import no event loop run on trio at length only, but for …"""
BOTH = {
    *("test_watch", "test_budgets", "test_execute_cold", "test_little_memory", "test_spared"),
    *("test_oracle", "test_large_transactions", "test_merging", "test_merge_faults"),
    "test_rebasing",
}
"""… these, which are about threads, time, cancellation, or connections."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is None or callspec.params.get("anyio_backend") != "trio":
            continue
        inside = item.path.is_relative_to(tests) and item.path.relative_to(tests).parts[0] in ROOMS
        if inside and item.path.stem not in BOTH:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["memory", "file", "lmdb"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Return what to create a database with that takes any data, on each store of this machine."""
    store: dict[str, Any] = {"backend": request.param, "id": uuid4()}
    if request.param != "memory":
        store["path"] = str(tmp_path / "db")
    return {"store": store, "schema_flexibility": "read"}


@pytest.fixture
def little_to_collect() -> Iterator[None]:
    """Let ``gc.collect()`` look at what a test makes, not at all that a long run has.

    For tests that count what is open. What was there before is not collected meanwhile.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def _running_loop() -> object:
    # blockbuster asks asyncio whether a loop runs in this thread; trio's must count too.
    loop = True if trio.lowlevel.in_trio_run() else asyncio.get_running_loop()
    frame = inspect.currentframe()
    while frame is not None:
        if "importlib" in frame.f_code.co_filename:
            # The first use of a lazily imported module: once a process.
            raise RuntimeError("imports may block")
        frame = frame.f_back
    return loop


@pytest.fixture(scope="session")
def blocking_calls() -> blockbuster.BlockBuster:
    """What counts as a blocking call of our code; made once, since making it takes milliseconds."""
    made = blockbuster.BlockBuster("datahike_async")
    for harmless in ("os.path.abspath", "os.getcwd"):
        # Asks for the working directory at most.
        del made.functions[harmless]
    return made


@pytest.fixture(autouse=True)
def no_blocking_calls(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail an async test in which our code makes a blocking call on the event loop."""
    if "anyio_backend" not in request.fixturenames:
        yield
        return
    calls: blockbuster.BlockBuster = request.getfixturevalue("blocking_calls")
    seen = types.SimpleNamespace(get_running_loop=_running_loop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockbuster, "asyncio", seen)
        calls.activate()
        try:
            yield
        finally:
            calls.deactivate()
