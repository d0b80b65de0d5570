"""What few known entities have of a large attribute is read at the cost of what is found."""

from __future__ import annotations

from typing import Any

import pytest

import datahike_async as d
from datahike_async.index import columns
from datahike_async.index.persistent_set.lookup import Lookup
from datahike_async.query.limits import watch
from datahike_async.query.limits.watch import Watch
from datahike_async.query.reading.stats import Stats
from datahike_async.query.running import engine
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.snapshot.views import PastView, View

pytestmark = pytest.mark.anyio

PEOPLE = 6000
EACH = 8
ONE = {":db/cardinality": ":db.cardinality/one"}
SCHEMA = {
    ":id": {**ONE, ":db/valueType": ":db.type/long", ":db/unique": ":db.unique/identity"},
    ":friend": {":db/cardinality": ":db.cardinality/many", ":db/valueType": ":db.type/ref"},
}
TWO_STEPS = """[:find ?i ?c :in $ [?i ...]
                :where [?a :id ?i] [?a :friend ?b] [?b :friend ?c]]"""
DEPTH = """[[(reach ?x ?y ?n) [?x :friend ?y] [(ground 1) ?n]]
            [(reach ?x ?y ?n) [?x :friend ?t] [?t :friend ?y] [(ground 2) ?n]]]"""


def friends(i: int) -> list[int]:
    return [(i * 7 + k * k * 31) % PEOPLE + 1 for k in range(1, EACH + 1)]


def two_steps(some: list[int]) -> set[tuple[int, int]]:
    return {(i, c) for i in some for b in friends(i) for c in friends(b)}


@pytest.fixture
def db() -> Any:
    facts: list[Any] = []
    for i in range(1, PEOPLE + 1):
        facts += [(i, ":id", i), *((i, ":friend", b) for b in friends(i))]
    return d.init_db(facts, SCHEMA, schema_flexibility="write")


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The attributes that were put together whole."""
    read: list[str] = []
    attr = Snapshot.attr

    def noted(self: Snapshot, a: int) -> columns.Rows:
        read.append(str(self.schema.attrs[a].ident))
        return attr(self, a)

    monkeypatch.setattr(Snapshot, "attr", noted)
    return read


async def test_two_steps_from_few_people_put_no_attribute_together(
    db: Any, whole: list[str]
) -> None:
    some = [3, 17, 99]
    assert set(await d.q(TWO_STEPS, db, some)) == two_steps(some)
    assert whole == []


async def test_few_people_of_the_past_are_looked_up_in_one_pass_over_each_index(
    whole: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    facts: list[Any] = [(i, ":id", i) for i in range(1, PEOPLE + 1)]
    facts += [(i, ":friend", b) for i in range(1, PEOPLE + 1) for b in friends(i)]
    before = d.init_db(facts, SCHEMA, schema_flexibility="write", keep_history=True)
    some = [3, 17, 99]
    lost = [[":db/retract", i, ":friend", friends(i)[0]] for i in some]
    after = await before.db_with(lost)
    passes: list[object] = []
    found = Lookup.found

    def noted(self: Lookup) -> Any:
        passes.append(self)
        return found(self)

    monkeypatch.setattr(Lookup, "found", noted)
    monkeypatch.setattr(PastView, "_attr", lambda *_: pytest.fail("put together whole"))
    for view in (after.as_of(before.max_tx), after.history()):
        passes.clear()
        assert set(await d.q(TWO_STEPS, view, some)) == two_steps(some)
        # The present and the past once for each step.
        assert len(passes) <= 4
        assert before.snapshot.schema.by_key[":friend"].id in view.view.attr_ids()
    assert whole == []


async def test_rules_and_negation_from_few_people_put_no_attribute_together(
    db: Any, whole: list[str]
) -> None:
    query = "[:find ?c :in $ % ?i :where [?a :id ?i] (reach ?a ?c ?n)]"
    found = await d.q(query, db, DEPTH, 17)
    assert set(found) == {(c,) for _, c in two_steps([17])} | {(b,) for b in friends(17)}
    query = "[:find ?b :in $ ?i :where [?a :id ?i] [?a :friend ?b] (not [?b :friend ?a])]"
    assert set(await d.q(query, db, 17)) == {(b,) for b in friends(17) if 17 not in friends(b)}
    assert whole == []


async def test_a_column_at_hand_is_bisected_for_few_people(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await d.q("[:find (count ?b) . :where [_ :friend ?b]]", db)
    taken: list[int] = []
    take = columns.Column.take

    def noted(self: columns.Column, positions: Any) -> columns.Column:
        made = take(self, positions)
        taken.append(len(made))
        return made

    monkeypatch.setattr(columns.Column, "take", noted)
    some = [3, 17, 99]
    assert set(await d.q(TWO_STEPS, db, some)) == two_steps(some)
    # Some rows for each of the known entities, and a sample, of the 48,000 that there are.
    assert max(taken) <= 1024


async def test_what_is_looked_up_again_and_again_is_put_together_once(
    db: Any, whole: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then looking it up one by one has cost as much, and the columns stay at hand."""
    trees, friend = db.snapshot.trees, db.snapshot.schema.by_key[":friend"].id
    asked = 0
    while trees.cached(friend) is None:
        some = [7 * asked + 1, 7 * asked + 2, 7 * asked + 3]
        assert set(await d.q(TWO_STEPS, db, some)) == two_steps(some)
        asked += 1
    # Each asks for 3 people, and some 24 friends of theirs.
    assert 1 < asked <= PEOPLE * EACH / 256 / 24 + 1
    made: list[object] = []
    monkeypatch.setattr(Lookup, "found", lambda self: made.append(self))
    for some in ([3, 17, 99], [5, 2000]):
        assert set(await d.q(TWO_STEPS, db, some)) == two_steps(some)
    assert made == []
    assert set(whole) <= {":friend"}


