from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datahike_async.config import Config
from datahike_async.edn import Keyword
from datahike_async.env import Env
from datahike_async.errors import ConfigError, CorruptData, UnsupportedFormat
from datahike_async.index.codec import pack, seal, unpack, unseal
from datahike_async.index.source import Address
from datahike_async.snapshot.snapshot import Snapshot
from datahike_async.storage.branches.create import empty_snapshot
from datahike_async.storage.branches.head import (
    RECENT,
    Head,
    Recent,
    decode_head,
    encode_head,
)
from datahike_async.storage.branches.ring import Ring
from datahike_async.storage.log.alike import folded, unfolded
from datahike_async.storage.log.checkpoint import (
    FORMAT,
    Checkpoint,
    Pointer,
    decode_checkpoint,
)
from datahike_async.storage.log.records import (
    Commit,
    commit_id,
    decode_record,
    decode_segment,
    encode_entry,
    encode_record,
    encode_segment,
    entries_of,
    last_of,
    newest,
    tx_of_commit,
)
from datahike_async.tx.apply import apply, replay

pytestmark = pytest.mark.anyio

COMMIT = UUID(int=7, version=4)
CONFIG = Config.of(store={"backend": "memory", "id": UUID(int=1)}, schema_flexibility="read")


def rows(snapshot: Snapshot) -> list[Any]:
    from datahike_async.index.protocol import Order

    out = []
    for run in snapshot.slice(Order.EAVT):
        out += [
            (e, a, type(v), v, t)
            for e, a, v, t in zip(
                run.e.tolist(), run.a.tolist(), run.v.tolist(), run.t.tolist(), strict=True
            )
        ]
    return out


@pytest.mark.parametrize("many", [3, 700, 1500])
async def test_a_record_replays_to_the_same_state(many: int) -> None:
    base = empty_snapshot(CONFIG)
    values: list[Any] = [1, 1.0, True, "x", Keyword("a/b"), 2**70, Decimal("1.10"), COMMIT]
    values.append(datetime(2026, 1, 2, 3, 4, 5, 6000, tzinfo=UTC))
    first = await apply(
        base, [{":v": values[i % len(values)], ":n": i} for i in range(many)], env=Env.seeded(1)
    )
    second = await apply(
        first.after,
        [
            [":db/retractEntity", 1],
            [":db/add", 2, ":n", -1],
            [":db/add", 3, ":late", "x", 536870913],
        ],
        env=Env.seeded(2),
    )
    encoded = encode_record(5, COMMIT, [encode_entry(first), encode_entry(second)])
    record = decode_record(encoded, "here")
    assert (record.generation, record.publication) == (5, COMMIT)
    assert record.commit == commit_id(COMMIT, second.tx)
    assert tx_of_commit(record.commit) == second.tx
    again = empty_snapshot(CONFIG)
    for entry in record.entries:
        again = replay(again, entry.operations, entry.new_attrs, entry.tx, entry.max_eid)
    assert rows(again) == rows(second.after)
    assert (again.max_tx, again.max_eid) == (second.after.max_tx, second.after.max_eid)
    assert [a.ident for a in again.schema.attrs] == [a.ident for a in second.after.schema.attrs]
    assert record.entries[1].instant == second.instant


async def entries(count: int) -> list[bytes]:
    snapshot, env = empty_snapshot(CONFIG), Env.seeded(1)
    out = []
    for i in range(count):
        applied = await apply(snapshot, [{":n": i}], env=env)
        snapshot = applied.after
        out.append(encode_entry(applied))
    return out


