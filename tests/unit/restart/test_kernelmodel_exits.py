# SPDX-License-Identifier: Apache-2.0
"""The model of the kernel: exits, those who wait within theirs, orphans, and the signals of an exit."""

import pytest

from agent.model import WaitStatus
from agent.restart.planning.kernelmodel import CallRefusedError, Kernel
from agent.table import rules
from agent.table.objects import STOPPED, SUBREAPER, UNDER_SUBREAPER, TaskStruct
from tests.support.modelcalls import dead, refused


def test_only_a_child_that_has_exited_is_waited_for(kernel: Kernel, top: TaskStruct) -> None:
    """ECHILD comes for any other process, EAGAIN while the child lives; a dead leader with living threads is no
    zombie.
    """
    child = kernel.clone(top, (2,))
    grandchild = kernel.clone(child, (3,))
    thread = kernel.clone(child, (4,), thread=True)

    assert refused(lambda: kernel.wait(top, grandchild, reap=True)) == "ECHILD"
    assert refused(lambda: kernel.wait(top, child, reap=True)) == "EAGAIN"
    dead(kernel, child)
    assert refused(lambda: kernel.wait(top, child, reap=False)) == "EAGAIN"
    dead(kernel, thread)
    kernel.wait(top, child, reap=False)
    assert rules.is_zombie(child)


def test_orphans_go_to_a_thread_then_to_the_subreaper_then_to_the_init(kernel: Kernel, top: TaskStruct) -> None:
    """The order is the one in the name."""
    reaper = kernel.clone(top, (2,))
    kernel.subreaper(reaper, on=True)
    middle = kernel.clone(reaper, (3,))
    thread = kernel.clone(middle, (4,), thread=True)
    child = kernel.clone(middle, (5,))
    parents = []
    for task in (middle, thread, reaper):
        dead(kernel, task)
        parents.append(child.parent)

    assert parents == [thread, reaper, top]


def test_a_subreaper_adopts_on_its_own_level_alone(kernel: Kernel, top: TaskStruct) -> None:
    """In an inner namespace its init adopts."""
    kernel.subreaper(top, on=True)
    inner = kernel.clone(top, (2, 1), newpid=True)
    middle = kernel.clone(inner, (3, 2))
    child = kernel.clone(middle, (4, 3))
    dead(kernel, middle)

    assert child.parent is inner


def test_the_mark_of_a_subreaper_stays_when_it_is_none_any_more(kernel: Kernel, top: TaskStruct) -> None:
    """The flag of the descendants stays, and a search for a subreaper finds none."""
    reaper = kernel.clone(top, (2,))
    child = kernel.clone(reaper, (3,))
    kernel.subreaper(reaper, on=True)
    kernel.subreaper(reaper, on=False)

    assert not reaper.flags & SUBREAPER
    assert child.flags & UNDER_SUBREAPER


def test_an_init_does_not_go_before_its_namespace(kernel: Kernel, top: TaskStruct) -> None:
    """It would end all other tasks, so no plan does so."""
    kernel.clone(top, (2,))

    assert refused(lambda: kernel.exit(top, WaitStatus(0))) == "EBUSY"


def test_a_zombie_of_another_parent_keeps_an_init_within_its_exit(kernel: Kernel, top: TaskStruct) -> None:
    """The wait for the init fails before the zombie is reaped, and succeeds after it."""
    inner = kernel.clone(top, (2, 1), newpid=True)
    kernel.setns(top, inner)
    member = dead(kernel, kernel.clone(top, (3, 2)))
    dead(kernel, inner)
    assert kernel.lingers(inner)
    assert refused(lambda: kernel.wait(top, inner, reap=False)) == "EAGAIN"
    kernel.linger(inner)
    kernel.wait(top, member, reap=True)

    assert refused(lambda: kernel.linger(inner)) == "ESRCH"
    kernel.wait(top, inner, reap=True)


def test_a_number_that_a_group_has_keeps_an_init_within_its_exit(kernel: Kernel, top: TaskStruct) -> None:
    """The member of that group may be in any namespace."""
    inner = kernel.clone(top, (2, 1), newpid=True)
    kernel.setns(top, inner)
    owner = kernel.clone(top, (3, 2))
    kernel.setpgid(top, owner, owner.pid)
    kernel.setpgid(top, top_child := kernel.clone(top, (4, 3)), owner.pid)
    for member in (owner, top_child):
        dead(kernel, member)
    kernel.wait(top, owner, reap=True)
    dead(kernel, inner)
    assert kernel.lingers(inner)
    kernel.wait(top, top_child, reap=True)

    assert not kernel.lingers(inner)


