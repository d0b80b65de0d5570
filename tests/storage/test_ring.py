"""The ring of writers in a head: who is next, who is left out, and that all get their shares."""

from __future__ import annotations

import random
from uuid import UUID

from datahike_async.storage.branches.ring import Ring

A, B, C, D = (UUID(int=n) for n in range(1, 5))


def test_who_published_longest_ago_is_next() -> None:
    ring = Ring().after(A, 1, ()).after(B, 2, ()).after(C, 3, ())
    assert ring.ahead(A, 3) == []
    assert ring.ahead(B, 3) == [A]
    assert ring.ahead(C, 3) == [A, B]
    assert ring.after(A, 4, ()).ahead(B, 4) == []


def test_a_newcomer_waits_for_those_who_waited_longer_and_for_nobody_twice() -> None:
    ring = Ring().after(A, 1, ()).after(B, 2, ())
    assert ring.ahead(C, 2) == [A]
    ring = ring.after(A, 3, ())
    assert ring.ahead(C, 2) == []
    assert ring.after(B, 4, ()).ahead(C, 2) == []


def test_who_did_not_come_is_left_out_until_it_publishes_again() -> None:
    ring = Ring().after(A, 1, ()).after(B, 2, ())
    ring = ring.after(B, 3, gone=[A])
    assert A not in ring
    assert ring.ahead(B, 3) == []
    assert A in ring.after(A, 4, ())


def test_a_ring_has_an_end_and_forgets_who_was_not_heard_of_for_long() -> None:
    ring = Ring()
    for n in range(1, 100):
        ring = ring.after(UUID(int=n), n, ())
    assert len(ring.members) == 16
    assert ring.ahead(UUID(int=99), 99)[0] == UUID(int=84)
    assert ring.after(A, 1000, ()).members == ((A, 1000),)


def test_writers_of_any_speed_get_equal_shares() -> None:
    chance = random.Random(7)
    ring, generation = Ring(), 4
    since = {A: 1, B: 2, C: 3, D: 4}
    for writer, last in since.items():
        ring = ring.after(writer, last, ())
    done = dict.fromkeys(since, 0)
    for _ in range(4000):
        # Some are faster to try; who tries too early waits.
        writer = chance.choices(list(since), [50, 10, 3, 1])[0]
        if not ring.ahead(writer, since[writer]):
            generation += 1
            ring = ring.after(writer, generation, ())
            since[writer] = generation
            done[writer] += 1
    assert min(done.values()) > 20
    assert max(done.values()) - min(done.values()) <= 1


def test_a_writer_that_knows_of_no_other_says_when_it_leaves_a_gap() -> None:
    ring = Ring().alone(A, 1, 3)
    assert ring.gap(B, 1) == 3
    assert ring.gap(A, 1) == 0
    assert ring.alone(A, 4, 0).gap(B, 4) == 0
    # Nobody waits for it, and it has its place once it is one of several.
    assert ring.ahead(B, 1) == []
    ring = ring.after(B, 5, ())
    assert ring.gap(C, 5) == 0
    assert ring.after(A, 6, ()).ahead(A, 6) == [B]


def test_a_gap_is_left_by_one_writer_and_kept_for_nobody_who_is_gone() -> None:
    ring = Ring().alone(A, 1, 30)
    assert ring.alone(B, 2, 4).members == ((B, 6),)
    ring = Ring().after(A, 1, ()).after(B, 2, ())
    assert ring.alone(C, 3, 4) == ring
    assert ring.alone(B, 3, 4) == ring.after(B, 3, ())
    assert ring.alone(B, 40, 4).members == ((B, 44),)


def test_it_survives_being_stored() -> None:
    ring = Ring().after(A, 1, ()).after(B, 2, ())
    assert Ring.from_data(ring.to_data()) == ring
