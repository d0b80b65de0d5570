"""The page of errors says what the code does: classes, whose mistake each is, keywords."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import datahike_async as d
from datahike_async import errors
from datahike_async.konserve import errors as konserve_errors
from datahike_async.storage.translate import translate

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("error", "_FATAL")
PAGE = (ROOT / "docs/reference/errors.md").read_text("utf-8")


def rows(section: str) -> list[list[str]]:
    """Return the cells of a section's table, without its head."""
    part = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_class_is_on_the_page_with_whose_mistake_it_is():
    classes = {name: getattr(errors, name) for name in errors.__all__ if name != "shown"}
    listed = {row[0].strip("`"): row for row in rows("Classes")}
    assert set(listed) == set(classes) - {"DatahikeError"}
    for name, row in listed.items():
        made = classes[name]
        assert row[1] == ", ".join(f"`{base.__name__}`" for base in made.__bases__)
        assert issubclass(made, d.BadInput) is (row[2] == "the caller's")
        if row[3] in ("yes", "no"):
            assert made("x").retryable is (row[3] == "yes")
        assert getattr(d, name) is made
    assert d.QueryCanceled("x", budget="seconds").retryable
    assert not d.QueryCanceled("x", budget="rows").retryable


def keywords_in_code() -> Iterator[str]:
    """Yield the keyword of each error that is made: as argument, default, or a name for one."""
    for path in [*(ROOT / "datahike_async").rglob("*.py"), *(ROOT / "backends").glob("*/*/*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            found: list[ast.expr | None] = []
            if isinstance(node, ast.Call):
                found = [k.value for k in node.keywords if k.arg == "error"]
            elif isinstance(node, ast.FunctionDef):
                named = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
                found = [default for arg, default in named if arg.arg == "error"]
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in (
                "error",
                "_FATAL",
            ):
                found = [node.value]
            for value in filter(None, found):
                if not isinstance(value, ast.Call):  # one that reads another error's keyword
                    texts = [one.value for one in ast.walk(value) if isinstance(one, ast.Constant)]
                    yield from (text for text in map(str, texts) if text.startswith(":"))
    for theirs in vars(konserve_errors).values():
        if isinstance(theirs, type) and issubclass(theirs, konserve_errors.KonserveError):
            keyword = translate(theirs("x")).error
            if keyword is not None:
                yield keyword


def test_every_keyword_of_an_error_is_on_the_page():
    made = set(keywords_in_code())
    assert len(made) > 50
    named = " ".join(row[0] for row in rows("Keywords"))
    listed = set(re.findall(r"`(:[^`]*)`", named))
    sections = {keyword for keyword in made if keyword.startswith(":parser/")}
    assert sorted(made - listed - sections) == [], "to be put on the page"
    assert sorted(listed - made) == [], "no longer made"
    assert sections - {":parser/"} <= set(re.findall(r"`(:parser/[^`…]*)`", PAGE))


def test_every_class_that_the_keywords_name_is_one():
    for row in rows("Keywords"):
        for name in row[1].split(", "):
            assert issubclass(getattr(d, name.strip("`")), d.DatahikeError)


@pytest.mark.anyio
async def test_the_callers_mistakes_have_one_base_and_what_is_not_has_another():
    db = d.empty_db(schema_flexibility="write")
    join = "[:find (count ?a) . :in [?a ...] [?b ...] :where [(< ?a ?b)]]"
    mistakes = [
        lambda: db.with_([{":nmae": 1}]),
        lambda: db.with_(5),
        lambda: db.q("[:find ?e"),
        lambda: db.q("[:find ?e :where [?e :a ?b] (nonesuch ?b)]"),
        lambda: db.q("[:find ?e :in $ ?x :where [?e]]"),
        lambda: db.pull("[:a", 1),
        lambda: db.pull("[:a]", "Ada"),
        lambda: db.datoms("vaet"),
        lambda: d.kw(""),
        lambda: db.as_of("yesterday"),
    ]
    for mistake in mistakes:
        with pytest.raises(d.BadInput):
            await mistake()
    with pytest.raises(d.QueryCanceled) as caught:
        await d.q(join, list(range(500)), list(range(500)), budget={"rows": 1000})
    assert not isinstance(caught.value, d.BadInput)
    for config in ({"store": {"backend": "nonesuch"}}, {"stroe": {}}):
        with pytest.raises(d.ConfigError) as refused:
            await d.create_database(config)
        assert not isinstance(refused.value, d.BadInput)
