# SPDX-License-Identifier: Apache-2.0
"""Image -> snapshot -> each lossless format -> image: the same bytes, of small trees, large ones and random ones.

tests/live does the same with trees of real kernels.
"""

import pytest
from hypothesis import given

from agent.model import Snapshot
from tests.support.builders import a_crowd, a_family, a_snapshot, a_task, snapshots
from tests.support.examples import patient, unexplained
from tests.support.programs import PROGRAMS, Step, played
from tests.support.roundtrip import assert_comes_back
from tests.unit.exporters.test_check_trees import captured

PAGE_BYTES = 4096
PIDS, NESTED, TASKS = PAGE_BYTES // 8, PAGE_BYTES // 12, PAGE_BYTES // 24


def test_a_tree_with_one_of_everything_comes_back() -> None:
    """The tree has threads, a namespace, a zombie, a ghost, and an ancestor."""
    assert_comes_back(a_family())


@pytest.mark.parametrize("pids", [PIDS - 1, PIDS, PIDS + 1, 600, 2 * PIDS])
def test_pids_come_back_around_the_end_of_a_page_and_beyond(pids: int) -> None:
    """The kernel patch of 2011 could not read more than one page."""
    assert_comes_back(a_crowd(3, pids - 3), sound=False)  # the group of the root is outside


@pytest.mark.parametrize("pids", [NESTED - 1, NESTED, NESTED + 1, 400])
def test_nested_pids_come_back_around_the_end_of_a_page_and_beyond(pids: int) -> None:
    """The length of their rows does not divide a page."""
    nested = [a_task(tag, 1, depth=1) for tag in range(2, pids + 1)]

    assert_comes_back(
        a_snapshot([(100,), *[(99 + tag, tag - 1) for tag in range(2, pids + 1)]], [a_task(1, 0), *nested])
    )


@pytest.mark.parametrize("tasks", [TASKS - 1, TASKS, TASKS + 1, 200, 2 * TASKS + 1])
def test_tasks_come_back_around_the_end_of_a_page_and_beyond(tasks: int) -> None:
    """The kernel patch of 2011 wrote the first tasks again after the end of a page."""
    assert_comes_back(a_crowd(tasks))


@patient
@given(snapshots())
def test_any_snapshot_comes_back(snapshot: Snapshot) -> None:
    """The snapshot need not be one that a kernel would make."""
    assert_comes_back(snapshot, sound=False)


@given(PROGRAMS)
@unexplained
def test_any_tree_of_a_kernel_comes_back(program: list[Step]) -> None:
    """The tree is captured on a simulated kernel, at every process, after random system calls."""
    pair = played(program, pid_max=60)
    for thread in [thread for thread in pair.kernel.threads if thread.leads]:
        root = pair.table.task(thread.tid)
        snapshot = captured(root, "subtree") if root else None
        if snapshot:
            assert_comes_back(snapshot)
