# SPDX-License-Identifier: Apache-2.0
"""A watch over a simulated kernel that skips program runs: a skipped run leaves neither a record nor a number."""

from collections.abc import Callable
from unittest.mock import patch

import pytest

from agent.capture.memoryreader import UnusableMemoryError
from agent.capture.snapshots import Snapshots
from agent.capture.watch import Watch
from agent.errors import BusyError
from agent.model import OutsidePid, Snapshot
from agent.rootname import parse
from agent.table.objects import AUTOREAP
from tests.support.kernelobjects import Thread
from tests.support.kernelsim import Kernel
from tests.support.simwatch import SimProbes, SimRing, a_plain_host, a_watch


class Scene:
    """A session with some children, and many tasks beside it."""

    def __init__(self) -> None:
        self.kernel = Kernel(lambda _: None)
        self.root = self.kernel.fork(self.kernel.init)
        self.kernel.setsid(self.root)
        self.kernel.subreaper(self.root)
        self.others = self.kernel.fork(self.kernel.init)
        for parent, count in ((self.root, 3), (self.others, 60)):
            for _ in range(count):
                self.kernel.fork(parent)
        self.skips = 0
        with patch.object(SimProbes, "skipped", lambda _: self.skips):
            self.watch = a_watch(self.kernel)
        with a_plain_host():
            self.snapshots = Snapshots(self.watch)
        self.watch.probes.skipped = lambda: self.skips  # type: ignore[method-assign]  # a probe of this test's own

    def skipped(self, call: Callable[[], Thread]) -> Thread:
        """Make a call whose programs the kernel skips."""
        emit, seq = self.kernel.emit, self.kernel.writer.seq
        self.kernel.emit = lambda _: None
        made = call()
        self.kernel.emit, self.kernel.writer.seq = emit, seq
        self.skips += 1
        return made

    def skipped_behind_a_walk(self) -> None:
        """Let a process be born unseen behind the next walk over all tasks."""

        def rows() -> bytes:
            found = self.kernel.rows()
            self.watch.probes.rows = self.kernel.rows  # type: ignore[method-assign]  # as above
            self.skipped(lambda: self.kernel.fork(self.root))
            return found

        self.watch.probes.rows = rows  # type: ignore[method-assign]  # as above

    def snapshot(self, root: Thread) -> Snapshot:
        """Take a snapshot."""
        return self.snapshots.take(self.snapshots.find(parse(str(root.tid))))


def a_loss(scene: Scene) -> None:
    """Lose a record, so that the snapshot itself has to sweep."""
    scene.skipped_behind_a_walk()
    scene.skips += 1


def a_rest(scene: Scene) -> None:
    """Let the time for a sweep come."""
    scene.skipped_behind_a_walk()
    scene.snapshots.rest()


def a_rest_that_keeps_the_trees(scene: Scene) -> None:
    """Let that time come while clients ask for the trees again and again."""
    scene.skipped_behind_a_walk()
    scene.snapshots.rest(scene.watch.table.tasks())


def another_snapshot(scene: Scene) -> None:
    """Take another snapshot, of a tree so large that it takes a sweep, and in which a row differs."""
    scene.snapshot(scene.others)
    next(thread for thread in scene.kernel.threads if thread.group.parent is scene.others).ids = (7, 7)
    scene.skipped_behind_a_walk()
    scene.snapshot(scene.others)


@pytest.mark.parametrize("reason", [a_loss, a_rest, a_rest_that_keeps_the_trees, another_snapshot])
def test_what_is_skipped_behind_a_sweeps_walk_is_found_by_the_next_one(reason: Callable[[Scene], None]) -> None:
    """This holds for any reason of the sweep: no snapshot is called complete before the next one."""
    scene = Scene()
    reason(scene)
    snapshot = scene.snapshot(scene.root)

    children = [thread for thread in scene.kernel.threads if thread.group.parent is scene.root]
    assert len(children) == 4
    assert [snapshot.number(task.pid) for task in snapshot.tasks[1:]] == sorted(thread.tid for thread in children)


