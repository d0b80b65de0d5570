"""Packed strings are held to Python's, and a dictionary of them to one of objects."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from datahike_async.index import dictionary, texts
from datahike_async.index.columns import Column, Rows
from datahike_async.index.texts import Texts
from datahike_async.query.builtins.columns import mask_of_call
from datahike_async.query.relations.relation import shared_codes

ALPHABETS = ["ab", "a\0", "abc é☃😀", "\ud800\udfffz\U0001f600"]


def some(rng: random.Random, alphabet: str, most: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(0, most)))


@pytest.mark.parametrize("alphabet", ALPHABETS, ids=ascii)
def test_packed_strings_are_what_pythons_are(
    alphabet: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "PIECE", 64)
    for seed in range(60):
        rng = random.Random(seed)
        most = rng.choice([3, 8, 9, 20, 600])
        pool = [some(rng, alphabet, most) for _ in range(rng.randint(1, 40))]
        runs = [[rng.choice(pool) for _ in range(rng.randint(0, 9))] for _ in range(9)]
        flat = [text for run in runs for text in run]
        packed = Texts.of(runs)
        assert packed[:] == flat
        assert [packed[i] for i in range(len(flat))] == flat
        packed, numbers = packed.different()
        want = list(dict.fromkeys(flat))
        assert packed[:] == want
        found = list(range(len(flat))) if numbers is None else numbers.tolist()
        assert found == [want.index(text) for text in flat]
        for text in (rng.choice(pool), some(rng, alphabet, most), "q", ""):
            part = text[rng.randint(0, 2) :][: rng.randint(0, 10)]
            assert packed.number(text) == (want.index(text) if text in want else None)
            assert packed.starting(part).tolist() == [x.startswith(part) for x in want]
            assert packed.ending(part).tolist() == [x.endswith(part) for x in want]
            assert packed.including(part).tolist() == [part in x for x in want]
            assert packed.compared(text).tolist() == [(x > text) - (x < text) for x in want]
        assert packed.order().tolist() == sorted(range(len(want)), key=want.__getitem__)
        picked = np.array([rng.randrange(len(want)) for _ in want], np.int64)
        assert packed.taken(picked)[:] == packed.made(picked) == [want[i] for i in picked.tolist()]
        assert packed.followed_by(["zz", "é"])[:] == [*want, "zz", "é"]


def test_strings_that_are_looked_up_are_placed_where_nobody_outside_can_tell() -> None:
    """Of a hundred thousand, all alike but for some bits, few share a place with many others."""
    packed = Texts.of([[f"{i:016x}" * 2 for i in range(100_000)]])
    _, often = np.unique(packed._spread(0, len(packed)) & 0x1FFFF, return_counts=True)
    assert often.max() < 12


def packed_column(runs: list[list[str]]) -> Column:
    column = Column.concat([Column.of(run) for run in runs], packed=True)
    assert column.dictionary is not None
    assert column.dictionary.packed is not None
    return column


def test_a_column_of_packed_strings_answers_as_one_of_objects_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dictionary, "_PACKED", 1)
    for seed in range(40):
        rng = random.Random(seed)
        alphabet = ALPHABETS[seed % 3]
        runs = [[some(rng, alphabet, 12) for _ in range(rng.randint(1, 8))] for _ in range(5)]
        flat = [text for run in runs for text in run]
        column = packed_column(runs)
        for more in ([some(rng, alphabet, 12)], ["new", "new", flat[0]], flat[:3] * 9, []):
            assert_same(column, flat, rng)
            before = flat
            longer = Column.concat([column, Column.of(more)]) if more else column
            assert column.tolist() == before
            column, flat = longer, before + more
        assert_same(column, flat, rng)


def assert_same(column: Column, flat: list[str], rng: random.Random) -> None:
    plain = Column.of(flat)
    assert column.tolist() == column.objects().data.tolist() == flat
    ranks = [np.argsort(x.ranks(), kind="stable") for x in (column, plain)]
    assert np.array_equal(*ranks)
    text = rng.choice(flat)
    part = text[: rng.randint(0, 3)]
    calls: list[tuple[str, Any]] = [("<", text), (">=", text), ("=", text), ("=", "not there")]
    calls += [(f"clojure.string/{x}?", part) for x in ("starts-with", "ends-with", "includes")]
    for name, value in calls:
        found = mask_of_call(name, (column, value), len(flat))
        wanted = mask_of_call(name, (plain, value), len(flat))
        assert found is not None
        assert np.array_equal(found, wanted), (name, value, flat)
    other = Column.of([*rng.choices(flat, k=4), "not there"])
    for pair in ((column, other), (other, column)):
        codes = shared_codes(*pair)
        assert codes is not None
        same = codes[0][:, None] == codes[1][None, :]
        values = [np.array(x.tolist(), np.object_) for x in pair]
        assert np.array_equal(same, values[0][:, None] == values[1][None, :])
    picked = np.array([rng.randrange(len(flat)) for _ in range(3)])
    assert column.take(picked).compact(0).tolist() == [flat[i] for i in picked.tolist()]


def test_strings_that_are_new_are_put_beside_the_packed_ones_until_they_are_many() -> None:
    count = dictionary._PACKED
    column = packed_column([[f"s{i}" for i in range(at, at + 512)] for at in range(0, count, 512)])
    assert column.dictionary is not None
    longer = Column.concat([column, Column.of(["one", "s7", "more"])])
    assert longer.dictionary is not None
    assert longer.dictionary.packed is column.dictionary.packed
    assert longer.dictionary.beside == ["one", "more"]
    assert longer.data.tolist()[-3:] == [count, 7, count + 1]
    many = Column.concat([longer, Column.of([f"new{i}" for i in range(count // 7)])])
    assert many.dictionary is not None
    assert many.dictionary.packed is not column.dictionary.packed
    assert many.dictionary.beside == []
    assert many.value(len(many) - 1) == f"new{count // 7 - 1}"


def test_few_strings_that_come_often_are_not_packed() -> None:
    e, a = np.arange(1000), np.full(1000, 4, np.int32)
    leaves = [Rows(e, a, Column.of(list(map(str, range(1000)))), e) for _ in range(40)]
    column = Rows.concat(leaves, packed=True).v
    assert column.dictionary is not None
    assert column.dictionary.packed is None
    assert len(column.dictionary) == 1000
