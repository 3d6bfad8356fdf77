# SPDX-License-Identifier: Apache-2.0
"""The cache of selections: a selection is found again as long as it holds, and no record longer."""

import gc
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.selectioncache import SelectionCache
from agent.capture.sweepdiff import SweepDiff
from agent.errors import RefusedError
from agent.model import Mode, Snapshot, Tag
from agent.selection import select
from agent.table import wire
from agent.table.objects import CLONE_NEWPID, EXITED, TaskStruct
from exporters.image import checkpoint
from tests.support.examples import unexplained
from tests.support.programs import PROGRAMS, Step, make
from tests.support.watched import Watched, watched


class Scene:
    """A small session, and a process outside of it."""

    def __init__(self) -> None:
        self.pair = Watched()
        self.pair.sweep()
        self.root = self.pair.kernel.fork(self.pair.kernel.init)
        self.pair.kernel.setsid(self.root)
        self.child = self.pair.kernel.fork(self.root)
        self.other = self.pair.kernel.fork(self.pair.kernel.init)
        self.cache = SelectionCache(self.pair.table)

    @property
    def top(self) -> TaskStruct:
        """Return the table's task for the root."""
        return self.pair.task(self.root)


@pytest.fixture
def scene() -> Scene:
    """Return the scene; the table knows all of it."""
    return Scene()


def test_an_answer_that_says_nothing_new_is_no_news(scene: Scene) -> None:
    """It causes no new walk."""
    members = scene.cache.members(scene.top)
    scene.pair.put([scene.pair.table.question(task) for task in members])

    assert scene.cache.members(scene.top) is members


def test_two_trees_asked_for_in_turn_are_both_kept(scene: Scene) -> None:
    """Neither displaces the other, and a change of one leaves the other as it is."""
    other = scene.pair.task(scene.other)
    mine = scene.cache.select(scene.top, "subtree", without_entered=False)
    theirs = scene.cache.select(other, "subtree", without_entered=False)

    assert scene.cache.select(scene.top, "subtree", without_entered=False) is mine
    assert scene.cache.select(other, "subtree", without_entered=False) is theirs

    scene.pair.kernel.fork(scene.other)

    assert scene.cache.select(scene.top, "subtree", without_entered=False) is mine
    assert len(scene.cache.select(other, "subtree", without_entered=False).tasks) == len(theirs.tasks) + 1


def test_what_happens_elsewhere_leaves_walk_and_selection_as_they_are(scene: Scene) -> None:
    """Both are used again."""
    chosen = scene.cache.select(scene.top, "subtree", without_entered=False)
    members = scene.cache.members(scene.top)
    scene.pair.kernel.exit(scene.pair.kernel.fork(scene.other))

    assert scene.cache.members(scene.top) is members
    assert scene.cache.select(scene.top, "subtree", without_entered=False) is chosen


def test_a_tree_that_comes_to_be_what_it_was_has_the_selection_that_it_had(scene: Scene) -> None:
    """A new walk finds the same selection."""
    chosen = scene.cache.select(scene.top, "subtree", without_entered=False)
    members = scene.cache.members(scene.top)
    short = scene.pair.kernel.fork(scene.root)
    scene.pair.kernel.exit(short)
    scene.pair.kernel.wait(scene.root, short)

    assert scene.cache.members(scene.top) is not members
    assert scene.cache.select(scene.top, "subtree", without_entered=False) is chosen


def test_births_name_the_tags_that_there_are_now(scene: Scene) -> None:
    """A task goes, and only the group that a birth names has another tag."""
    kernel = scene.pair.kernel
    middle, last = kernel.fork(scene.root), kernel.fork(scene.root)
    kernel.setpgid(scene.root, last.group, last.pid)
    kernel.setpgid(scene.root, scene.child.group, last.pid)
    born = kernel.fork(scene.child)
    for thread in (scene.child, born):
        kernel.setpgid(thread, thread.group, thread.pid)
    before = scene.cache.select(scene.top, "subtree", without_entered=False).tasks[2]
    kernel.exit(middle)
    kernel.wait(scene.root, middle)
    after = scene.cache.select(scene.top, "subtree", without_entered=False).tasks[2]

    assert before.birth is not None
    assert after == before._replace(birth=before.birth._replace(pgid=Tag(4)))
    assert before.birth.pgid == 5


def test_another_mode_is_another_selection(scene: Scene) -> None:
    """This holds for the same tasks too."""
    chosen = scene.cache.select(scene.top, "subtree", without_entered=False)

    assert scene.cache.select(scene.top, "subtree", without_entered=True) is not chosen