async def test_few_people_of_a_large_attribute_are_no_work_for_a_thread(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved: list[object] = []
    in_thread = Watch.in_thread

    async def noted(self: Watch, make: Any) -> Any:
        moved.append(make)
        return await in_thread(self, make)

    monkeypatch.setattr(Watch, "in_thread", noted)
    for module in (watch, engine):
        monkeypatch.setattr(module, "LARGE", 2000)
    for _ in range(2):
        assert set(await d.q(TWO_STEPS, db, [3])) == two_steps([3])
    assert moved == []
    await d.q("[:find (count ?b) . :where [?a :friend ?b] [?b :friend ?a]]", db)
    assert moved


async def test_what_was_changed_since_is_seen_in_what_few_people_have(db: Any) -> None:
    b = friends(17)[0]
    changed = await d.db_with(db, [[":db/retract", 17, ":friend", b], [":db/add", 3, ":friend", 5]])
    query = "[:find ?i ?b :in $ [?i ...] :where [?a :id ?i] [?a :friend ?b]]"
    wanted = {(i, b) for i in (3, 17) for b in friends(i)} - {(17, b)} | {(3, 5)}
    assert set(await d.q(query, changed, [3, 17])) == wanted
    assert set(await d.q(query, db, [3, 17])) == {(i, b) for i in (3, 17) for b in friends(i)}


async def test_a_change_leaves_the_columns_of_few_people_as_they_are(
    db: Any, whole: list[str]
) -> None:
    await d.q("[:find (count ?b) . :where [_ :friend ?b]]", db)
    whole.clear()
    changed = await d.db_with(db, [[":db/add", 3, ":friend", 5]])
    assert set(await d.q(TWO_STEPS, changed, [3])) == two_steps([3]) | {(3, c) for c in friends(5)}
    assert whole == []


def test_what_is_not_at_hand_leaves_a_count_an_estimate(db: Any) -> None:
    view = View(db.snapshot)
    attr = view.schema.by_key[":friend"]
    assert Stats(view).count(attr) == pytest.approx(PEOPLE * EACH, rel=0.5)