@pytest.mark.parametrize("hashed", [False, True])
async def test_entries_of_one_publication_are_compressed_together(hashed: bool) -> None:
    many = await entries(40)
    ids = [commit_id(COMMIT, i) for i in range(40)] if hashed else []
    data = encode_record(2, COMMIT, many, [UUID(int=3)], ids)
    assert len(data) - 16 * len(ids) < sum(map(len, many)) / 2.5
    plain = [4 if hashed else 3, 2, COMMIT.bytes, many, [UUID(int=3).bytes]]
    if hashed:
        plain.append([id_.bytes for id_ in ids])
    as_before = pack(plain)
    found, before = decode_record(data, "here"), decode_record(as_before, "here")
    assert entries_of(data) == entries_of(as_before) == many
    assert [e.tx for e in found.entries] == [e.tx for e in before.entries]
    assert found.commits == before.commits
    assert found.parents == before.parents == (UUID(int=3),)
    # What is said of it alone is a shape that nobody writes.
    lying = unpack(data)
    lying[0] = 4 if not hashed else 3
    with pytest.raises(CorruptData, match="commits"):
        decode_record(pack(lying), "here")


async def test_compressed_entries_that_are_damaged_are_no_record() -> None:
    record = unpack(encode_record(2, COMMIT, await entries(40)))
    lengths, body = unseal(record[3])
    wrong = [seal(x) for x in (7, [7], [7, 7], [lengths, body[1:]], [lengths[1:], body])]
    for stored in (record[3][:-7], b"", 7, *wrong):
        with pytest.raises(CorruptData, match="here"):
            decode_record(pack([*record[:3], stored]), "here")


@given(st.lists(st.one_of(st.binary(max_size=9), st.binary(min_size=4, max_size=5))))
async def test_folded_strings_come_back(strings: list[bytes]) -> None:
    assert unfolded(folded(strings)) == strings


async def test_segments_chain() -> None:
    applied = await apply(empty_snapshot(CONFIG), [{":n": 1}], env=Env.seeded(1))
    records = [encode_record(g, COMMIT, [encode_entry(applied)]) for g in (2, 3)]
    elsewhere = Address("log/y", 0, 4, 5)
    data = encode_segment(["log/x", 1, 2, 3], [records[0], elsewhere, records[1]], 7)
    found = decode_segment(data, "here")
    assert found == (Address("log/x", 1, 2, 3), [records[0], elsewhere, records[1]], 7)


@pytest.mark.parametrize("item", [7, None, ["log/y", 0, 4], [b"y", 0, 4, 5], ["y", 0, 4, "5"]])
async def test_what_is_neither_record_nor_address_is_no_segment(item: Any) -> None:
    with pytest.raises(CorruptData, match="here"):
        decode_segment(seal({"format": 2, "previous": None, "items": [item], "last": None}), "here")


async def test_a_newer_record_is_refused() -> None:
    with pytest.raises(UnsupportedFormat, match="Upgrade"):
        decode_record(pack([99, 1, COMMIT.bytes, []]), "here")


@given(st.binary(max_size=60))
async def test_noise_is_no_record_and_no_head(noise: bytes) -> None:
    # Some begins as a record of another version would.
    with pytest.raises((CorruptData, UnsupportedFormat)):
        decode_record(noise, "here")
    with pytest.raises(CorruptData):
        decode_head(noise, "here", None)


def head() -> Head:
    base = Checkpoint(
        store=UUID(int=1),
        branch="db",
        born=UUID(int=9),
        config={"keep-history": True},
        schema={"flexibility": "read"},
        trees={"roots": {}, "max-eid": 5, "max-tx": 536870915},
        instant=datetime(2026, 1, 1, tzinfo=UTC),
        log=["log/x", 0, 5, 9],
        created=datetime(2026, 1, 1, tzinfo=UTC),
        id=UUID(int=7),
        commit=Commit(COMMIT, (UUID(int=5), UUID(int=6))),
        back=[Pointer(UUID(int=8), 536870914, 0)],
    ).with_encoding()
    return Head(
        base,
        4,
        2,
        Recent().after(UUID(int=9)).after(COMMIT),
        Ring().after(UUID(int=3), 4, ()),
        (b"one", b"two"),
    )


def test_a_head_comes_back() -> None:
    back = decode_head(encode_head(head()), "head/db", UUID(int=1))
    assert back == head()
    assert encode_head(back) == encode_head(head())


