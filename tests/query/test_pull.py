"""Pull: what each form of a pattern gives, on a small household of people and machines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from datahike_async.database import Database, empty_db, init_db
from datahike_async.edn.types import Keyword, Symbol
from datahike_async.errors import EdnError, QueryError
from datahike_async.functions import register_function, unregister_function
from datahike_async.query.pulling import execute as pull_execute
from datahike_async.query.pulling import read as pull_read
from datahike_async.query.pulling.map import EntityMap
from datahike_async.snapshot.trees import Trees
from tests.query.household import REF, SCHEMA, household

pytestmark = pytest.mark.anyio


@pytest.fixture
def db() -> Database:
    return household()


# -- attributes --------------------------------------------------------------------------------


async def test_named_attributes_come_as_values_lists_and_ids(db: Database) -> None:
    assert await db.pull("[:name :nick]", 1) == {":name": "Ada", ":nick": ["Byron", "Lace"]}
    assert await db.pull("[:name :boss :db/id]", 6) == {
        ":name": "Fay",
        ":boss": {":db/id": 3},
        ":db/id": 6,
    }
    assert await db.pull_many("[:name]", [1, 5, 7]) == [
        {":name": "Ada"},
        {":name": "Emil"},
        {":name": "Gus"},
    ]


async def test_patterns_as_data_read_like_text(db: Database) -> None:
    as_text = await db.pull('[:name {(limit :pupil 1) [:name]} [:x :default "-"]]', 1)
    as_data = await db.pull(
        [":name", {("limit", ":pupil", 1): [":name"]}, [":x", ":default", "-"]], 1
    )
    as_keywords = await db.pull(
        [
            Keyword("name"),
            {(Symbol("limit"), Keyword("pupil"), 1): [Keyword("name")]},
            [Keyword("x"), Keyword("default"), "-"],
        ],
        1,
    )
    assert as_text == as_data == as_keywords
    assert as_text == {":name": "Ada", ":pupil": [{":name": "Ben"}], ":x": "-"}
    assert await db.pull({":name"}, 1) == {":name": "Ada"}


async def test_entities_are_named_by_id_ident_or_lookup_ref(db: Database) -> None:
    assert await db.pull("[:name]", [":email", "ada@x"]) == {":name": "Ada"}
    assert await db.pull("[:name]", (Keyword("email"), "ada@x")) == {":name": "Ada"}
    assert await db.pull("[:name]", [":email", "nobody"]) is None
    withident = await db.db_with([{":db/ident": ":hero/ada", ":name": "Hero"}])
    assert await withident.pull("[:name]", ":hero/ada") == {":name": "Hero"}
    with pytest.raises(QueryError) as caught:
        await db.pull("[:name]", [":name", "Ada"])
    assert caught.value.error == ":lookup-ref/unique"


@pytest.mark.parametrize(
    "pattern", ["[:name]", "[*]", "[:db/id]", "[{:knows [:name]}]", "[:_boss]"]
)
async def test_an_entity_without_datoms_is_none(db: Database, pattern: str) -> None:
    assert await db.pull(pattern, 999) is None
    assert await db.pull_many(pattern, [999, 998]) == [None, None]


async def test_nothing_of_the_pattern_is_none(db: Database) -> None:
    assert await db.pull("[:unknown]", 1) is None
    assert await db.pull("[:boss]", 1) is None


async def test_stored_false_and_zero_are_values() -> None:
    db = init_db([(1, ":flag", False), (1, ":n", 0), (1, ":text", "")])
    assert await db.pull("[:flag :n :text]", 1) == {":flag": False, ":n": 0, ":text": ""}
    assert await db.pull("[[:flag :default 9] [:n :default 9]]", 1) == {":flag": False, ":n": 0}


async def test_reverse_attributes(db: Database) -> None:
    assert await db.pull("[:name :_pupil]", 2) == {":name": "Ben", ":_pupil": [{":db/id": 1}]}
    assert await db.pull("[{:_boss [:name]}]", 1) == {
        ":_boss": [{":name": "Ben"}, {":name": "Cleo"}]
    }
    assert await db.pull("[{:_boss [:name]}]", 4) is None
    # A part has one whole.
    assert await db.pull("[:name :_part]", 21) == {":name": "Block", ":_part": {":db/id": 20}}
    assert await db.pull("[{:_part [:name]}]", 24) == {":_part": {":name": "Engine"}}
    # Only refs can be followed back.
    assert await db.pull("[:_name]", 1) is None


async def test_reverse_keeps_the_namespace() -> None:
    db = init_db([(1, ":a/to", 2), (2, ":a/n", 5)], {":a/to": REF})
    assert await db.pull("[:a/_to]", 2) == {":a/_to": [{":db/id": 1}]}


# -- options -----------------------------------------------------------------------------------


async def test_limit_counts_datoms_and_is_1000_unless_said(db: Database) -> None:
    db = await db.db_with([[":db/add", 8, ":nick", f"n{i:04}"] for i in range(1200)])
    for pattern, count in [
        ("[:nick]", 1000),
        ("[(limit :nick 5)]", 5),
        ("[[:nick :limit 5]]", 5),
        ("[(limit :nick 1100)]", 1100),
        ("[(limit :nick nil)]", 1200),
        ("[*]", 1000),
        ("[* [:nick :limit nil]]", 1200),
    ]:
        found = await db.pull(pattern, 8)
        assert len(found[":nick"]) == count, pattern
        assert found[":nick"][0] == "n0000"
    # Ben has the only :boss among the first two, and the limit is on what is looked at.
    assert await db.pull("[{(limit :pupil 1) [:nothing]}]", 1) == {":pupil": []}
    assert await db.pull("[{[:_boss :limit 1] [:name]}]", 1) == {":_boss": [{":name": "Ben"}]}


async def test_default_stands_in_for_what_is_missing_only(db: Database) -> None:
    assert await db.pull('[(default :boss "none")]', 1) == {":boss": "none"}
    assert await db.pull('[[:x :as :y :default "none"]]', 1) == {":y": "none"}
    assert await db.pull("[[:name :default 1]]", 1) == {":name": "Ada"}
    assert await db.pull("[[:x :default nil]]", 1) == {":x": None}
    assert await db.pull("[[:x :default false]]", 999) == {":x": False}
    # Under a wildcard a default of a forward attribute does nothing.
    assert await db.pull("[* [:x :default 1]]", 24) == {":db/id": 24, ":name": "Belt"}
    assert await db.pull("[* [:_boss :default 1]]", 24) == {
        ":db/id": 24,
        ":name": "Belt",
        ":_boss": 1,
    }
    # Missing is missing, whatever the sub-pattern says.
    assert await db.pull("[{[:boss :default 0] [:name]}]", 1) == {":boss": 0}
    assert await db.pull("[{[:boss :default 0] [:nothing]}]", 2) is None


async def test_as_renames(db: Database) -> None:
    found = await db.pull('[[:name :as "Name"] [:nick :as :alias] [:db/id :as :id]]', 1)
    assert found == {"Name": "Ada", ":alias": ["Byron", "Lace"], ":id": 1}
    assert found["Name"] == "Ada"
    found = await db.pull([[":name", ":as", ":n"], {(":boss", ":as", ":lead"): [":name"]}], 2)
    assert found == {":n": "Ben", ":lead": {":name": "Ada"}}
    both = await db.pull("[:name [:name :as :again]]", 1)
    assert both == {":name": "Ada", ":again": "Ada"}


async def test_xform_runs_on_what_would_be_shown(db: Database) -> None:
    register_function("test/shout", str.upper)
    try:
        assert await db.pull("[[:name :xform test/shout]]", 1) == {":name": "ADA"}
    finally:
        unregister_function("test/shout")
    with pytest.raises(QueryError) as caught:
        await db.pull("[[:name :xform test/shout]]", 1)
    assert caught.value.error == ":parser/pull"
    assert await db.pull([[":nick", ":xform", len]], 1) == {":nick": 2}
    assert await db.pull("[[:nick :xform count]]", 1) == {":nick": 2}
    assert await db.pull([{(":boss", ":xform", lambda m: m[":name"]): [":name"]}], 2) == {
        ":boss": "Ada"
    }


async def test_xform_that_fails_says_on_what(db: Database) -> None:
    with pytest.raises(QueryError, match="'Ada'") as caught:
        await db.pull([[":name", ":xform", lambda v: v + 1]], 1)
    assert caught.value.error == ":pull/xform"

    async def slow(value: Any) -> Any:
        return value

    with pytest.raises(QueryError, match="coroutine"):
        await db.pull([[":name", ":xform", slow]], 1)


# -- nesting -----------------------------------------------------------------------------------


async def test_sub_patterns(db: Database) -> None:
    assert await db.pull("[:name {:boss [:name]}]", 6) == {
        ":name": "Fay",
        ":boss": {":name": "Cleo"},
    }
    assert await db.pull("[:name {:pupil [:name]}]", 1) == {
        ":name": "Ada",
        ":pupil": [{":name": "Ben"}, {":name": "Cleo"}],
    }
    assert await db.pull("[:name {:boss [:name]}]", 1) == {":name": "Ada"}
    assert await db.pull("[:name {:pupil [:nothing]}]", 1) == {":name": "Ada", ":pupil": []}
    assert await db.pull("[:name {:boss [:nothing]}]", 2) == {":name": "Ben"}
    assert await db.pull("[{:boss [{:boss [{:_boss [:name]}]}]}]", 6) == {
        ":boss": {":boss": {":_boss": [{":name": "Ben"}, {":name": "Cleo"}]}}
    }
    assert await db.pull("[{:boss [*]}]", 2) == {
        ":boss": {
            ":db/id": 1,
            ":name": "Ada",
            ":nick": ["Byron", "Lace"],
            ":email": "ada@x",
            ":pupil": [{":db/id": 2}, {":db/id": 3}],
        }
    }


async def test_maps_with_two_parents_are_not_one_object(db: Database) -> None:
    ben, cleo = await db.pull_many("[{:boss [:name {:pupil [:name]}]}]", [2, 3])
    ben[":boss"][Keyword("name")] = "changed"
    ben[":boss"][":pupil"].append("more")
    assert cleo == {":boss": {":name": "Ada", ":pupil": [{":name": "Ben"}, {":name": "Cleo"}]}}
    ben, cleo = await db.pull_many("[{:boss [:name]}]", [2, 3])
    ben[":boss"][Keyword("name")] = "changed"
    assert cleo == {":boss": {":name": "Ada"}}
    one, two = await db.pull_many("[:name]", [1, 1])
    assert one == two
    assert one is not two


async def test_components_are_expanded(db: Database) -> None:
    whole = {
        ":name": "Engine",
        ":part": [
            {
                ":db/id": 21,
                ":name": "Block",
                ":part": [
                    {":db/id": 22, ":name": "Piston", ":case": {":db/id": 23, ":name": "Ring"}}
                ],
            },
            {":db/id": 24, ":name": "Belt"},
        ],
    }
    assert await db.pull("[:name :part]", 20) == whole
    assert await db.pull("[*]", 20) == {":db/id": 20, **whole}
    # A pattern, or a depth, takes the place of the expansion.
    assert await db.pull("[{:part [:name]}]", 20) == {
        ":part": [{":name": "Block"}, {":name": "Belt"}]
    }
    assert await db.pull("[:name {:part 1}]", 20) == {
        ":name": "Engine",
        ":part": [{":name": "Block"}, {":name": "Belt"}],
    }


async def test_a_loop_of_components_is_cut_at_ids(db: Database) -> None:
    db = await db.db_with([[":db/add", 22, ":part", 20]])
    found = await db.pull("[:name :part]", 20)
    piston = found[":part"][0][":part"][0]
    assert piston[":part"] == [{":db/id": 20}]


async def test_a_component_without_datoms_is_its_id() -> None:
    db = init_db([(1, ":part", 2)], {":part": SCHEMA[":part"]})
    assert await db.pull("[:part]", 1) == {":part": [{":db/id": 2}]}


async def test_wildcard_with_extras(db: Database) -> None:
    assert await db.pull("[*]", 1) == {
        ":db/id": 1,
        ":name": "Ada",
        ":nick": ["Byron", "Lace"],
        ":email": "ada@x",
        ":pupil": [{":db/id": 2}, {":db/id": 3}],
    }
    for star in ("*", Symbol("*"), Keyword("*"), ("quote", "*")):
        assert await db.pull([star, ":_pupil"], 2) == {
            ":db/id": 2,
            ":name": "Ben",
            ":boss": {":db/id": 1},
            ":_pupil": [{":db/id": 1}],
        }
    assert await db.pull("[* {:boss [:name]} [:name :as :n]]", 2) == {
        ":db/id": 2,
        ":n": "Ben",
        ":boss": {":name": "Ada"},
    }


# -- many at once ------------------------------------------------------------------------------

PATTERNS = [
    "[:name]",
    "[:db/id :name :nick]",
    "[*]",
    "[* :_boss]",
    "[:name {:boss [:name :nick]}]",
    "[:name {:_boss [:name]} :_knows :_part]",
    "[:name {:knows ...}]",
    "[:name {:knows 2 :rival 1}]",
    '[[:boss :default "nobody"] [:nick :limit 1 :as :n]]',
    "[:part :case]",
    "[* {:boss ...}]",
]


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("pattern", PATTERNS)
async def test_columns_and_rows_agree(
    db: Database, pattern: str, dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether all of an attribute is read, or what is looked up of the entities."""
    monkeypatch.setattr(pull_read.Reader, "_dense", lambda *_: dense)
    ids = [*range(30), 1, 3, 999]
    one_by_one = [await db.pull(pattern, i) for i in ids]
    # Forty of each is over the threshold for columns.
    assert await db.pull_many(pattern, ids * 40) == one_by_one * 40
    nobody = [one_by_one[-1]] * 100
    assert await db.pull_many(pattern, [*ids, *range(100, 200)]) == one_by_one + nobody


