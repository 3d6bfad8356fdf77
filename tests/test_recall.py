# SPDX-License-Identifier: Apache-2.0
"""What was found in the table once is found again, as long as it is still so, and not a record longer."""

import pytest

from agent.objects import Task
from agent.recall import Recall
from tests.watched import Watched


class Scene:
    """A small session, and somebody else."""

    def __init__(self) -> None:
        self.pair = Watched()
        self.pair.sweep()
        self.root = self.pair.kernel.fork(self.pair.kernel.init)
        self.pair.kernel.setsid(self.root)
        self.child = self.pair.kernel.fork(self.root)
        self.other = self.pair.kernel.fork(self.pair.kernel.init)
        self.recall = Recall(self.pair.table, self.pair.stream)

    @property
    def top(self) -> Task:
        """The table's view of the root."""
        return self.pair.task(self.root)


@pytest.fixture
def scene() -> Scene:
    """All known to the table."""
    return Scene()


def test_an_answer_that_says_nothing_new_is_no_news(scene: Scene) -> None:
    """Nor does it make anybody walk again."""
    news, members = scene.recall.news, scene.recall.members(scene.top)
    scene.pair.put([scene.pair.table.question(task) for task in members])

    assert scene.recall.news == news
    assert scene.recall.members(scene.top) is members


def test_what_happens_elsewhere_leaves_a_selection_as_it_is(scene: Scene) -> None:
    """The tree is walked again, and found to be the same."""
    chosen = scene.recall.select(scene.top, "subtree", without_entered=False)
    members = scene.recall.members(scene.top)
    scene.pair.kernel.fork(scene.other)

    assert scene.recall.members(scene.top) is not members
    assert scene.recall.select(scene.top, "subtree", without_entered=False) is chosen


def test_another_mode_is_another_selection(scene: Scene) -> None:
    """Though of the same tasks."""
    chosen = scene.recall.select(scene.top, "subtree", without_entered=False)

    assert scene.recall.select(scene.top, "subtree", without_entered=True) is not chosen


@pytest.mark.parametrize("change", ["fork", "setpgid", "exit"])
def test_a_change_within_the_tree_is_seen_at_once(scene: Scene, change: str) -> None:
    """By walk and selection."""
    chosen = scene.recall.select(scene.top, "subtree", without_entered=False)
    exited = scene.recall.exited(scene.top)
    kernel = scene.pair.kernel
    if change == "fork":
        kernel.fork(scene.child)
    elif change == "setpgid":
        kernel.setpgid(scene.child, scene.child.group, scene.child.pid)
    else:
        kernel.exit(scene.child)
    again = scene.recall.select(scene.top, "subtree", without_entered=False)

    assert again.tasks != chosen.tasks
    assert len(scene.recall.exited(scene.top)) - len(exited) == (change == "exit")


def test_the_same_rows_give_reason_for_the_same_questions(scene: Scene) -> None:
    """With the same table; a stranger among the rows is asked about until it is known."""
    rows = scene.pair.kernel.rows()
    assert scene.recall.differing(rows) == scene.recall.differing(rows) == scene.pair.table.differing(rows)
    with scene.pair.losing():
        stranger = scene.pair.kernel.fork(scene.root)
    rows = scene.pair.kernel.rows()
    questions = scene.recall.differing(rows)
    scene.pair.put(questions)

    assert scene.pair.task(stranger) in scene.recall.members(scene.top)
