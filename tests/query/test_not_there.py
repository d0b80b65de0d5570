"""Calls of what is not there fail, also where no row reaches them; missing? says what is not."""

from __future__ import annotations

import re

import pytest

from datahike_async.database import init_db
from datahike_async.errors import QueryError
from datahike_async.query.api import q
from tests.query.test_execute_queries import REF, people

pytestmark = pytest.mark.anyio

NOBODY = "[?e :name 77]"


@pytest.mark.parametrize(
    ("clause", "named"),
    [
        ("[(nosuch ?e)]", "'nosuch'"),
        ("[(nosuch ?e) ?x]", "'nosuch'"),
        ("[(inc ?e 1) ?x]", "inc takes 1 argument"),
        ("[(get-else $ ?e :age)  ?x]", "get-else"),
        ("(not [(nosuch ?e)])", "'nosuch'"),
        ("(or [(nosuch ?e)] [?e :age])", "'nosuch'"),
        ("(and (or-join [?e] (not-join [?e] [?e :age ?a] [(nosuch ?a)])))", "'nosuch'"),
        ("(r ?e)", "Unknown rule 'r'"),
        ("(calls ?e)", "'nosuch'"),
        ("(deep ?e)", "'nosuch'"),
        ("(deep ?e ?e)", "deep takes 1 argument"),
        ("[(?f ?e)]", "?f is 5"),
        ("[(f ?e)]", "f is 5"),
    ],
)
async def test_an_unknown_function_is_an_error_also_where_no_row_reaches_it(
    clause: str, named: str
) -> None:
    rules = "[[(calls ?e) [?e :name] [(nosuch ?e)]] [(deep ?e) [?e :name] (calls ?e)]]"
    query = f"[:find ?e :in $ % ?f f :where {NOBODY} {clause}]"
    with pytest.raises(QueryError, match=re.escape(named)) as caught:
        await q(query, people(), rules, 5, 5)
    assert caught.value.error == ":query/where"


@pytest.mark.parametrize("find", ["(nosuch ?e)", "(?f ?e)", "(sum 1 ?e)"])
async def test_an_unknown_aggregate_is_an_error_also_where_there_is_nothing(find: str) -> None:
    with pytest.raises(QueryError):
        await q(f"[:find {find} :where {NOBODY}]", people())


async def test_having_of_an_unknown_function_is_an_error_also_where_there_is_nothing() -> None:
    with pytest.raises(QueryError, match="nosuch"):
        await q(
            f"[:find ?e (count ?a) :where {NOBODY} [?e :age ?a] :having [(nosuch ?e)]]", people()
        )


async def test_missing_looks_at_reverse_attributes() -> None:
    db = people()
    query = "[:find [?e ...] :in $ [?e ...] :where [(missing? $ ?e {})]]"
    everybody = [1, 2, 3, 4]
    found = {a: set(await q(query.format(a), db, everybody)) for a in (":_friend", ":_boss")}
    for attribute, missing in found.items():
        forward = attribute.replace("_", "")
        referred = set(await q(f"[:find [?x ...] :where [_ {forward} ?x]]", db))
        assert referred
        assert missing == set(everybody) - referred
    assert set(await q(query.format(":_age"), db, everybody)) == set(everybody)
    by_variable = "[:find ?e :in $ [?e ...] [?a ...] :where [(missing? $ ?e ?a)]]"
    found_by = {e for (e,) in await q(by_variable, db, everybody, [":_friend"])}
    assert found_by == found[":_friend"]


async def test_missing_looks_at_reverse_attributes_of_many() -> None:
    facts = [(i, ":up", i // 2) for i in range(2, 400)]
    db = init_db(facts, {":up": REF})
    found = await q("[:find [?e ...] :where [?e :up] [(missing? $ ?e :_up)]]", db)
    assert sorted(found) == list(range(200, 400))
