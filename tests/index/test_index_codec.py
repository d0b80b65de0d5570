"""Stored nodes: exact types, little space, and an error of ours for whatever bytes come."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahike_async.edn.types import Char, Keyword, Symbol
from datahike_async.errors import CorruptData, UnsupportedFormat
from datahike_async.index import codec
from datahike_async.index.codec import pack_values, unpack_values
from datahike_async.index.columns import Column, Rows
from datahike_async.index.persistent_set.node import Branch, Leaf, decode, encode
from datahike_async.index.source import Address
from datahike_async.values.order import sort_key
from datahike_async.values.types import DoubleArray, FloatArray, typed_key

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    st.uuids(),
    st.decimals(),
    st.fractions(),
    st.sampled_from([Keyword("a"), Keyword("n/a"), Symbol("s"), Char("x")]),
    st.integers(-(2**55), 2**55).map(lambda n: EPOCH + timedelta(microseconds=n)),
    st.lists(st.floats(width=32), max_size=3).map(FloatArray),
    st.lists(st.floats(), max_size=3).map(DoubleArray),
)
values = st.recursive(scalars, lambda below: st.lists(below, max_size=3).map(tuple), max_leaves=8)


def leaf_of(group, until=None):
    count = len(group)
    return Leaf(
        Rows(
            np.arange(count, dtype=np.int64) * 3 + 2**31 - 1,
            np.zeros(count, np.int32),
            Column.of(group),
            np.full(count, 2**29 + 7, np.int64),
            until,
        )
    )


def content(rows):
    return (
        rows.e.tolist(),
        rows.a.tolist(),
        [(type(v), typed_key(v)) for v in rows.v.tolist()],
        rows.t.tolist(),
        None if rows.until is None else rows.until.tolist(),
    )


@settings(max_examples=200, deadline=None)
@given(st.lists(values, min_size=1, max_size=20), st.booleans())
def test_a_leaf_comes_back_as_it_was(group, temporal):
    until = np.arange(len(group), dtype=np.int64) + 2**40 if temporal else None
    leaf = leaf_of(group, until)
    assert content(decode(encode(leaf)).rows) == content(leaf.rows)


@pytest.mark.parametrize(
    "group",
    [
        [2**63 - 1, -(2**63), 0],
        [3, -(2**63)],
        [2**63 - 1, -3],
        [2**40, -(2**63), 2**62],
        [5] * 40,
        [0.0, -0.0, float("inf"), float("nan")],
        [True, False] * 9,
        ["x", "y"] * 300,
        [Keyword("a"), "a", b"a", UUID(int=1)],
        [1, "a", 1.0, True, 2**80, Decimal("1.50"), Fraction(1, 3), (1, (None, "x"))],
        [EPOCH, datetime(9999, 12, 31, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)],
    ],
)
def test_each_kind_of_column(group):
    leaf = leaf_of(group)
    back = decode(encode(leaf)).rows
    assert content(back) == content(leaf.rows)
    assert back.v.kind == leaf.rows.v.kind


@settings(deadline=None)
@given(st.lists(values, min_size=1, max_size=9, unique_by=sort_key))
def test_a_branch_comes_back_as_it_was(group):
    keys = sorted((1, 2, sort_key(v), 3) for v in group)
    count = len(keys)
    addresses = [Address("pack" + str(i % 2), i, 7, 2**32 - 1) for i in range(count)]
    back = decode(encode(Branch(1, keys, [5] * count, [None] * count, addresses)))
    assert back.keys == keys
    assert (back.level, back.counts, back.addresses) == (1, [5] * count, addresses)


def test_values_may_nest_as_deep_as_a_transaction_lets_them():
    value = (1,)
    for _ in range(64):
        value = (value,)
    assert unpack_values(pack_values([value])) == [value]
    keys = [(0, 0, sort_key(value), 0)]
    back = decode(encode(Branch(1, keys, [1], [None], [Address("p", 0, 1, 0)])))
    assert back.keys == keys


def test_damaged_bytes_that_nest_without_end_are_corrupt():
    # In a process of its own: what this guards against takes the interpreter with it.
    code = (
        "import msgpack\n"
        "from datahike_async.errors import CorruptData\n"
        "from datahike_async.index.codec import unpack\n"
        "for depth in (150, 250, 5000):\n"
        "    data = b'\\xc0'\n"
        "    for _ in range(depth):\n"
        "        data = msgpack.packb(msgpack.ExtType(11, b'\\x91' + data))\n"
        "    try:\n"
        "        unpack(data)\n"
        "    except CorruptData:\n"
        "        print(depth, 'corrupt')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "250 corrupt\n5000 corrupt\n")


ONE = [3, 1, 0, b""]  # the integer 1, as often as there are rows
SLOT = [0, 0, 1, 0]
KEY = (1, 2, (2, 1, 0), 4)


@pytest.mark.parametrize(
    "node",
    [
        None,
        5,
        "abc",
        {},
        [],
        [0],
        [0, 1, 2],
        [0, [1, ONE, ONE, [1, ONE], ONE]],
        [0, [0, ONE, ONE, [1, ONE], ONE, None]],
        [0, [-1, ONE, ONE, [1, ONE], ONE, None]],
        [0, [1.0, ONE, ONE, [1, ONE], ONE, None]],
        [0, [2**40, ONE, ONE, [1, ONE], ONE, None]],
        [0, [1, [3, 0.5, 0, b""], ONE, [1, ONE], ONE, None]],
        [0, [1, [4, 1, 0, b"\0"], ONE, [1, ONE], ONE, None]],
        [0, [1, [0, 1, 9, b"\0"], ONE, [1, ONE], ONE, None]],
        [0, [1, [0, 1, 0, "text"], ONE, [1, ONE], ONE, None]],
        [0, [2, [0, 1, 0, b"\0"], ONE, [1, ONE], ONE, None]],
        [0, [9, ONE, ONE, [3, b"\0"], ONE, None]],
        [0, [1, ONE, ONE, [2, b"\0"], ONE, None]],
        [0, [1, ONE, ONE, [5, [(1,)], [3, 0, 0, b""]], ONE, None]],
        [0, [1, ONE, ONE, [5, ["x"], ONE], ONE, None]],
        [0, [1, ONE, ONE, [5, [[]], [3, 0, 0, b""]], ONE, None]],
        [0, [1, ONE, ONE, [6, []], ONE, None]],
        [0, [1, ONE, ONE, [7, ONE, []], ONE, None]],
        [0, [1, ONE, ONE, [7, [3, 0, 0, b""], [[7, [3, 0, 0, b""], [[1, ONE]]]]], ONE, None]],
        [0, [1, ONE, ONE, [8, ONE], ONE, None]],
        ["x", [KEY], [1], ["b"], [SLOT]],
        [-5, [KEY], [1], ["b"], [SLOT]],
        [1, [], [], [], []],
        [1, {"a": 1}, [1], ["b"], [SLOT]],
        [1, [(1, 2)], [1], ["b"], [SLOT]],
        [1, [KEY, KEY], [1, 1], ["b"], [SLOT, SLOT]],
        [1, [KEY, (1, 2, "x", 3)], [1, 1], ["b"], [SLOT, SLOT]],
        [1, [KEY], ["x"], ["b"], [SLOT]],
        [1, [KEY], [0], ["b"], [SLOT]],
        [1, [KEY], [1], [5], [SLOT]],
        [1, [KEY], [1], ["b"], [[1, 0, 0, 0]]],
        [1, [KEY], [1], ["b"], [[0, "a", None, 0]]],
        [1, [KEY], [1], ["b"], [[0, -1, 0, 0]]],
        [1, [KEY], [1], ["b"], [[0, 0, 0]]],
    ],
)
def test_what_is_no_node_is_corrupt(node):
    with pytest.raises(CorruptData):
        decode(codec.seal(node))


def plain_data():
    leaf = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 9),
        st.floats(),
        st.binary(max_size=9),
        st.text(max_size=2),
        st.sampled_from([ONE, SLOT, KEY, 2**40]),
    )
    return st.recursive(leaf, lambda below: st.lists(below, max_size=6), max_leaves=25)


@settings(max_examples=400, deadline=None)
@given(plain_data(), st.booleans())
def test_decoding_any_plain_data(data, as_leaf):
    node = [0, data] if as_leaf else data
    try:
        made = decode(codec.seal(node))
    except CorruptData:
        return
    assert isinstance(made, (Leaf, Branch))


@settings(max_examples=400, deadline=None)
@given(st.data(), st.lists(values, min_size=1, max_size=12))
def test_decoding_a_damaged_leaf(data, group):
    # Damage below the compression, where a checksum of zstd would not notice.
    plain = bytearray(
        msgpack.packb(
            [0, codec.encode_rows(leaf_of(group).rows)], default=codec._default, strict_types=True
        )
    )
    for _ in range(data.draw(st.integers(1, 3))):
        plain[data.draw(st.integers(0, len(plain) - 1))] = data.draw(st.integers(0, 255))
    try:
        made = decode(b"\x01\x00" + bytes(plain))
    except CorruptData:
        return
    if isinstance(made, Leaf):
        assert len(made.rows.e) == len(made.rows.a) == len(made.rows.v) == len(made.rows.t)


def test_a_node_of_a_later_format_is_refused_by_name():
    with pytest.raises(UnsupportedFormat, match="format 2"):
        decode(b"\x02\x00\x90")


def test_a_typical_leaf_takes_less_than_four_bytes_a_datom():
    names = ["Ivan", "Petr", "Sergei", "Oleg", "Yuri", "Dmitry", "Fedor", "Denis"]
    leaf = leaf_of([names[i * 7 % 8] for i in range(512)])
    assert len(encode(leaf)) < 4 * 512


def test_a_ratio_is_two_integers_and_no_other_text_of_a_number():
    for text in (b"1/3", b"-7", b"12/5"):
        assert codec.unpack(msgpack.packb(msgpack.ExtType(codec._RATIO, text))) == Fraction(
            text.decode()
        )
    # An exponent would be carried out: this one for longer than anybody waits.
    for text in (b"9e999999999", b"1/0", b"1/2/3", b"0.5", b""):
        with pytest.raises(CorruptData):
            codec.unpack(msgpack.packb(msgpack.ExtType(codec._RATIO, text)))
