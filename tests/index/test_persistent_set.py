"""What persistent-set has of its own: bytes that are damaged, and its place in the registry.

That it does what an index has to, the public suite says (``test_index_suite``).
"""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datahike_async.edn import Keyword
from datahike_async.errors import ConfigError, CorruptData, UnsupportedFormat
from datahike_async.index.codec import pack_values, unpack_values
from datahike_async.index.persistent_set.factory import PersistentSetFactory
from datahike_async.index.persistent_set.node import decode
from datahike_async.index.protocol import Order
from datahike_async.index.registry import index_factory, register_index
from datahike_async.index.testing import Cold, Fact, runs_of
from datahike_async.values.types import typed_key

FACTORY = PersistentSetFactory()
CONFIG = {"branching-factor": 8, "diff-buf-size": 0}

values = (
    st.integers(-3, 3)
    | st.sampled_from([1.0, True, False, 0.5, "a", "b", Keyword("k"), b"x", 2**70])
    | st.text(max_size=2)
)


@given(st.binary(max_size=60))
def test_decoding_trusts_nothing(data):
    with suppress(CorruptData, UnsupportedFormat):
        decode(data)


@settings(max_examples=300)
@given(st.data())
def test_decoding_damaged_nodes(data):
    cold = Cold(decode)
    facts = [Fact(i, 0, f"v{i % 3}", 5) for i in range(8)]
    FACTORY.empty(Order.AEVT, False, CONFIG).merge(runs_of(facts, Order.AEVT), []).flush(cold)
    raw = bytearray(next(iter(cold.stored.values())))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(CorruptData, UnsupportedFormat):
        decode(bytes(raw))


@given(st.lists(values | st.uuids() | st.lists(values, max_size=3).map(tuple), max_size=8))
def test_single_values_keep_their_type(group):
    assert list(map(typed_key, unpack_values(pack_values(group)))) == list(map(typed_key, group))


def test_the_registry_names_what_is_wrong():
    assert index_factory(":datahike.index/persistent-set") is index_factory()
    with pytest.raises(
        ConfigError, match=r"did you mean :datahike\.index/persistent-set"
    ) as caught:
        index_factory(Keyword("datahike.index/persistent-sett"))
    assert caught.value.error == ":unknown-index-type"
    assert index_factory("datahike.index/hitchhiker-tree") is not index_factory()
    with pytest.raises(ConfigError, match="branching-facto"):
        FACTORY.check_config({":branching-facto": 4})
    register_index("my/index", FACTORY)
    assert index_factory(Keyword("my/index")).base is FACTORY
