"""Pull: recursion, its depths and its cycles."""

from __future__ import annotations

import pytest

from datahike_async.database import Database, init_db
from datahike_async.errors import QueryError
from datahike_async.query.pulling import execute as pull_execute
from tests.query.household import SCHEMA, household

pytestmark = pytest.mark.anyio


@pytest.fixture
def db() -> Database:
    return household()


# -- recursion ---------------------------------------------------------------------------------

CHAIN = {
    ":db/id": 4,
    ":name": "Dina",
    ":knows": [
        {
            ":db/id": 5,
            ":name": "Emil",
            ":knows": [
                {
                    ":db/id": 6,
                    ":name": "Fay",
                    ":knows": [
                        {
                            ":db/id": 7,
                            ":name": "Gus",
                            ":knows": [{":db/id": 8, ":name": "Hal"}],
                        }
                    ],
                }
            ],
        }
    ],
}


async def test_recursion_without_end(db: Database) -> None:
    assert await db.pull("[:db/id :name {:knows ...}]", 4) == CHAIN
    assert await db.pull([":db/id", ":name", {":knows": "..."}], 4) == CHAIN
    assert await db.pull("[:name {:boss ...}]", 6) == {
        ":name": "Fay",
        ":boss": {":name": "Cleo", ":boss": {":name": "Ada"}},
    }
    assert await db.pull("[:name {:_boss ...}]", 1) == {
        ":name": "Ada",
        ":_boss": [{":name": "Ben"}, {":name": "Cleo", ":_boss": [{":name": "Fay"}]}],
    }


async def test_recursion_to_a_depth(db: Database) -> None:
    assert await db.pull("[:name {:knows 1}]", 4) == {
        ":name": "Dina",
        ":knows": [{":name": "Emil"}],
    }
    assert await db.pull("[:name {:knows 2}]", 4) == {
        ":name": "Dina",
        ":knows": [{":name": "Emil", ":knows": [{":name": "Fay"}]}],
    }


async def test_depths_of_several_recursions_count_along_the_path(db: Database) -> None:
    hal = {":name": "Hal"}
    assert await db.pull("[:name {:knows 2 :rival 2}]", 4) == {
        ":name": "Dina",
        ":knows": [
            {
                ":name": "Emil",
                ":knows": [{":name": "Fay", ":rival": [hal]}],
                ":rival": [
                    {
                        ":name": "Gus",
                        ":knows": [hal],
                        ":rival": [{":name": "Dina", ":knows": [{":db/id": 5}]}],
                    }
                ],
            }
        ],
        ":rival": [
            {
                ":name": "Fay",
                ":knows": [
                    {
                        ":name": "Gus",
                        ":knows": [hal],
                        ":rival": [{":name": "Dina", ":knows": [{":name": "Emil"}]}],
                    }
                ],
                ":rival": [hal],
            }
        ],
    }


async def test_a_cycle_is_cut_where_it_was_entered(db: Database) -> None:
    db = await db.db_with([[":db/add", 8, ":knows", 4]])
    found = await db.pull("[:db/id :name {:knows ...}]", 4)
    for _ in range(5):
        (found,) = found[":knows"]
    # The root was not entered by recursion, so it comes once more.
    assert found == {":db/id": 4, ":name": "Dina", ":knows": [{":db/id": 5}]}
    own = init_db([(1, ":knows", 1), (1, ":name", "Solo")], SCHEMA)
    assert await own.pull("[:name {:knows ...}]", 1) == {
        ":name": "Solo",
        ":knows": [{":name": "Solo", ":knows": [{":db/id": 1}]}],
    }


async def test_paths_are_cut_one_by_one() -> None:
    # 4 is reached by two ways and shown on both.
    edges = [(1, 2), (1, 3), (2, 4), (3, 4)]
    db = init_db([(a, ":knows", b) for a, b in edges] + [(4, ":name", "end")], SCHEMA)
    assert await db.pull("[:name {:knows ...}]", 1) == {
        ":knows": [{":knows": [{":name": "end"}]}, {":knows": [{":name": "end"}]}]
    }


async def test_recursion_inside_a_wildcard_and_a_sub_pattern(db: Database) -> None:
    assert await db.pull("[* {:boss ...}]", 6) == {
        ":db/id": 6,
        ":name": "Fay",
        ":knows": [{":db/id": 7}],
        ":rival": [{":db/id": 8}],
        ":boss": {
            ":db/id": 3,
            ":name": "Cleo",
            ":boss": {
                ":db/id": 1,
                ":name": "Ada",
                ":nick": ["Byron", "Lace"],
                ":email": "ada@x",
                ":pupil": [{":db/id": 2}, {":db/id": 3}],
            },
        },
    }
    assert await db.pull("[{:_boss [:name {:_boss ...}]}]", 1) == {
        ":_boss": [{":name": "Ben"}, {":name": "Cleo", ":_boss": [{":name": "Fay"}]}]
    }
    # Every sub-pattern starts its own recursion.
    assert await db.pull("[:name {:knows 1 :rival [:name {:knows 1}]}]", 4) == {
        ":name": "Dina",
        ":knows": [{":name": "Emil", ":rival": [{":name": "Gus", ":knows": [{":name": "Hal"}]}]}],
        ":rival": [{":name": "Fay", ":knows": [{":name": "Gus"}]}],
    }


async def test_depth_costs_no_stack() -> None:
    deep = 5000
    db = init_db([(i, ":knows", i + 1) for i in range(1, deep)] + [(deep, ":name", "end")], SCHEMA)
    found = await db.pull("[:name {:knows ...}]", 1)
    for _ in range(deep - 1):
        (found,) = found[":knows"]
    assert found == {":name": "end"}


async def test_a_dense_graph_is_refused_not_walked_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pull_execute, "MAX_MAPS", 5000)
    db = init_db([(a, ":knows", b) for a in range(1, 31) for b in range(1, 31)], SCHEMA)
    with pytest.raises(QueryError, match="depth") as caught:
        await db.pull("[{:knows ...}]", 1)
    assert caught.value.error == ":pull/too-large"
    assert len((await db.pull("[{:knows 1}]", 1))[":knows"]) == 0
