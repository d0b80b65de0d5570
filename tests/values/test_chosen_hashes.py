"""Values that were chosen to share a hash cost what others cost, wherever values are keys."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

import datahike_async as d
from datahike_async.edn.reader import read
from datahike_async.errors import EdnError, QueryError
from datahike_async.index.columns import Column
from datahike_async.query.relations.relation import codes, column_of, shared_codes
from datahike_async.values.types import DoubleArray, typed_key
from datahike_async.values.value_set import ValueSet

P = 2**61 - 1
MANY = 600
# Longs below 2**63 that leave one remainder.
LONGS = [P * i + 7 for i in range(-4, 4)]


def _digits(n: int, base: list[int], width: int) -> tuple[int, ...]:
    return tuple(base[n // len(base) ** i % len(base)] for i in range(width))


CHOSEN: dict[str, Callable[[int], Any]] = {
    "uuid": lambda i: uuid.UUID(int=P * (i + 1) + 7),
    "bigint": lambda i: P * (i + 8) + 7,
    "bigdec": lambda i: Decimal(P * (i + 8) + 7),
    "ratio": lambda i: Fraction(P * (2 * i + 8) + 7, 2),
    "tuple of longs": lambda i: _digits(i, LONGS, 4),
    "tuple of -1 and -2": lambda i: _digits(i, [-1, -2], 10),
    "tuple of uuids": lambda i: (uuid.UUID(int=P * (i + 1) + 7), 1),
    "double-array": lambda i: DoubleArray(_digits(i, [2.0 ** (61 * k) for k in range(-5, 5)], 3)),
    "nested": lambda i: [[{"a": P * (i + 8) + 7}]],
    "set": lambda i: frozenset([P * (i + 8) + 7]),
}


@pytest.mark.parametrize("name", CHOSEN)
def test_the_key_of_a_value_has_a_hash_of_its_own(name: str) -> None:
    make = CHOSEN[name]
    values = [make(i) for i in range(MANY)]
    if name not in ("double-array", "nested"):  # of the one our hash has a salt, the other has none
        assert len(set(map(hash, values))) < MANY / 10, "these do not share a hash"
    assert len({hash(typed_key(v)) for v in values}) == MANY
    assert [typed_key(make(i)) for i in range(MANY)] == [typed_key(v) for v in values]


def test_doubles_that_share_a_hash_have_keys_that_do_not() -> None:
    values = [m * 2.0 ** (61 * k) for m in (1.0, 3.0, 5.0) for k in range(-16, 16)]
    assert len(set(map(hash, values))) == 3
    assert len({hash(typed_key(v)) for v in values}) == len(values)


def test_keys_are_equal_where_values_are() -> None:
    assert typed_key(0.0) == typed_key(-0.0)
    assert typed_key(Decimal("1.0")) == typed_key(Decimal("1.00")) == typed_key(Decimal(1))
    assert typed_key(Decimal("-0")) == typed_key(Decimal("0E+5"))
    assert typed_key(Decimal("1E+3")) == typed_key(Decimal(1000)) != typed_key(Decimal(-1000))
    assert typed_key(Decimal("Infinity")) != typed_key(Decimal("-Infinity"))
    assert typed_key(DoubleArray([0.0, float("nan")])) == typed_key(
        DoubleArray([-0.0, -float("nan")])
    )
    assert hash(DoubleArray([0.0])) == hash(DoubleArray([-0.0]))
    kinds = [1, 1.0, True, Decimal(1), Fraction(1), "1", b"1", 2**70, f"{2**70:x}", (1,), {1}]
    assert len({typed_key(v) for v in kinds}) == len(kinds)
    assert typed_key(uuid.UUID(int=5)) != typed_key(uuid.UUID(int=5).bytes)


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count how often two UUIDs are compared for equality."""
    count = 0
    plain = uuid.UUID.__eq__

    def counted(self: uuid.UUID, other: object) -> Any:
        nonlocal count
        count += 1
        return plain(self, other)

    monkeypatch.setattr(uuid.UUID, "__eq__", counted)
    return lambda: count