def test_two_snapshots_of_one_instant_differ_in_the_anomalies_that_they_healed() -> None:
    """So `anomalies`, like `sweeps`, is no fact of the instant, and a snapshot out of a recording has none."""
    scene = Scene()
    child = next(thread for thread in scene.kernel.threads if thread.group.parent is scene.others)
    scene.kernel.setsid(child, quiet=True)
    first, second = scene.snapshot(scene.others).completeness, scene.snapshot(scene.others).completeness

    assert (first.verified, second.verified) == ("sweep", "sweep")
    assert first.order == second.order
    assert (first.anomalies, second.anomalies) == (1, 0)
    assert first.sweeps < second.sweeps


def test_births_name_the_living_pid_object_also_where_a_skipped_one_was_heard_of_by_chance() -> None:
    """The table took the session for unused; then a record named a member of it, and no row differs."""
    scene = Scene()
    kernel = scene.kernel
    for _ in range(100):
        kernel.fork(scene.root)
    leader = kernel.fork(scene.root)
    kernel.setsid(leader)
    first = kernel.fork(leader)
    scene.snapshot(scene.root)
    kernel.setsid(first)
    second = scene.skipped(lambda: kernel.fork(leader))
    kernel.exit(leader)
    kernel.wait(scene.root, leader)
    scene.watch.drain()
    kernel.exec(second)
    scene.watch.drain()
    snapshot = scene.snapshot(scene.root)
    rows = {snapshot.number(task.pid): task for task in snapshot.tasks}
    born = rows[first.tid].birth

    assert born is not None
    assert not isinstance(born.sid, OutsidePid)
    assert born.sid == rows[second.tid].sid


class Clock:
    """A clock that moves at each reading."""

    def __init__(self, step_s: float) -> None:
        self.now_s = 0.0
        self._step_s = step_s

    def monotonic(self) -> float:
        """Return the time, as time.monotonic does."""
        self.now_s += self._step_s
        return self.now_s


class FloodedRing(SimRing):
    """A ring into which more comes than its reader takes, which gets little time: no record that is wanted is reached.

    Args:
        clock: moves as it is read.
    """

    PART_S = 0.1
    pending = 1 << 30

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def drain(self, _feed: Callable[[bytes, int], None], limit: int = 1 << 62) -> int:
        """Pass over records that others have discarded."""
        self._clock.now_s += self.PART_S
        return limit


def test_a_snapshot_on_a_host_that_is_too_busy_says_so_and_does_not_go_on_and_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Answers lead to questions, and these to further answers, without end."""
    scene = Scene()
    kernel, clock, asked = scene.kernel, Clock(0.05), []

    def ask(address: int, start_ns: int) -> None:
        asked.append(address)
        kernel.answer(address, start_ns)
        scene.watch.table.doubts.update(dict.fromkeys(scene.watch.table.tasks()))

    scene.watch.probes.ask = ask  # type: ignore[assignment]  # a probe of this test's own
    monkeypatch.setattr("agent.capture.watch.time.monotonic", clock.monotonic)
    monkeypatch.setattr("agent.capture.watch._ASK_AT_ONCE", 10)
    snapshot = scene.snapshot(scene.root)

    assert snapshot.completeness.verified == "no"
    assert not snapshot.completeness.complete
    assert clock.now_s < 4
    assert len(asked) < 1000


def test_a_watch_that_gets_no_time_to_catch_up_answers_within_its_patience_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The daemon is starved of the CPU: an unknown number may be that of any user's task, so ownership is not
    certain.
    """
    scene, clock = Scene(), Clock(0)
    root = scene.snapshots.find(parse(str(scene.root.tid)))
    scene.watch.probes.ring = FloodedRing(clock)  # type: ignore[assignment]  # it has the interface
    scene.kernel.fork(scene.root)
    monkeypatch.setattr("agent.capture.watch.time.monotonic", clock.monotonic)
    snapshot = scene.snapshots.take(root)

    assert clock.now_s == pytest.approx(2, abs=2 * FloodedRing.PART_S)
    assert not snapshot.completeness.complete
    assert scene.snapshots.find(parse(str(scene.root.tid))) is root
    for ask in (
        lambda: scene.snapshots.find(parse("99999")),
        lambda: scene.snapshots.caller(99999),
        lambda: scene.snapshots.take(root, sees=lambda _: True),
    ):
        with pytest.raises(BusyError, match="try again"):
            ask()


