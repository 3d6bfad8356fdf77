# SPDX-License-Identifier: Apache-2.0
"""A tree kept by a first snapshot and events alone, compared with fresh snapshots."""

import os
import random
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.daemon.asker import Asker
from agent.errors import NoSuchRootError
from agent.protocol import codec
from agent.protocol.client import Subscription as Heard
from agent.protocol.livetree import LiveTree
from agent.protocol.replies import answer_of, event_of
from tests.support.examples import examples, unexplained
from tests.support.kernelobjects import Thread
from tests.support.programs import CALLS, NAMES, Step, choose, finish
from tests.support.simwatch import ROOT, Scene


class Follower:
    """A tree kept by the events of a subscription, and its reference.

    Args:
        scene: the kernel and its service.
        root: the topmost process.
        caller: the subscriber; None: a process in the initial namespace.
    """

    def __init__(self, scene: Scene, root: Thread, caller: Thread | None = None) -> None:
        self.scene = scene
        self.asker = Asker(ROOT if caller is None else scene.viewer(caller, privileged=True))
        number = root.tid if caller is None else root.pid.seen_from(caller.space)
        answer = scene.service.answer({"verb": "subscribe", "root": str(number)}, self.asker)
        codec.raise_failure(answer)
        heard = Heard.__new__(Heard)
        heard.snapshot, heard.ids, heard.order = answer_of(answer, answer["snapshot"]), answer["ids"], answer["order"]
        self.tree = LiveTree.of(heard)
        self.waiting: list[Any] = []

    def hear(self, below: int | None = None) -> None:
        """Apply the waiting events; with a number, only events of smaller numbers."""
        subscription = self.asker.subscription
        assert subscription is not None
        if subscription.waiting:
            message = msgpack.unpackb(b"".join(subscription.take(self.scene.watch.stream.next)))
            self.waiting += map(event_of, message["events"])
        orders = [event.order for event in self.waiting]
        assert orders == sorted(orders)
        while self.waiting and (below is None or self.waiting[0].order < below):
            self.tree.apply(self.waiting.pop(0))

    def agree(self) -> None:
        """Assert that a fresh snapshot shows the state that the events gave."""
        subscription = self.asker.subscription
        assert subscription is not None
        (root,) = subscription.roots
        self.scene.service.feed.settle()
        if not subscription.ended:
            try:
                snapshot = self.scene.service.snapshots.take(root, "subtree")
            except NoSuchRootError:
                return
            self.hear(below=snapshot.completeness.order)
            assert self.tree.differences(snapshot) == []
            assert self.tree.unheard == 0
            self.hear()


def _quiet_setsid(scene: Scene, thread: Thread, _other: int) -> None:
    """Run setsid() by int 0x80, which has no record."""
    group = thread.group
    if not any(t.group.pgid is group.leader.pid for t in scene.kernel.threads):
        scene.kernel.setsid(thread, quiet=True)