def test_recent_publications_are_bounded_and_found() -> None:
    recent = Recent()
    ids = [UUID(int=i << 60 | i) for i in range(1, 100)]
    for i, id_ in enumerate(ids, 1):
        recent = recent.after(id_)
        assert len(recent) == min(i, RECENT)
        assert id_ in recent
    assert [id_ in recent for id_ in ids] == [i >= 99 - RECENT for i in range(99)]
    # Ids lie at multiples of 16: what spans two of them is none.
    assert UUID(bytes=recent.data[8:24]) not in recent


def test_the_head_of_another_store_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        decode_head(encode_head(head()), "head/db", UUID(int=2))
    assert caught.value.error == ":store-identity-mismatch"


def test_a_newer_head_is_refused_whatever_else_it_holds() -> None:
    fields = unpack(encode_head(head()))
    with pytest.raises(UnsupportedFormat) as caught:
        decode_head(pack([fields[0], FORMAT + 1, "all different"]), "head/db", None)
    assert caught.value.error == ":db-was-written-with-newer-datahike-version"


@pytest.mark.parametrize("bad", [None, "text", pack([1]), pack({"a": 1})])
def test_what_is_no_head_is_corrupt(bad: Any) -> None:
    with pytest.raises(CorruptData, match="head/db"):
        decode_head(bad, "head/db", None)


def test_what_a_newer_version_put_into_a_head_is_carried_on() -> None:
    magic, version, fields = unpack(encode_head(head()))
    base = {**unpack(fields["base"]), "colour": "red"}
    back = decode_head(pack([magic, version, {**fields, "base": pack(base), "size": 3}]), "h", None)
    assert (back.base.extra, back.extra) == ({"colour": "red"}, {"size": 3})
    again = decode_head(encode_head(back), "h", None)
    assert (again.base.extra, again.extra) == ({"colour": "red"}, {"size": 3})
    follower = again.base.followed(id=UUID(int=1))
    assert decode_checkpoint(follower.encoded, "h").extra == {"colour": "red"}


def test_a_head_of_an_older_format_is_refused_by_name() -> None:
    fields = unpack(encode_head(head()))
    with pytest.raises(UnsupportedFormat, match="head/db has format 1"):
        decode_head(pack([fields[0], 1, *fields[2:]]), "head/db", None)


@given(st.lists(st.integers(0, 3), max_size=200), st.integers(-5, 700))
def test_the_newest_checkpoint_before_a_transaction_is_a_few_steps_away(
    gaps: list[int], tx: int
) -> None:
    line = [head().base]
    line[0] = replace(line[0], back=[], trees={"max-tx": 0}).with_encoding()
    for i, gap in enumerate(gaps, 1):
        trees = {"max-tx": line[-1].tx + gap}
        line.append(
            decode_checkpoint(line[-1].followed(id=UUID(int=100 + i), trees=trees).encoded, "h")
        )
    known = {one.id: one for one in line}
    assert [one.pointer.depth for one in line] == list(range(len(line)))
    at, steps = line[-1], 0
    while (pointer := at.towards(tx)) is not None:
        at, steps = known[pointer.id], steps + 1
        assert pointer == at.pointer
    older = [one for one in line if one.tx <= tx]
    assert at.tx == (older[-1] if older else line[0]).tx
    assert steps <= 2 * len(line).bit_length() + 1


def test_each_transaction_of_a_publication_is_a_commit_on_the_one_before() -> None:
    first, second, third = (commit_id(COMMIT, tx) for tx in (5, 6, 7))
    assert len({first, second, third, commit_id(UUID(int=1), 5)}) == 4
    assert [tx_of_commit(one) for one in (first, second, third)] == [5, 6, 7]
    assert {one.version for one in (first, second)} == {8}
    before = Commit(UUID(int=1), (UUID(int=2),))
    assert last_of([first], before.id, [UUID(int=3)]) == (first, (before.id, UUID(int=3)))
    assert last_of([first, second], before.id, [UUID(int=3)]) == (second, (first,))
    assert newest([], before) == before