def test_an_init_that_waits_within_its_exit_keeps_another_one_there(kernel: Kernel, top: TaskStruct) -> None:
    """The other init is its parent, which cannot reap it before that."""
    outer = kernel.clone(top, (2, 1), newpid=True)
    inner = kernel.clone(outer, (3, 2, 1), newpid=True)
    kernel.setns(top, inner)
    member = dead(kernel, kernel.clone(top, (4, 3, 2)))
    assert refused(lambda: kernel.exit(outer, WaitStatus(0))) == "EBUSY"
    dead(kernel, inner)
    dead(kernel, outer)
    assert (kernel.lingers(outer), kernel.lingers(inner)) == (True, True)
    kernel.wait(top, member, reap=True)
    kernel.wait(outer, inner, reap=True)

    assert not kernel.lingers(outer)


def test_a_zombie_that_is_the_inits_own_child_does_not_stay(kernel: Kernel, top: TaskStruct) -> None:
    """The init reaps it, so no plan may count on either of them."""
    dead(kernel, kernel.clone(top, (2,)))

    assert refused(lambda: kernel.exit(top, WaitStatus(0))) == "EBUSY"


def test_a_refusal_names_no_number_that_the_model_has_made_up(kernel: Kernel, top: TaskStruct) -> None:
    """Such numbers belong to the namespaces above the tree."""
    inner = kernel.clone(top, (5, 1), newpid=True)
    with pytest.raises(CallRefusedError, match="ESRCH: 1 has no number where the caller lives"):
        kernel.setpgid(inner, inner, top.pid)


def test_a_sibling_has_the_exit_signal_of_its_maker(kernel: Kernel, top: TaskStruct) -> None:
    """It is that of its maker's group leader, whatever signal the call asks for."""
    maker = kernel.clone(top, (2,), exit_signal=10)
    thread = kernel.clone(maker, (3,), thread=True)

    assert kernel.clone(thread, (4,), parent=True, exit_signal=12).exit_signal == 10
    assert kernel.clone(thread, (5,), exit_signal=12).exit_signal == 12


def test_who_comes_to_another_process_has_sigchld(kernel: Kernel, top: TaskStruct) -> None:
    """A task that moves to another thread of the same process keeps its signal."""
    maker = kernel.clone(top, (2,))
    thread = kernel.clone(maker, (3,), thread=True)
    child = kernel.clone(thread, (4,), exit_signal=10)
    dead(kernel, thread)
    assert (child.parent, child.exit_signal) == (maker, 10)
    dead(kernel, maker)

    assert (child.parent, child.exit_signal) == (top, 17)


def test_an_exit_that_would_kill_the_parent_is_refused(kernel: Kernel, top: TaskStruct) -> None:
    """This is SIGKILL; an init is immune to its children, and other parents ignore every signal that can be ignored."""
    parent = kernel.clone(top, (2,))
    for number, signal in enumerate((0, 1, 10, 15, 18, 34, 64), 10):
        dead(kernel, kernel.clone(parent, (number,), exit_signal=signal))
    killer = kernel.clone(parent, (3,), exit_signal=9)
    dead(kernel, kernel.clone(top, (4,), exit_signal=9))

    assert refused(lambda: kernel.exit(killer, WaitStatus(0))) == "SIGKILL"


def test_the_number_1_alone_makes_no_init(kernel: Kernel) -> None:
    """In the caller's namespace 1 is only the image's number of the root."""
    root = kernel.clone(kernel.guard, (1,))
    killer = kernel.clone(root, (2,), exit_signal=9)

    assert refused(lambda: kernel.exit(killer, WaitStatus(0))) == "SIGKILL"


def test_who_is_stopped_by_an_exit_goes_on_when_it_waits(kernel: Kernel, top: TaskStruct) -> None:
    """All its threads continue; in a rebuild the guard sends SIGCONT."""
    parent = kernel.clone(top, (2,))
    thread = kernel.clone(parent, (3,), thread=True)
    child = dead(kernel, kernel.clone(thread, (4,), exit_signal=19))
    assert (parent.flags & STOPPED, thread.flags & STOPPED) == (STOPPED, STOPPED)
    kernel.wait(thread, child, reap=False)

    assert (parent.flags & STOPPED, thread.flags & STOPPED) == (0, 0)


def test_the_last_thread_of_a_group_tells_of_its_end(kernel: Kernel, top: TaskStruct) -> None:
    """The leader does not, if it exits first."""
    parent = kernel.clone(top, (2,))
    child = kernel.clone(parent, (3,), exit_signal=19)
    thread = kernel.clone(child, (4,), thread=True)
    dead(kernel, child)
    assert not parent.flags & STOPPED
    dead(kernel, thread)

    assert parent.flags & STOPPED
