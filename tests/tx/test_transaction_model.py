"""Random transactions against a simple model: the present, every past state, and the history."""

from __future__ import annotations

import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import datahike_async as d
from datahike_async.tx import apply, segments
from datahike_async.values.types import typed_key
from tests.indexes import INDEXES

SCHEMA = [
    {
        ":db/ident": ":id",
        ":db/valueType": ":db.type/long",
        ":db/cardinality": ":db.cardinality/one",
        ":db/unique": ":db.unique/identity",
    },
    {
        ":db/ident": ":name",
        ":db/valueType": ":db.type/string",
        ":db/cardinality": ":db.cardinality/one",
    },
    {
        ":db/ident": ":age",
        ":db/valueType": ":db.type/long",
        ":db/index": True,
        ":db/cardinality": ":db.cardinality/one",
    },
    {
        ":db/ident": ":tag",
        ":db/valueType": ":db.type/keyword",
        ":db/cardinality": ":db.cardinality/many",
    },
    {
        ":db/ident": ":friend",
        ":db/valueType": ":db.type/ref",
        ":db/cardinality": ":db.cardinality/many",
    },
    {
        ":db/ident": ":part",
        ":db/valueType": ":db.type/ref",
        ":db/isComponent": True,
        ":db/cardinality": ":db.cardinality/many",
    },
    {
        ":db/ident": ":secret",
        ":db/valueType": ":db.type/string",
        ":db/noHistory": True,
        ":db/cardinality": ":db.cardinality/one",
    },
]
REFS = {":friend", ":part"}
MANY = {":tag", *REFS}

ids = st.integers(0, 5)
texts = st.sampled_from(["a", "b", "c"])
tags = st.sampled_from([":t/x", ":t/y", ":t/z"])
ops = st.one_of(
    st.tuples(
        st.just("map"),
        ids,
        st.fixed_dictionaries(
            {},
            optional={
                ":name": texts,
                ":age": st.integers(0, 3),
                ":tag": st.lists(tags, min_size=1, max_size=2, unique=True),
                ":friend": st.lists(ids, min_size=1, max_size=2, unique=True),
                ":part": st.lists(ids, min_size=1, max_size=2, unique=True),
                ":secret": texts,
            },
        ),
    ),
    st.tuples(
        st.sampled_from(["retract", "retract-attribute"]),
        ids,
        st.sampled_from([":name", ":age", ":tag", ":friend", ":part"]),
    ),
    st.tuples(st.just("retract-value"), ids, tags),
    st.tuples(st.just("retract-friend"), ids, ids),
    st.tuples(st.just("retract-entity"), ids),
    st.tuples(st.just("cas"), ids, st.integers(0, 3), st.integers(0, 3)),
    st.tuples(
        st.just("fail"),
    ),
)
transactions = st.lists(st.lists(ops, min_size=1, max_size=5), min_size=1, max_size=6)


class Model:
    """Entities by :id: attribute → set of values (refs as ids)."""

    def __init__(self) -> None:
        self.entities: dict[int, dict[str, set[object]]] = {}

    def of(self, i: int) -> dict[str, set[object]]:
        return self.entities.setdefault(i, {":id": {i}})

    def apply(self, tx) -> None:
        for op in tx:
            kind = op[0]
            if kind == "map":
                _, i, attrs = op
                mine = self.of(i)
                for name, value in attrs.items():
                    new = set(value) if isinstance(value, list) else {value}
                    if name in REFS:
                        for other in new:
                            self.of(other)
                    mine[name] = mine.get(name, set()) | new if name in MANY else new
            elif kind in ("retract", "retract-attribute") and op[1] in self.entities:
                gone = self.entities[op[1]].pop(op[2], set())
                if kind == "retract-attribute" and op[2] == ":part":
                    self.retract_entities(*gone)
            elif kind == "retract-friend" and op[1] in self.entities:
                if op[2] not in self.entities:
                    raise ValueError("missing")
                self.entities[op[1]].get(":friend", set()).discard(op[2])
            elif kind == "retract-value" and op[1] in self.entities:
                self.entities[op[1]].get(":tag", set()).discard(op[2])
            elif kind == "retract-entity":
                self.retract_entities(op[1])
            elif kind == "cas":
                if self.entities.get(op[1], {}).get(":age", set()) != {op[2]}:
                    raise ValueError("cas")
                self.entities[op[1]][":age"] = {op[3]}
            elif kind == "fail":
                raise ValueError("fail")

    def retract_entities(self, *stack) -> None:
        """Take entities away, their parts with them, and what refers to them."""
        left = list(stack)
        while left:
            i = left.pop()
            left += self.entities.pop(i, {}).get(":part", ())
            for other in self.entities.values():
                for name in REFS:
                    other.get(name, set()).discard(i)

    def facts(self) -> set[object]:
        return {
            (i, a, typed_key(v))
            for i, attrs in self.entities.items()
            for a, vs in attrs.items()
            for v in vs
        }