@pytest.mark.parametrize("change", ["fork", "setpgid", "exit"])
def test_a_change_within_the_tree_is_seen_at_once(scene: Scene, change: str) -> None:
    """Walk and selection are made again."""
    chosen = scene.cache.select(scene.top, "subtree", without_entered=False)
    exited = scene.cache.exited(scene.top)
    kernel = scene.pair.kernel
    if change == "fork":
        kernel.fork(scene.child)
    elif change == "setpgid":
        kernel.setpgid(scene.child, scene.child.group, scene.child.pid)
    else:
        kernel.exit(scene.child)
    again = scene.cache.select(scene.top, "subtree", without_entered=False)

    assert again.tasks != chosen.tasks
    assert len(scene.cache.exited(scene.top)) - len(exited) == (change == "exit")


def test_a_stranger_among_the_rows_is_asked_about_until_it_is_known(scene: Scene) -> None:
    """This holds if no other row has changed."""
    scene.cache.differing(scene.pair.kernel.rows(), remember=True)
    with scene.pair.losing():
        stranger = scene.pair.kernel.fork(scene.root)
    questions = [scene.cache.differing(scene.pair.kernel.rows(), remember=True) for _ in range(2)]
    scene.pair.put(questions[0])
    known = scene.cache.differing(scene.pair.kernel.rows(), remember=True)

    assert scene.pair.task(stranger) in scene.cache.members(scene.top)
    assert questions == [[(stranger.address, stranger.start_ns)]] * 2
    assert known == []


def test_who_has_no_row_any_more_is_asked_about(scene: Scene) -> None:
    """Its end was lost; no record has touched any task here."""
    scene.cache.differing(scene.pair.kernel.rows(), remember=True)
    child = scene.pair.task(scene.child)
    with scene.pair.losing():
        scene.pair.kernel.exit(scene.child)
        scene.pair.kernel.wait(scene.root, scene.child)
    questions = scene.cache.differing(scene.pair.kernel.rows(), remember=True)

    assert questions == [(child.address, child.start_ns)]


def test_what_entered_a_container_is_called_what_it_is_called_now(scene: Scene) -> None:
    """It stands beside the tree, and no event tells a new comm."""
    kernel = scene.pair.kernel
    init = kernel.fork(scene.root, CLONE_NEWPID)
    kernel.setsid(init)
    kernel.setns(scene.other, init.space)
    guest = kernel.fork(scene.other)
    kernel.setsid(guest)
    root = scene.pair.task(init)
    before = scene.cache.select(root, "container", without_entered=True).entered
    scene.pair.task(guest).comm = b"renamed"
    scene.pair.table.changes.add(scene.pair.task(guest))
    after = scene.cache.select(root, "container", without_entered=True).entered

    assert ["renamed" in line for line in (*before, *after)] == [False, True]


def plain(chosen: select.Selection) -> tuple[object, ...]:
    """Return the part of a selection that a snapshot takes."""
    return (
        *(chosen.pids, chosen.tasks, chosen.namespaces, chosen.ancestors, chosen.squashed, chosen.entered),
        *(chosen.kernel_workers, chosen.unknown, chosen.outsiders, chosen.inside),
    )


def answer(
    way: Callable[..., select.Selection], root: TaskStruct, mode: Mode, *, without_entered: bool
) -> select.Selection | tuple[str, ...]:
    """Return a selection, or the lines of the refusal."""
    try:
        return way(root, mode, without_entered=without_entered)
    except RefusedError as error:
        return (str(error), *error.leaks)


def snapshot_of(chosen: select.Selection, mode: Mode) -> Snapshot:
    """Return the snapshot of a selection, without host and time."""
    return Snapshot(
        mode=mode,
        time_ns=0,
        pids=chosen.pids,
        tasks=chosen.tasks,
        namespaces=chosen.namespaces,
        ancestors=chosen.ancestors,
        squashed=chosen.squashed,
        entered=chosen.entered,
    )


