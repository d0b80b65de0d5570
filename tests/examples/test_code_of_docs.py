"""All Python in README, docs and docstrings runs as it stands there, on both event loops.

A page's blocks run one after another in one namespace, in an empty folder. They find ``d``,
``anyio``, and an open connection ``conn`` with its value ``db`` there; ``await`` needs no function
around it. Whatever is called ``config`` must open (tried on asyncio). S3 is the server of the
tests instead of Amazon's. What cannot run says why, in a line above it: ``<!-- not run: why -->``.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import logging
import re
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
import sniffio
from anyio import to_thread

import datahike_async as d
from tests.servers.s3 import config_on

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
NOT_RUN = re.compile(r"<!-- not run: \S.*? -->\n\Z")
SPOKEN = {"python", "sh", "toml", "text", "edn", "json"}
ELSEWHERE = {
    f"docs/how-to/write-{what}.md": "run, or found in the example, by its own test"
    for what in ("a-backend", "an-index")
}
PICTURES = {
    "datahike_async/konserve/envelope.py": "bytes of an envelope",
    "datahike_async/konserve/backends/file_frames.py": "bytes of a frame",
    "datahike_async/konserve/wrappers/front.py": "bytes of a copy",
    "datahike_async/konserve/testing/matrix.py": "a command for the shell",
}
PEOPLE = """
[{:db/ident :person/email :db/valueType :db.type/string :db/cardinality :db.cardinality/one
  :db/unique :db.unique/identity}
 {:db/ident :person/name :db/valueType :db.type/string :db/cardinality :db.cardinality/one}
 {:db/ident :person/born :db/valueType :db.type/instant :db/cardinality :db.cardinality/one}
 {:db/ident :person/knows :db/valueType :db.type/ref :db/cardinality :db.cardinality/many}]
"""
ADA = """
[{:person/email "ada@example.org" :person/name "Ada" :person/born #inst "1815-12-10T00:00:00Z"
  :person/knows {:person/email "bob@example.org" :person/name "Bob"}}]
"""


class Block(NamedTuple):
    """Code, and the line of its file before which it stands."""

    line: int
    text: str


def pages() -> list[str]:
    found = [p for p in ROOT.glob("*.md") if p.name != "CHANGELOG.md"]
    for folder in ("docs", "backends", "examples", "benchmarks"):
        found += (ROOT / folder).rglob("*.md")
    return sorted(str(page.relative_to(ROOT)) for page in found if ".pytest_cache" not in str(page))


def fenced(page: str) -> list[Block]:
    text = (ROOT / page).read_text("utf-8")
    return [
        Block(text[: found.start(2)].count("\n"), found[2])
        for found in FENCE.finditer(text)
        if found[1] == "python" and not NOT_RUN.search(text[: found.start()])
    ]


def modules() -> list[str]:
    found = [*(ROOT / "datahike_async").rglob("*.py"), *(ROOT / "backends").glob("*/*/*.py")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def literal_blocks(docstring: str) -> Iterator[str]:
    """Yield what is indented after a paragraph that ends with two colons."""
    lines = inspect.cleandoc(docstring).splitlines()
    for number, line in enumerate(lines):
        if line.endswith("::"):
            block: list[str] = []
            for inner in lines[number + 1 :]:
                if inner and not inner.startswith("    "):
                    break
                block.append(inner[4:])
            yield "\n".join(block) + "\n"


def in_docstrings(module: str) -> list[Block]:
    blocks = []
    for node in ast.walk(ast.parse((ROOT / module).read_text("utf-8"))):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node, clean=False) or ""
            blocks += [Block(node.body[0].lineno, block) for block in literal_blocks(text)]
    return blocks


WITH_CODE = [page for page in pages() if page not in ELSEWHERE and fenced(page)]
WITH_EXAMPLES = [m for m in modules() if m not in PICTURES and in_docstrings(m)]


@pytest.fixture
def s3(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a configuration of an S3 store needs to reach the tests' own server."""
    if '"s3"' not in (ROOT / request.node.callspec.params["place"]).read_text("utf-8"):
        return {}
    whole = config_on(request.getfixturevalue("servers")("moto"))
    return {key: whole[key] for key in whole.keys() - {"backend", "bucket", "prefix"}}