def forms(tx):
    for op in tx:
        kind = op[0]
        if kind == "map":
            _, i, attrs = op
            attrs = dict(attrs)
            for name in sorted(REFS & attrs.keys()):
                for other in attrs[name]:
                    yield {":id": other}
                attrs[name] = [[":id", other] for other in attrs[name]]
            yield {":id": i, **attrs}
        elif kind == "retract":
            yield [":db/retract", [":id", op[1]], op[2]]
        elif kind == "retract-attribute":
            yield [":db.fn/retractAttribute", [":id", op[1]], op[2]]
        elif kind == "retract-friend":
            yield [":db/retract", [":id", op[1]], ":friend", [":id", op[2]]]
        elif kind == "retract-value":
            yield [":db/retract", [":id", op[1]], ":tag", op[2]]
        elif kind == "retract-entity":
            yield [":db/retractEntity", [":id", op[1]]]
        elif kind == "cas":
            yield [":db/cas", [":id", op[1]], ":age", op[2], op[3]]
        else:
            yield [":db/add", "x", ":no/such", 1]


async def facts_of(db, names: dict[int, int]) -> set[object]:
    out = set()
    for datom in await db.datoms("eavt"):
        attr = ":" + datom.a.text
        if attr in {":id", ":name", ":age", ":secret", *MANY} and datom.e in names:
            value = names[datom.v] if attr in REFS else datom.v
            value = repr(value) if attr == ":tag" else value
            out.add((names[datom.e], attr, typed_key(value)))
    return out


async def names_of(db) -> dict[int, int]:
    # Every entity id that ever had an :id; retracted ones come back under a new entity id.
    rows = await db.history().q("[:find ?e ?i :where [?e :id ?i]]")
    return dict(rows)


@pytest.mark.anyio
@pytest.mark.parametrize("ahead", [False, True], ids=["", "read ahead"])
@pytest.mark.parametrize("absorb_at", [1, 7, 8192])
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(txs=transactions, index=st.sampled_from(list(INDEXES)))
async def test_against_the_model(txs, absorb_at, ahead, index, monkeypatch):
    if ahead:
        monkeypatch.setattr(apply, "_MANY", 1)
        monkeypatch.setattr(segments, "_LEAST", 1)
    empty = d.empty_db(keep_history=True, schema_flexibility="write", **INDEXES[index])
    db = await empty.db_with(SCHEMA)
    model = Model()
    past: list[tuple[int, set[object], d.Database]] = []
    for tx in txs:
        trial = copy.deepcopy(model)
        try:
            trial.apply(tx)
        except ValueError:
            before = list(await db.datoms("eavt"))
            with pytest.raises(d.TransactionError):
                await db.with_(list(forms(tx)))
            assert list(await db.datoms("eavt")) == before
            continue
        report = await db.with_(list(forms(tx)))
        model, db = trial, report.db_after
        if db.snapshot.n > absorb_at:
            db = db._wrap(await apply.absorbed(db.snapshot))
        past.append((report.tx, model.facts(), db))
        names = await names_of(db)
        assert await facts_of(db, names) == model.facts()
    names = await names_of(db)
    for tx, facts, then in past:
        # No history is kept of :secret: the past does not know its former values.
        kept = {f for f in facts if f[1] != ":secret"}
        seen = {f for f in await facts_of(db.as_of(tx), names) if f[1] != ":secret"}
        assert seen == kept
        assert await facts_of(then, names) == facts
    await check_history(db, names)
    await check_indexes(db)


async def check_history(db, names) -> None:
    """Replaying the history gives the present; assertions and retractions alternate."""
    live: dict[object, bool] = {}
    events = [x for x in await db.history().datoms("eavt") if x.e in names]
    # Within one transaction a fact may come and go; then it began as it ended or the other way.
    for event in sorted(events, key=lambda x: x.tx):
        fact = (event.e, event.a, typed_key(event.v))
        live.setdefault(fact, False)
    present = {(x.e, x.a, typed_key(x.v)) for x in await db.datoms("eavt") if x.e in names}
    for fact in live:
        added = sum(1 for x in events if (x.e, x.a, typed_key(x.v)) == fact and x.added)
        removed = sum(1 for x in events if (x.e, x.a, typed_key(x.v)) == fact and not x.added)
        assert added - removed == (1 if fact in present else 0)


async def check_indexes(db) -> None:
    """All three indexes hold the same datoms, each in its order, and as many as they say."""
    for index in db.snapshot.trees.indexes():
        assert len(index) == sum(map(len, index.slice())) == index.count_slice((0,), (2**40,))
    eavt = list(await db.datoms("eavt"))
    assert sorted(map(repr, await db.datoms("aevt"))) == sorted(map(repr, eavt))
    indexed = {d.kw(n) for n in (":id", ":age", *REFS, ":db/ident", ":db/txInstant")}
    avet = list(await db.datoms("avet"))
    assert sorted(map(repr, avet)) == sorted(repr(x) for x in eavt if x.a in indexed)
    ages = [x.v for x in await db.index_range(":age")]
    assert ages == sorted(ages)
    assert await db.count() == len(eavt)
