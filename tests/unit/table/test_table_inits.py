# SPDX-License-Identifier: Apache-2.0
"""The table and a namespace's init that lingers: no event tells the end of its wait."""

from collections.abc import Iterator

import pytest

from agent.table.objects import CLONE_NEWPID, EXITED, TaskStruct
from tests.support.kernelobjects import Thread
from tests.support.watched import Watched, watched


def an_init_with_a_thread(pair: Watched) -> tuple[Thread, Thread]:
    """Return leader and thread of a new init."""
    init = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    return init, pair.kernel.thread(init)


@pytest.mark.parametrize("lost", ["all", "the end of the other thread"])
def test_an_init_that_waits_for_a_traced_thread_is_found_by_a_sweep_to_have_exited(lost: str) -> None:
    """At its own answer it may not have been the last one yet."""
    pair = watched(lingers=True)
    init, thread = an_init_with_a_thread(pair)
    thread.traced = True
    if lost == "all":
        with pair.losing():
            pair.kernel.exit_group(init)
    else:
        pair.kernel.begin_exit(init)
        with pair.losing():
            pair.kernel.exit(thread)
        pair.kernel.exit_notify(init)
    pair.sweep()

    assert pair.task(init).flags & EXITED
    pair.agree()


def test_the_last_thread_of_an_init_is_gone_once_nobody_of_its_namespace_is_left() -> None:
    """A process outside has reaped the last one, which no task of the namespace can tell."""
    pair = watched(lingers=True, tells_release=False)
    init, thread = an_init_with_a_thread(pair)
    outside = pair.kernel.fork(pair.kernel.init)
    pair.kernel.setns(outside, init.space)
    member = pair.kernel.fork(outside)
    pair.kernel.exit(member)
    pair.kernel.exit(init)
    pair.kernel.exit(thread)
    pair.ask()
    assert list(map(list, pair.table.lingering.values())) == [[pair.task(thread)]]
    assert pair.task(thread).flags & EXITED
    pair.agree()

    pair.kernel.wait(outside, member)
    pair.ask()

    assert pair.table.task(thread.tid) is None
    pair.agree()


def test_an_end_elsewhere_puts_no_init_in_doubt_that_waits_in_a_namespace_of_its_own() -> None:
    """Otherwise each such init would be a question at every exit of any task."""
    pair = watched(lingers=True)
    kernel = pair.kernel
    outside, kept = kernel.fork(kernel.init), []
    for _ in range(20):
        init = kernel.fork(kernel.init, CLONE_NEWPID)
        kernel.setns(outside, init.space)
        kept.append(kernel.fork(outside))
        kernel.exit(kept[-1])
        kernel.exit(init)
    pair.ask()
    assert len(pair.table.lingering) == 20
    other = kernel.fork(kernel.init)
    kernel.setpgid(other, other.group, other.pid)
    kernel.exit(other)
    kernel.wait(kernel.init, other)

    assert not pair.table.doubts

    kernel.wait(outside, kept[0])

    assert len(pair.table.doubts) == 1
    pair.ask()
    pair.agree()


@pytest.mark.parametrize("threads", [50, 500])
def test_the_exit_of_an_init_with_many_threads_looks_at_few_of_them_each_time(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ten times the threads an exit costs no more."""
    pair = watched(lingers=True)
    init = pair.kernel.fork(pair.kernel.init, CLONE_NEWPID)
    for _ in range(threads):
        pair.kernel.thread(init)
    looks = 0
    group = TaskStruct.group

    def counted(task: TaskStruct) -> Iterator[TaskStruct]:
        nonlocal looks
        for each in group(task):
            looks += 1
            yield each

    monkeypatch.setattr(TaskStruct, "group", counted)
    pair.kernel.exit_group(init)

    assert looks < 20 * threads