@pytest.fixture
def quiet() -> Iterator[None]:
    """Undo what a page does to the loggers that it names."""
    loggers = [logging.getLogger(name) for name in ("datahike_async", "datahike_async.query")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, (level, handlers) in zip(loggers, before, strict=True):
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("place", [*WITH_CODE, *WITH_EXAMPLES])
async def test_code_runs_as_it_is_printed(
    place: str,
    s3: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    anyio_backend_name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = fenced(place) if place.endswith(".md") else in_docstrings(place)
    store = {"backend": "memory", "id": str(uuid.uuid4())}
    await d.create_database(store=store)
    async with d.connect(store=store) as conn:
        await conn.transact(PEOPLE)
        await conn.transact(ADA)
        names: dict[str, Any] = {"d": d, "anyio": anyio, "conn": conn, "db": conn.db(), "s3": s3}
        for line, text in blocks:
            text = text.replace(
                "anyio.run(main)", f"anyio.run(main, backend={anyio_backend_name!r})"
            )
            text = text.replace('"backend": "s3"', '"backend": "s3", **s3')
            text = text.replace('"my-databases"', f'"docs-{uuid.uuid4().hex}"')
            text = text.replace('"/var/cache/', f'"{tmp_path}/cache/')
            await run("\n" * line + text, place, names)


async def run(text: str, place: str, names: dict[str, Any]) -> None:
    """Run code, statement by statement, and open each config that it names."""
    for statement in ast.parse(text, place).body:
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(ast.Module([statement], []), place, "exec", flags, dont_inherit=True)
        if "anyio.run" in ast.unparse(statement):
            await to_thread.run_sync(partial(exec, code, names))
        elif code.co_flags & inspect.CO_COROUTINE:
            await eval(code, names)
        else:
            exec(code, names)
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "config":
            await opens(names["config"])


async def opens(config: dict[str, Any]) -> None:
    # Where a store lies has nothing to do with the loop, and each S3 store takes a second.
    if sniffio.current_async_library() == "trio" or await d.database_exists(config):
        return
    await d.create_database(config, schema_flexibility="read")
    async with d.connect(config) as conn:
        await conn.transact([{":name": "Ada"}])
        assert await conn.db().q("[:find ?n . :where [_ :name ?n]]") == "Ada"
    await d.delete_database(config)


def test_every_block_says_in_what_it_is_written() -> None:
    for page in pages():
        if page in ELSEWHERE:
            continue
        text = (ROOT / page).read_text("utf-8")
        assert {found[1] for found in FENCE.finditer(text)} <= SPOKEN, page
        prose = FENCE.sub("", text)
        assert "```" not in prose, page
        indented = re.findall(r"(?:\A|\n)\n {4,}\S.*", prose)
        assert indented == [], f"{page}: give {indented[0]} a fence, so that it is run"


def test_what_is_left_out_is_still_there() -> None:
    assert set(ELSEWHERE) <= set(pages())
    assert [module for module in PICTURES if not in_docstrings(module)] == []
    assert len(WITH_CODE) > 2
    assert "datahike_async/__init__.py" in WITH_EXAMPLES


def test_sessions_in_docstrings_go_as_they_are_printed() -> None:
    ran = 0
    for module in modules():
        if re.search(r"^ +>>> ", (ROOT / module).read_text("utf-8"), re.M):
            name = module.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
            ran += (result := doctest.testmod(importlib.import_module(name))).attempted
            assert result.failed == 0, module
    assert ran > 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_code_that_fails_is_found() -> None:
    with pytest.raises(AssertionError):
        await run("x = await d.q('[:find ?x . :in ?x]', 1)\nassert x == 2", "here", {"d": d})
    with pytest.raises(d.ConfigError, match="nonesuch"):
        await run('config = {"store": {"backend": "nonesuch"}}', "here", {})
    assert list(
        literal_blocks("Do it.\n\n    Like so::\n\n        a = 1\n\n        b\n    End.")
    ) == ["\na = 1\n\nb\n"]
