# SPDX-License-Identifier: Apache-2.0
"""The bounds of each handler's work: they do not depend on the size of a tree, a group or a set of zombies.

The tests count the lines of the agent that run for one record, with ten times as many tasks around. The table may walk
over all tasks of a kind where the kernel does (the children of a parent that exits, the tasks below a subreaper); those
calls are not tested here.
"""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

import pytest

from agent.table.objects import CLONE_NEWPID
from tests.support.kernelobjects import Thread
from tests.support.watched import Watched, watched

FEW, MANY = 20, 200
SLACK = 1.25


class Scene(NamedTuple):
    """A host with many tasks of some kind.

    Attributes:
        pair: kernel and table.
        at: the process at the end, which makes the calls.
    """

    pair: Watched
    at: Thread


def deep(count: int) -> Scene:
    """Make a chain of processes; the last one acts."""
    pair = watched()
    at = pair.kernel.init
    for _ in range(count):
        at = pair.kernel.fork(at)
    return Scene(pair, at)


def broad(count: int) -> Scene:
    """Make a process with this many children."""
    pair = watched()
    at = pair.kernel.fork(pair.kernel.init)
    for _ in range(count):
        pair.kernel.fork(at)
    return Scene(pair, at)


def among_zombies(count: int) -> Scene:
    """Make a process with this many zombies."""
    scene = broad(count)
    for thread in [each for each in scene.pair.kernel.threads if each.group.parent is scene.at]:
        scene.pair.kernel.exit(thread)
    return scene


def threaded(count: int) -> Scene:
    """Make a process with this many threads, in a container."""
    pair = watched()
    init = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    at = pair.kernel.fork(init)
    for _ in range(count):
        pair.kernel.thread(at)
    return Scene(pair, at)


def threaded_init(count: int) -> Scene:
    """Make a container's init with this many threads."""
    pair = watched()
    at = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    for _ in range(count):
        pair.kernel.thread(at)
    return Scene(pair, at)


def in_company(count: int) -> Scene:
    """Make a session and a group with this many members."""
    pair = watched()
    at = pair.kernel.fork(pair.kernel.init)
    pair.kernel.setsid(at)
    for _ in range(count):
        pair.kernel.fork(at)
    return Scene(pair, pair.kernel.fork(at))


def beside_dying_namespaces(count: int) -> Scene:
    """Make this many inits that linger, each for a zombie whose parent is outside."""
    pair = watched(lingers=True)
    outside = pair.kernel.fork(pair.kernel.init)
    for _ in range(count):
        init = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
        pair.kernel.setns(outside, init.space)
        pair.kernel.exit(pair.kernel.fork(outside))
        pair.kernel.exit(init)
    pair.ask()
    return Scene(pair, pair.kernel.fork(pair.kernel.init))


def behind_the_dead(count: int) -> Scene:
    """Make the last of this many generations that have led a session each, with a living member in each session."""
    pair = watched()
    at = pair.kernel.fork(pair.kernel.init)
    for _ in range(count):
        following = pair.kernel.fork(at)
        pair.kernel.setsid(following)
        pair.kernel.fork(following)
        pair.kernel.exit(at)
        pair.kernel.wait(pair.kernel.init, at)
        at = following
    return Scene(pair, at)


def nested_namespaces(count: int) -> Scene:
    """Make this many pid namespaces beside each other."""
    pair = watched()
    for _ in range(count):
        pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    return Scene(pair, pair.kernel.fork(pair.kernel.init))


def _live(scene: Scene) -> None:
    """Fork; the child leads a group and a session, ends, and is reaped."""
    kernel, at = scene.pair.kernel, scene.at
    child = kernel.fork(at)
    kernel.setpgid(at, child.group, child.pid)
    kernel.exit(child)
    kernel.wait(at, child)
    child = kernel.fork(at)
    kernel.setsid(child)
    kernel.exec(child)
    kernel.exit(child)
    kernel.wait(at, child)


def _lend_a_thread(scene: Scene) -> None:
    """Start a thread that forks and ends; its child goes to another thread."""
    kernel, at = scene.pair.kernel, scene.at
    thread = kernel.thread(at)
    child = kernel.fork(thread)
    kernel.exit(thread)
    kernel.exit(child)
    kernel.wait(at, child)


def _answer(scene: Scene) -> None:
    """Answer a question about the process."""
    scene.pair.put([scene.pair.table.question(scene.pair.task(scene.at))])


def lines(scene: Scene, act: Callable[[Scene], None]) -> int:
    """Return the number of the agent's lines that run while the records of an act are applied, questions included."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        if "/agent/" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    feed = scene.pair.feed

    def traced(record: bytes) -> None:
        before = sys.gettrace()  # that of coverage
        sys.settrace(trace)
        try:
            feed(record)
        finally:
            sys.settrace(before)

    scene.pair.kernel.emit = traced
    act(scene)
    scene.pair.ask()
    scene.pair.kernel.emit = feed
    return count


@pytest.mark.parametrize("act", [_live, _lend_a_thread, _answer])
@pytest.mark.parametrize(
    "grown",
    [
        *(deep, broad, among_zombies, threaded, threaded_init, in_company),
        *(beside_dying_namespaces, behind_the_dead, nested_namespaces),
    ],
)
def test_ten_times_as_much_around_makes_no_record_dearer(
    grown: Callable[[int], Scene], act: Callable[[Scene], None]
) -> None:
    """A process pays only for its own acts."""
    few, many = (lines(grown(count), act) for count in (FEW, MANY))

    assert few > 20
    assert many < few * SLACK