class Doubled:
    """A cache and a plain search side by side: each lookup is made with both."""

    def __init__(self, pair: Watched, chance: random.Random) -> None:
        self.pair = pair
        self.chance = chance
        self.cache = SelectionCache(pair.table)
        self.writers: dict[TaskStruct, checkpoint.Writer] = {}
        self.last = pair.kernel.rows()

    def look(self) -> None:
        """Select one of a few trees, again and again, and write its image."""
        living = [task for task in self.pair.table.tasks() if task.leader is task]
        if not living:
            return
        roots = [task for task in self.writers if task.pid.task is task][-2:]
        self.writers = {task: self.writers[task] for task in roots}
        if not roots or self.chance.random() < 0.1:
            roots.append(self.chance.choice(living))
        root = self.chance.choice(roots)
        mode: Mode = "subtree" if self.chance.random() < 0.3 else select.resolve_mode(root, "auto")
        without_entered = self.chance.random() < 0.8
        assert self.cache.members(root) == select.members(root)
        assert self.cache.exited(root) == [task for task in select.members(root) if task.flags & EXITED]
        fresh = answer(select.select, root, mode, without_entered=without_entered)
        found = answer(self.cache.select, root, mode, without_entered=without_entered)
        if isinstance(fresh, tuple) or isinstance(found, tuple):
            assert found == fresh
            return
        assert plain(found) == plain(fresh)
        assert all(found.refs(pid) == fresh.refs(pid) for pid in self.pair.table.pids.numbers.values())
        writer = self.writers.setdefault(root, checkpoint.Writer())
        assert writer.dumps(snapshot_of(found, mode)) == checkpoint.dumps(snapshot_of(fresh, mode))

    def walk(self) -> None:
        """Walk over all tasks."""
        table, rows = self.pair.table, self.pair.kernel.rows()
        if self.chance.random() < 0.1:  # as the periodic work does
            self.cache.retain(list(self.writers)[-1:])
        if self.chance.random() < 0.2:  # a stale row, one that is missing, one that is there twice
            at = self.chance.randrange(len(rows) // wire.ROW.size) * wire.ROW.size
            row = self.last[: wire.ROW.size] if self.chance.random() < 0.5 else rows[at : at + wire.ROW.size]
            rows = self.chance.choice([rows + row, rows[:at] + rows[at + wire.ROW.size :], rows[:at] + row + rows[at:]])
        self.last = rows
        noted = dict(table.noted)
        questions = self.cache.differing(rows, remember=True)
        seen = table.unlisted, {task: ties for task, ties in table.noted.items() if task.pid.task is task}
        table.noted = noted
        assert set(questions) == set(SweepDiff(table).differing(rows))
        assert seen == (table.unlisted, table.noted)
        if self.chance.random() < 0.5:
            self.pair.put(questions)


@given(PROGRAMS, st.integers(0, 2**32), st.booleans())
@unexplained
def test_who_remembers_finds_what_everybody_finds(program: list[Step], seed: int, lossy: bool) -> None:  # noqa: FBT001
    """Any records come, some are lost, and lookups come in any order."""
    chance = random.Random(seed)
    pair = watched(pid_max=60, lingers=True)
    doubled = Doubled(pair, chance)

    def deliver(record: bytes) -> None:
        if not lossy or chance.random() > 0.1:
            pair.feed(record)

    pair.kernel.emit = deliver
    for step in program:
        make(pair.kernel, step)
        pair.stream.give_up_below(pair.kernel.writer.seq)
        if chance.random() < 0.5:
            doubled.look()
        if chance.random() < 0.3:
            doubled.walk()
        if chance.random() < 0.2:
            pair.put(pair.table.take_questions())


def rows_of(scene: Scene) -> dict[int, bytes]:
    """Return the rows of a walk, by number."""
    rows = scene.pair.kernel.rows()
    whole = [rows[at : at + wire.ROW.size] for at in range(0, len(rows), wire.ROW.size)]
    return {wire.ROW.unpack(row)[6]: row for row in whole}


def test_a_task_with_two_rows_hides_nobody_who_has_none(scene: Scene) -> None:
    """A task that runs execve() during the kernel's walk may have two rows."""
    rows = rows_of(scene)
    scene.cache.differing(b"".join(rows.values()), remember=True)
    child, twice = rows.pop(scene.child.tid), rows[scene.other.tid]
    assert child
    questions = scene.cache.differing(b"".join([*rows.values(), twice]), remember=True)

    assert questions == [(scene.child.address, scene.child.start_ns)]


def test_a_task_that_had_another_row_too_is_not_missed(scene: Scene) -> None:
    """The next walk has only the first of the two rows."""
    rows = rows_of(scene)
    walk = b"".join(rows.values())
    other = bytearray(rows[scene.child.tid])
    other[-24] ^= 1  # in its comm
    scene.cache.differing(walk, remember=True)
    asked = scene.cache.differing(walk + other, remember=True)
    again = scene.cache.differing(walk, remember=True)

    assert asked == [(scene.child.address, scene.child.start_ns)]
    assert (again, scene.pair.table.unlisted) == ([], set())


def test_what_is_remembered_of_the_gone_is_bounded_by_what_is_there(scene: Scene) -> None:
    """A walk is remembered; then thousands of tasks are born and die before the next walk."""
    kernel = scene.pair.kernel
    scene.cache.differing(kernel.rows(), remember=True)
    for _ in range(3000):
        child = kernel.fork(scene.other)
        scene.cache.note()
        kernel.exit(child)
        kernel.wait(scene.other, child)
    scene.cache.note()
    gc.collect()

    assert sum(isinstance(one, TaskStruct) for one in gc.get_objects()) < 1000


def test_a_question_whose_answer_was_lost_keeps_nobody() -> None:
    """The next sweep drops the question: by then every answer has arrived."""
    pair = watched()
    child = pair.kernel.fork(pair.kernel.init)
    with pair.losing():
        pair.put([pair.table.question(pair.task(child))])
    pair.put(SweepDiff(pair.table).differing(pair.kernel.rows()))
    pair.table.strike_off(pair.stream.next)

    assert not pair.table.unanswered
