# SPDX-License-Identifier: Apache-2.0
"""What bounds the work of each handler: not how large somebody has made a tree, a group or a graveyard.

The lines of the agent that run while a record is applied are counted, with ten times as much of something around. Where
the kernel itself goes through all of something (the children of a parent that exits, the tasks below a subreaper), so
may the table; those calls are not here.
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
    """A host on which there is much of something.

    Attributes:
        pair: kernel and table.
        at: the process at the end of it, which does things.
    """

    pair: Watched
    at: Thread


def deep(count: int) -> Scene:
    """A chain of so many processes; the last one acts."""
    pair = watched()
    at = pair.kernel.init
    for _ in range(count):
        at = pair.kernel.fork(at)
    return Scene(pair, at)


def broad(count: int) -> Scene:
    """A process with so many children."""
    pair = watched()
    at = pair.kernel.fork(pair.kernel.init)
    for _ in range(count):
        pair.kernel.fork(at)
    return Scene(pair, at)


def among_zombies(count: int) -> Scene:
    """A process that has not waited for so many of its children."""
    scene = broad(count)
    for thread in [each for each in scene.pair.kernel.threads if each.group.parent is scene.at]:
        scene.pair.kernel.exit(thread)
    return scene


def threaded(count: int) -> Scene:
    """A process of so many threads, in a container."""
    pair = watched()
    init = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    at = pair.kernel.fork(init)
    for _ in range(count):
        pair.kernel.thread(at)
    return Scene(pair, at)


def threaded_init(count: int) -> Scene:
    """A container's init of so many threads."""
    pair = watched()
    at = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    for _ in range(count):
        pair.kernel.thread(at)
    return Scene(pair, at)


def in_company(count: int) -> Scene:
    """A session and a group of so many."""
    pair = watched()
    at = pair.kernel.fork(pair.kernel.init)
    pair.kernel.setsid(at)
    for _ in range(count):
        pair.kernel.fork(at)
    return Scene(pair, pair.kernel.fork(at))


def beside_dying_namespaces(count: int) -> Scene:
    """So many inits that wait within their exit, each for a zombie that somebody outside keeps."""
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
    """The last of so many generations that have led a session each, in which somebody still lives."""
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
    """So many pid namespaces beside each other."""
    pair = watched()
    for _ in range(count):
        pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    return Scene(pair, pair.kernel.fork(pair.kernel.init))


def _live(scene: Scene) -> None:
    """Fork, have the child lead a group and a session, end and be reaped."""
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
    """Make a thread, which forks and ends; its child goes to another thread."""
    kernel, at = scene.pair.kernel, scene.at
    thread = kernel.thread(at)
    child = kernel.fork(thread)
    kernel.exit(thread)
    kernel.exit(child)
    kernel.wait(at, child)


def _answer(scene: Scene) -> None:
    """Be asked about."""
    scene.pair.put([scene.pair.table.question(scene.pair.task(scene.at))])


def lines(scene: Scene, act: Callable[[Scene], None]) -> int:
    """Count the lines of the agent that run while the records of what somebody does are applied, questions included."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        if "/agent/" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    feed = scene.pair.feed

    def traced(record: bytes) -> None:
        sys.settrace(trace)
        try:
            feed(record)
        finally:
            sys.settrace(None)

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
    """A process can only pay for what it does itself."""
    few, many = (lines(grown(count), act) for count in (FEW, MANY))

    assert few > 20
    assert many < few * SLACK