async def test_many_of_more_entities_are_looked_up_in_one_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not one by one, and the attributes are not read from end to end either."""
    ref = {":db/valueType": ":db.type/ref", ":db/cardinality": ":db.cardinality/many"}
    edges = [(e, ":knows", e % 9 + 1 + i) for e in range(1, 10_001) for i in range(3)]
    db = init_db([*edges, *((e, ":name", f"n{e}") for e in range(1, 10_001))], {":knows": ref})
    passes: list[int] = []
    real = Trees._looked_up

    def counted(self: Trees, indexes: Any, a: int, entities: Any) -> Any:
        passes.append(len(entities))
        return real(self, indexes, a, entities)

    monkeypatch.setattr(Trees, "_looked_up", counted)
    monkeypatch.setattr(pull_read.Reader, "_dense", lambda *_: False)
    found = await db.pull_many("[:name {:knows [:name]} {:_knows [:name]}]", [*range(1, 51)])
    assert passes == [50, 50]  # of the few that they know each is
    assert found[49] == {
        ":name": "n50",
        ":knows": [{":name": f"n{i}"} for i in (6, 7, 8)],
    }
    back = [e for e, _, v in edges if v == 11]
    (first,) = await db.pull_many("[:name {[:_knows :limit nil] [:name]}]", [11])
    assert first is not None
    assert [m[":name"] for m in first[":_knows"]] == [f"n{e}" for e in back]


async def test_pull_many_pauses_between_chunks(db: Database) -> None:
    pauses = 0

    class Counting:
        async def pause(self) -> None:
            nonlocal pauses
            pauses += 1

        async def in_thread(self, make: Any) -> Any:
            return await make()

        def check(self) -> None:
            pass

    ids = iter([1] * 20_000)
    found = await pull_execute.pull_many(db.view, "[:name]", ids, host=Counting())
    assert len(found) == 20_000
    assert pauses == 3


# -- views -------------------------------------------------------------------------------------


async def test_pull_on_views_of_the_past() -> None:
    db = empty_db(SCHEMA, keep_history=True)
    first = await db.with_(
        [{":db/id": 1, ":name": "Ada", ":boss": 2}, {":db/id": 2, ":name": "Bo"}]
    )
    then = first.tx_data[0].tx
    second = await first.db_after.with_(
        [[":db/add", 1, ":name", "Eve"], [":db/retract", 1, ":boss", 2]]
    )
    now = second.db_after
    pattern = "[:name {:boss [:name]}]"
    assert await now.pull(pattern, 1) == {":name": "Eve"}
    assert await now.as_of(then).pull(pattern, 1) == {":name": "Ada", ":boss": {":name": "Bo"}}
    assert await now.since(then).pull("[:name]", 1) == {":name": "Eve"}
    assert await now.since(then).pull("[:name]", 2) is None
    assert await now.as_of(then).pull("[:_boss]", 2) == {":_boss": [{":db/id": 1}]}
    assert await now.as_of(datetime(1999, 1, 1, tzinfo=UTC)).pull("[*]", 1) is None
    past = await now.history().pull("[{:boss [:name]}]", 1)
    assert past == {":boss": {":name": "Bo"}}
    many = await now.as_of(then).pull_many(pattern, [1, 2] * 40)
    assert many == [{":name": "Ada", ":boss": {":name": "Bo"}}, {":name": "Bo"}] * 40


# -- in queries --------------------------------------------------------------------------------


async def test_pull_in_find(db: Database) -> None:
    found = await db.q("[:find ?n (pull ?e [:nick]) :where [?e :nick] [?e :name ?n]]")
    assert list(found) == [("Ada", {":nick": ["Byron", "Lace"]})]
    found = await db.q("[:find [(pull ?e [:name]) ...] :where [?e :boss 1]]")
    assert sorted(m[":name"] for m in found) == ["Ben", "Cleo"]
    found = await db.q("[:find (pull ?e ?p) . :in $ ?e ?p]".replace("?p", "pattern"), 6, "[:name]")
    assert found == {":name": "Fay"}


# -- bad patterns ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "part"),
    [
        ([], r"\[\]"),
        ("[]", r"\[\]"),
        (":name", "Keyword|:name"),
        (None, "None"),
        ([1], "1"),
        (["name"], "'name'"),
        ([None], "None"),
        ([{}], "empty map"),
        ([{":a": 0}], "0"),
        ([{":a": -1}], "-1"),
        ([{":a": None}], "None"),
        ([{":a": "x"}], "'x'"),
        ([{":a": True}], "True"),
        ([{"a": [":b"]}], "'a'"),
        ([{":db/id": [":b"]}], ":db/id"),
        ([[":a", ":limit"]], "pairs"),
        ([[":a", ":limit", 0]], ":limit"),
        ([[":a", ":limit", "x"]], ":limit"),
        ([[":a", ":limt", 3]], ":limt"),
        ([[":a", ":as", []]], ":as"),
        ([[":a", ":xform", 3]], ":xform"),
        ([[":a", ":xform", "no/such"]], "no/such"),
        ([("limit", ":a")], "limit"),
        ([("limit", ":a", 1, 2)], "limit"),
        ([{":a": []}], r"\[\]"),
        ("[(frobnicate :a 1)]", "frobnicate"),
        ("[:a {:b [:c 7]}]", "7"),
    ],
)
async def test_bad_patterns_name_the_part(db: Database, pattern: Any, part: str) -> None:
    with pytest.raises(QueryError, match=part) as caught:
        await db.pull(pattern, 1)
    assert caught.value.error == ":parser/pull"


async def test_bad_text_is_an_edn_error(db: Database) -> None:
    with pytest.raises(EdnError):
        await db.pull("[:name", 1)


async def test_endless_nesting_is_refused(db: Database) -> None:
    pattern: list[Any] = [":name"]
    for _ in range(3000):
        pattern = [{":boss": pattern}]
    with pytest.raises(QueryError, match="nested"):
        await db.pull(pattern, 1)


# -- the maps ----------------------------------------------------------------------------------


def test_entity_maps_answer_to_text_and_keyword() -> None:
    ada = EntityMap({Keyword("person/name"): "Ada", "plain": 1})
    assert ada[":person/name"] == ada[Keyword("person/name")] == "Ada"
    assert ada["plain"] == 1
    assert ":person/name" in ada
    assert "person/name" not in ada
    assert ":" not in ada
    assert ada.get(":person/name") == "Ada"
    assert ada.get(":person/age") is None
    assert ada.get(":person/age", 3) == 3
    with pytest.raises(KeyError, match=":person/age"):
        ada[":person/age"]
    with pytest.raises(KeyError):
        ada[":"]
    assert ada == {":person/name": "Ada", "plain": 1}
    assert ada == {Keyword("person/name"): "Ada", "plain": 1}
    assert ada == {":person/name": "Ada", "plain": 1}
    assert ada != {":person/name": "Eve", "plain": 1}
    assert ada != 3
    assert type(ada.copy()) is EntityMap


async def test_a_default_under_a_wildcard_does_nothing_whoever_is_pulled_with_it(
    db: Database,
) -> None:
    pattern = '[* [:email :default "none"] [:nick :default []]]'
    alone = [await db.pull(pattern, e) for e in (1, 24, 2)]
    assert await db.pull_many(pattern, [1, 24, 2]) == alone
    assert alone[1] == {":db/id": 24, ":name": "Belt"}
    many = [24, 1, *range(2, 9), *range(100, 160)]
    assert (await db.pull_many(pattern, many))[0] == alone[1]
    whole = await db.q(f"[:find (pull ?e {pattern}) :in $ [?e ...]]", [1, 24])
    assert {":db/id": 24, ":name": "Belt"} in [row[0] for row in whole]


async def test_pulling_a_lookup_ref_of_nothing_among_others_is_none(db: Database) -> None:
    refs = [[":email", "nobody"], 2, [":email", "ada@x"]]
    found = await db.pull_many("[:name]", refs)
    assert found == [None, {":name": "Ben"}, {":name": "Ada"}]


async def test_xform_applies_to_the_id_of_an_entity(db: Database) -> None:
    assert await db.pull("[[:db/id :xform inc] :name]", 2) == {":db/id": 3, ":name": "Ben"}
    assert await db.pull("[[:db/id :xform str :as :id]]", 2) == {":id": "2"}
    assert await db.pull("[{:boss [[:db/id :xform str]]}]", 2) == {":boss": {":db/id": "1"}}
    assert await db.pull_many("[* [:db/id :xform str]]", [24, 23]) == [
        {":db/id": "24", ":name": "Belt"},
        {":db/id": "23", ":name": "Ring"},
    ]
    assert await db.pull("[[:db/id :xform str]]", 999) is None
    with pytest.raises(QueryError, match=":xform of :db/id failed"):
        await db.pull([[":db/id", ":xform", lambda _: 1 / 0]], 2)
