# SPDX-License-Identifier: Apache-2.0
"""Packed rows: the bytes are those of the whole list of facts, wherever each row comes from."""

import random
from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agent.model import OUTSIDE, Birth, Creator, Snapshot, Tag, Task
from exporters.content.facts import facts, task_facts
from exporters.image.packed import pack
from exporters.image.packedrows import PackedRows, pack_pid_facts
from tests.support.builders import a_task, snapshots
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


@given(
    numbers=st.lists(st.sampled_from([None, 0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**63]), min_size=1),
    rows=st.integers(1, 30),
    mixed=st.booleans(),
)
@patient
def test_a_run_of_rows_that_differ_in_their_numbers_alone_has_the_bytes_of_the_list(
    numbers: list[int | None], rows: int, *, mixed: bool
) -> None:
    """A number takes one to nine bytes; None takes one."""
    tasks, creator = [], Creator(Tag(1), None)
    for place in range(rows):
        number = numbers[place % len(numbers) if mixed else 0]
        order = number + place if number is not None and number < 2**63 else number
        birth = Birth(creator, True, Tag(1), Tag(1), (), order)
        start_ns = (numbers[-1] or 0) + place
        tasks.append(a_task(place + 2, 1, comm=b"one", start_ns=start_ns, birth=birth))
    packed = PackedRows(tasks)

    assert packed.data == whole(tasks)
    assert [packed.data[begin:end] for begin, end in pairwise(packed.ends)] == [pack(row) for row in task_facts(tasks)]