def births_of(watch: Watch, root: Thread) -> list[bool]:
    """Return, for each task below a root, True if the watch has seen its birth."""
    with a_plain_host():
        snapshots = Snapshots(watch)
    taken = snapshots.take(snapshots.find(parse(str(root.tid))))
    return [task.birth is not None and task.birth.observed for task in taken.tasks]


def test_a_watch_goes_on_where_the_last_one_has_stopped() -> None:
    """It knows the births of before, and reads the records that have come since."""
    scene = Scene()
    scene.kernel.fork(scene.root)
    scene.watch.catch_up()
    left = scene.watch.memory()
    scene.kernel.fork(scene.root)
    watch = Watch.resume(scene.watch.probes, left)

    assert watch.remembers
    assert watch.totals.sweeps == scene.watch.totals.sweeps + 1
    assert births_of(watch, scene.root)[-2:] == [True, True]


@pytest.mark.parametrize(("damage", "why"), [(b"", "stale"), (b"x", "bytes")])
def test_a_memory_of_no_use_is_refused_and_a_watch_begins_without_it(damage: bytes, why: str) -> None:
    """The memory may be damaged, or another watch has read on from its place."""
    scene = Scene()
    left = scene.watch.memory() + damage
    scene.kernel.fork(scene.root)
    scene.watch.catch_up()
    scene.watch.probes.is_taken_over = True  # else nobody has left a memory
    with pytest.raises(UnusableMemoryError, match=why):
        Watch.resume(scene.watch.probes, left)
    watch = Watch.begin(scene.watch.probes)

    assert not watch.remembers
    assert births_of(watch, scene.root)[-1] is False


def test_a_sweep_beside_the_loop_is_given_up_and_has_longer_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait for it; a sweep that never has enough time would never end."""
    scene, clock, given = Scene(), Clock(0), list[int]()
    ring = scene.watch.probes.ring
    scene.watch.probes.ring = FloodedRing(clock)  # type: ignore[assignment]  # it has the interface
    scene.kernel.fork(scene.root)
    monkeypatch.setattr("agent.capture.watch.time.monotonic", clock.monotonic)
    for _ in range(4):
        begun_s = clock.now_s
        scene.watch.mend()
        given.append(round(clock.now_s - begun_s))

    assert given == [5, 10, 20, 20]
    assert scene.watch.is_in_doubt
    scene.watch.probes.ring = ring
    scene.watch.mend()
    assert not scene.watch.is_in_doubt


def test_a_zombie_that_may_have_gone_unseen_makes_a_snapshot_incomplete() -> None:
    """It may vanish without an event, and other events happen during each question about it."""
    scene = Scene()
    kernel = scene.kernel
    zombie = kernel.fork(scene.root)
    kernel.exit(zombie)
    scene.watch.drain()
    known = scene.watch.table.task(zombie.tid)
    assert known is not None
    known.flags |= AUTOREAP
    calm = scene.snapshot(scene.root)
    known.flags |= AUTOREAP

    def ask(address: int, start_ns: int) -> None:
        kernel.answer(address, start_ns)
        kernel.setpgid(scene.others, scene.others.group, scene.others.pid)

    scene.watch.probes.ask = ask  # type: ignore[assignment]  # a probe of this test's own
    busy = scene.snapshot(scene.root)

    assert calm.completeness.complete
    assert busy.completeness.reasons == ("a zombie that no parent waits for may have gone meanwhile: take it again",)


def test_who_was_born_unheard_of_is_found_all_the_same() -> None:
    """The record of its birth was lost, and no sweep has come since."""
    scene = Scene()
    kernel = scene.kernel
    before = kernel.fork(scene.root)
    kernel.exit(before)
    kernel.wait(scene.root, before)
    scene.watch.drain()
    child = scene.skipped(lambda: kernel.fork(scene.root))
    scene.watch.stream.suspect = True
    snapshot = scene.snapshot(child)

    assert snapshot.tasks[0].start_ns == child.start_ns
