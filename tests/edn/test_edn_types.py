"""Names are interned for all threads, immutable, picklable and ordered; the rest hashes by type."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import threading

import pytest

from datahike_async.edn import Char, FrozenMap, Keyword, Symbol, Tagged


def test_threads_that_intern_one_name_get_one_object():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for attempt in range(60):
            texts = [f"race{attempt}/n{i}" for i in range(40)]
            barrier = threading.Barrier(4)
            made: list[list[Keyword]] = []

            def intern(
                texts: list[str] = texts,
                barrier: threading.Barrier = barrier,
                made: list[list[Keyword]] = made,
            ) -> None:
                barrier.wait()
                made.append([Keyword(text) for text in texts])

            threads = [threading.Thread(target=intern) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            for same in zip(*made, strict=True):
                assert len({id(keyword) for keyword in same}) == 1
    finally:
        sys.setswitchinterval(interval)


def test_names_that_nobody_holds_are_let_go():
    gc.collect()
    before = len(Keyword._interned)
    keep = [Keyword(f"gone/n{i}") for i in range(100)]
    assert len(Keyword._interned) == before + 100
    del keep
    gc.collect()
    assert len(Keyword._interned) <= before


def test_names_survive_copies_and_pickles_as_themselves():
    for name in (Keyword("a/b"), Symbol("a/b"), Keyword("a b")):
        assert pickle.loads(pickle.dumps(name)) is name
        assert copy.copy(name) is name
        assert copy.deepcopy([name])[0] is name
    for value in (Char("x"), Tagged("t", 1), FrozenMap({1: 2})):
        made = pickle.loads(pickle.dumps(value))
        assert made == value
        assert type(made) is type(value)


def test_names_do_not_change_and_need_a_text():
    with pytest.raises(AttributeError, match="immutable"):
        Keyword("a").name = "b"
    for make in (Keyword, Symbol):
        with pytest.raises(ValueError, match="needs a name"):
            make("")
    with pytest.raises(ValueError, match="needs a name"):
        Keyword(":")


def test_names_sort_by_namespace_then_name():
    texts = ["b", "a/z", "a", "a/b", "b/a"]
    assert sorted(map(Keyword, texts)) == [Keyword(t) for t in ("a", "b", "a/b", "a/z", "b/a")]
    with pytest.raises(TypeError):
        _ = Keyword("a") < Symbol("b")


def test_values_of_different_types_are_different():
    assert len({Char("a"), "a", Keyword("a"), Symbol("a"), Tagged("a", "a")}) == 5
    assert Char("a") != "a"
    assert "a" not in [Char("a")]
    assert Tagged("a", 1) == Tagged("a", 1)
    assert Tagged("a", 1) != Tagged("b", 1)
    with pytest.raises(ValueError, match="one code point"):
        Char("ab")