U = [uuid.UUID(int=P * (i + 1) + 7) for i in range(MANY)]
SCHEMA = {
    ":u": {
        ":db/valueType": ":db.type/uuid",
        ":db/cardinality": ":db.cardinality/one",
        ":db/unique": ":db.unique/identity",
    },
    ":many": {":db/valueType": ":db.type/uuid", ":db/cardinality": ":db.cardinality/many"},
}


def test_columns_number_such_values_without_comparing_them(compared: Callable[[], int]) -> None:
    left, right = Column.of(U), Column.of(U[::-1])
    assert left.dictionary is not None
    assert left.dictionary.code(U[3]) == 3
    assert left.dictionary.code(U[5]) == 5
    assert left.dictionary.code(str(U[5])) is None
    found = shared_codes(left, right)
    assert found is not None
    assert found[0].tolist() == found[1].tolist()[::-1]
    both = Column.concat([left, Column.of([*U[:10], uuid.UUID(int=1), "text"])])
    assert both.tolist() == [*U, *U[:10], uuid.UUID(int=1), "text"]
    assert len(set(codes(both)[0].tolist())) == MANY + 2
    assert len(set(codes(column_of([*U, 1, 2.5]))[0].tolist())) == MANY + 2
    assert compared() < 100


@pytest.mark.anyio
async def test_chosen_uuids_in_transactions_queries_and_results(
    compared: Callable[[], int],
) -> None:
    db = d.empty_db(SCHEMA, schema_flexibility="write")
    report = await d.with_(db, [{":u": u, ":many": U[:3]} for u in U])
    # Looked up by what is unique, in one transaction after the other.
    report = await d.with_(report.db_after, [{":u": u, ":many": U[3:5]} for u in U])
    report = await d.with_(report.db_after, [[":db/add", -1 - i, ":u", u] for i, u in enumerate(U)])
    db = report.db_after
    assert len(report.tempids) >= MANY
    # Any two of them once would be 180,000 times.
    assert compared() < 20 * MANY
    before = compared()
    found = await d.q("[:find ?e ?u :in $ [?u ...] :where [?e :u ?u]]", db, U)
    assert len(found) == MANY
    assert len(await d.q("[:find ?a ?b :where [?a :u ?x] [?b :u ?x]]", db)) == MANY
    assert len(await d.q("[:find ?a ?u :where [?a :many ?u] [_ :u ?u]]", db)) == 5 * MANY
    assert await d.q("[:find (count-distinct ?u) . :where [_ :u ?u]]", db) == MANY
    assert found == await d.q("[:find ?e ?u :where [?e :u ?u]]", db)
    assert all(row in found for row in [(e, u) for e, u in found][:50])
    assert compared() - before < 20 * MANY


@pytest.mark.anyio
async def test_maps_that_query_text_makes_of_chosen_values_are_refused() -> None:
    for call in ("zipmap ?l ?l", "frequencies ?l"):
        with pytest.raises(QueryError):
            await d.q(f"[:find ?s . :in ?l :where [({call}) ?s]]", [P * i for i in range(1, 200)])


@pytest.mark.anyio
async def test_sets_that_query_text_makes_of_chosen_values_cost_what_others_cost(
    compared: Callable[[], int],
) -> None:
    for call in ("set ?l", "into #{} ?l"):
        query = f"[:find ?n . :in ?l :where [({call}) ?s] [(count ?s) ?n]]"
        assert await d.q(query, U) == MANY
    assert await d.q("[:find (count ?s) . :in [?l ...] :where [(set ?l) ?s]]", [U, U[1:]]) == 2
    assert compared() < 20 * MANY
    with pytest.raises(ValueError, match="one hash"):
        hash(ValueSet(U))


@pytest.mark.parametrize("text", ["#{{{}}}", "{{{}}}"])
def test_edn_with_chosen_elements_is_refused(text: str) -> None:
    chosen = " ".join(f"{P * i}" for i in range(1, 201))
    with pytest.raises(EdnError, match="same hash"):
        read(text.format(chosen if text[0] == "#" else chosen.replace(" ", " 0 ") + " 0"))
    assert len(read("#{" + " ".join(map(str, range(500))) + "}")) == 500
