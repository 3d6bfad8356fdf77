# SPDX-License-Identifier: Apache-2.0
"""The work that this process does while the helper makes a tree."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.restart.planning.plan import Op
from agent.restart.rebuild.coordinator import Rebuild
from tests.live.rebuilds import assert_gone
from tests.support.plans import PlanWriter


def maps(pid: int) -> str:
    """Return the map of a process's memory."""
    return Path(f"/proc/{pid}/maps").read_text()


def test_the_first_process_that_is_shown_has_the_memory_that_all_have_when_the_tree_stands() -> None:
    """The programs of contents are made for addresses that are free in it."""
    writer = PlanWriter()
    root = writer.actor(1)
    tasks = [writer.born(root, number) for number in range(10, 40)]
    seen: list[tuple[int, str]] = []

    def work() -> Iterator[bool]:
        while not made.born():
            yield False
        seen.append((made.born(), maps(made.born())))

    with Rebuild(writer.activated().plan()) as made:
        begun = work()
        made.build(work=begun)
        made.activate(begun)

        assert next(begun, None) is None
        assert seen[0][0] in (made.pids[root], made.pids[tasks[0]])
        assert {maps(made.pids[task]) for task in (root, *tasks)} == {seen[0][1]}


def test_work_that_fails_takes_the_unfinished_tree_down() -> None:
    """Here the tree would never stand."""
    writer = PlanWriter()
    root = writer.actor(1)
    child = writer.born(root, 10)
    writer.step(Op.REAP, root, child)
    seen: list[int] = []

    def work() -> Iterator[bool]:
        while not made.born():
            yield False
        seen.append(made.born())
        yield True
        raise ValueError("a program cannot be made")

    with pytest.raises(ValueError, match="cannot be made"), Rebuild(writer.activated().plan()) as made:
        made.build(work=work())

    assert len(seen) == 1
    assert_gone([made.guard, *seen])


def test_a_tree_of_one_process_is_shown_when_it_stands() -> None:
    """Until then that process sets up what others would inherit."""
    writer = PlanWriter()
    writer.actor(1)
    with Rebuild(writer.activated().plan()) as made:
        assert made.born() == 0
        made.build()
        assert made.born() == made.pids[0]
