# SPDX-License-Identifier: Apache-2.0
"""Packed rows: the bytes are those of the whole list of facts, wherever each row comes from."""

import random
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from agent.model import OUTSIDE, Creator, Snapshot, Tag, Task
from exporters.content.facts import facts, task_facts
from exporters.image.packed import pack
from exporters.image.packedrows import PackedRows, pack_pid_facts
from tests.support.builders import snapshots
from tests.support.examples import patient


def whole(tasks: Sequence[Task]) -> bytes:
    """Return the facts of tasks, packed at once."""
    return pack(task_facts(tasks))


@given(snapshots())
@patient
def test_rows_packed_one_by_one_are_the_list_packed_at_once(snapshot: Snapshot) -> None:
    """Pid objects too."""
    assert PackedRows(snapshot.tasks).data == whole(snapshot.tasks)
    assert pack_pid_facts(snapshot.pids) == pack(facts(snapshot)["pids"])


@given(snapshots(), snapshots(), st.integers(0, 2**32))
@patient
def test_rows_beside_an_earlier_image_are_those_without_it(one: Snapshot, other: Snapshot, seed: int) -> None:
    """Rows go, come, stand elsewhere, have other tags, another birth or another fact."""
    chance = random.Random(seed)
    packed, rows = PackedRows(one.tasks), list(one.tasks)
    for _ in range(6):
        for _ in range(chance.randrange(4)):
            place = chance.randrange(len(rows)) if rows else 0
            change = chance.randrange(6)
            if change == 0 or not rows:
                rows.insert(place, chance.choice(other.tasks))
            elif change == 1:
                del rows[place]
            elif change == 2:
                rows.insert(chance.randrange(len(rows)), rows.pop(place))
            elif change == 3:
                rows[place] = rows[place]._replace(pid=Tag(chance.randrange(99)), pgid=OUTSIDE)
            elif change == 4:
                rows[place] = rows[place]._replace(comm=chance.randbytes(3), uid=chance.randrange(3))
            elif (birth := rows[place].birth) is not None:
                creator = chance.choice([None, Creator(Tag(chance.randrange(300)), None), Creator(None, 7)])
                rows[place] = rows[place]._replace(birth=birth._replace(creator=creator))
        packed = PackedRows(list(rows), packed)

        assert packed.data == whole(rows)