def _quiet_setpgid(scene: Scene, thread: Thread, other: int) -> None:
    """Run setpgid() by int 0x80, or on a child of another thread, whose record has no name."""
    kernel = scene.kernel
    mine = [t.group for t in kernel.threads if t.leads and t.group.parent and t.group.parent.group is thread.group]
    target = choose([*mine, thread.group], other)
    if target.sid is thread.group.sid and target.sid is not target.leader.pid:
        groups = [target.leader.pid] + [t.group.pgid for t in kernel.threads if t.group.sid is target.sid]
        pgid = choose([pid for pid in groups if pid.seen_from(thread.space)], other // 2)
        if pgid is not None:
            kernel.setpgid(thread, target, pgid, quiet=other % 2 == 0)


def _quiet_subreaper(scene: Scene, thread: Thread, other: int) -> None:
    """Run prctl() by int 0x80, which has no record."""
    kernel = scene.kernel
    finish(kernel)
    if thread in kernel.threads and not thread.exiting:
        emit, kernel.emit = kernel.emit, lambda _: None
        seq = kernel.writer.seq
        kernel.subreaper(thread, on=other % 3 != 0)
        kernel.writer.seq, kernel.emit = seq, emit


def _stop(_scene: Scene, thread: Thread, _other: int) -> None:
    """Stop or continue, which has no record."""
    thread.stopped = not thread.stopped


def _other_ids(_scene: Scene, thread: Thread, other: int) -> None:
    """Run setuid(), which has no record."""
    thread.ids = (other, other)


def _sweep(scene: Scene, _thread: Thread, _other: int) -> None:
    """Sweep, because it is due."""
    scene.service.rest()


UNTOLD: dict[str, Callable[[Scene, Thread, int], None]] = {
    call.__name__: call for call in (_quiet_setsid, _quiet_setpgid, _quiet_subreaper, _stop, _other_ids, _sweep)
}
EXAMPLES = settings(unexplained, max_examples=int(os.environ.get("CKPTREE_EXAMPLES", examples(40))))
STEPS = st.tuples(st.sampled_from((*NAMES, *UNTOLD)), st.integers(0, 999), st.integers(0, 999))
PROGRAMS = st.lists(STEPS, max_size=15) | st.lists(STEPS, min_size=40, max_size=80)


def make(scene: Scene, step: Step) -> None:
    """Make one step."""
    name, who, other = step
    callers = scene.kernel.alive()
    thread = callers[who % len(callers)]
    if name in UNTOLD:
        UNTOLD[name](scene, thread, other)
    else:
        CALLS[name](scene.kernel, thread, other)


def _scene(chance: random.Random) -> Scene:
    """Return a scene whose kernel uses numbers again soon; hooks on release and lingering are chosen at random."""
    scene = Scene()
    scene.kernel.pid_max = 60
    scene.kernel.tells_release, scene.kernel.lingers = chance.random() < 0.5, chance.random() < 0.5
    return scene


def _subscribe(scene: Scene, chance: random.Random) -> list[Follower]:
    """Return followers of overlapping trees, with callers of different namespaces; at times the init's tree is among
    them.
    """
    followers: list[Follower] = []
    leaders = [thread for thread in scene.kernel.threads if thread.leads and not thread.exiting]
    everybody = [scene.kernel.init] if chance.random() < 0.5 else []
    for root in [*everybody, *chance.sample(leaders, min(len(leaders), 2))]:
        callers = [None, *(each for each in leaders if root.pid.seen_from(each.space))]
        followers.append(Follower(scene, root, chance.choice(callers)))
    return followers


@given(PROGRAMS, PROGRAMS, st.integers(0, 2**32))
@EXAMPLES
def test_first_snapshot_and_events_are_the_state_of_now(before: list[Step], after: list[Step], seed: int) -> None:
    """Any calls happen, with hooks or without, in overlapping trees; followers compare often or seldom."""
    chance = random.Random(seed)
    scene = _scene(chance)
    for step in before:
        make(scene, step)
    finish(scene.kernel)
    scene.watch.tend()
    followers = _subscribe(scene, chance)
    for step in after:
        make(scene, step)
        fate = chance.random()
        if fate < 0.5:
            scene.watch.tend()
        if fate < 0.4:
            for follower in followers:
                follower.agree()
    finish(scene.kernel)
    for follower in followers:
        follower.agree()


@pytest.mark.parametrize("way", ["ring-full", "numbers-lost", "late"])
@given(program=PROGRAMS, seed=st.integers(0, 2**32))
@EXAMPLES
def test_so_they_are_where_records_are_lost(way: str, program: list[Step], seed: int) -> None:
    """This holds in between, and after the resync, without a new snapshot."""
    chance = random.Random(seed)
    scene = _scene(chance)
    page, ring = scene.watch.probes.page, scene.watch.probes.ring
    late: list[bytes] = []

    def emit(record: bytes) -> None:
        if chance.random() < 0.9:
            ring.records.append(record)  # type: ignore[attr-defined]  # the simulated one
        elif way == "late":
            late.append(record)
        else:
            page.lose(record, told=way == "ring-full")  # type: ignore[attr-defined]

    def catch_up() -> None:
        """Deliver some of the late records after all, and give up the others."""
        count = chance.randint(0, len(late))
        chance.shuffle(late)
        ring.records.extend(late[:count])  # type: ignore[attr-defined]
        del late[:count]
        scene.watch.drain()
        ring.records.append(scene.kernel.writer.marker())  # type: ignore[attr-defined]
        scene.watch.drain()
        scene.watch.stream.give_up_below(scene.kernel.writer.seq)

    followers = _subscribe(scene, chance)
    for step in program:
        scene.kernel.emit = emit
        make(scene, step)
        scene.kernel.emit = ring.records.append  # type: ignore[attr-defined]
        fate = chance.random()
        if fate < 0.5:
            scene.watch.drain()
            if way == "late":
                scene.watch.stream.give_up_below(scene.kernel.writer.seq)
                catch_up()
            scene.watch.tend()
        if fate < 0.3:
            for follower in followers:
                follower.agree()
    finish(scene.kernel)
    scene.watch.drain()
    scene.watch.stream.give_up_below(scene.kernel.writer.seq)
    catch_up()
    if scene.watch.is_in_doubt:
        scene.watch.mend()
    scene.service.feed.settle()
    for follower in followers:
        follower.agree()
        assert follower.tree.certain or follower.tree.ended
