# SPDX-License-Identifier: Apache-2.0
"""The knowledge of processes that their events give."""

import pytest

from agent.telemetry.lives import Life, Lives, exit_code
from tests.support.told import birth, death, event


def test_what_one_event_tells_is_known_at_the_next_ones() -> None:
    """The parent from the birth, the program and its arguments from the exec, the status from the death."""
    lives = Lives(lambda task: f"/bin/{task.comm.decode()}")
    lives.note(birth(1, 5, 4))
    lives.note(event("exec", 2, 5, arguments=[b"make", b"all"], arguments_cut=True))
    lives.note(death(3, 5, 0x300))

    wanted = Life(5, 5_000_000_000, 4, "/bin/make", (b"make", b"all"), cut=True, status=0x300)
    assert lives.note(event("reap", 4, 5)) == wanted
    assert lives.get(5) is None


def test_a_process_that_is_told_of_late_is_known_as_far_as_its_events_go() -> None:
    """Nobody has told its parent or its program."""
    assert Lives().note(event("setsid", 1, 5, pgid=5, sid=5)) == Life(5, 5_000_000_000)


def test_a_thread_does_not_tell_its_processes_start_or_parent() -> None:
    """Its own start is another one."""
    lives = Lives()

    assert lives.note(birth(1, 6, 4, pid=5)) == Life(5)
    assert lives.note(death(2, 6, 9, pid=5, last=False)) == Life(5)
    assert lives.note(event("reap", 3, 6, pid=5)) == Life(5)
    assert lives.get(5) == Life(5)


def test_a_number_that_is_given_out_again_is_another_process() -> None:
    """Where the reap of the first one was not told."""
    lives = Lives()
    lives.note(birth(1, 5, 4))
    lives.note(event("exec", 2, 5, arguments=[b"make"]))
    later = birth(3, 5, 9)
    assert later.task is not None
    object.__setattr__(later.task, "start_ns", 77)

    assert lives.note(later) == Life(5, 77, 9)


def test_the_processes_with_the_fewest_events_of_late_are_forgotten() -> None:
    """A daemon whose reaps are not asked for would fill the memory."""
    lives = Lives(most=2)
    for order, tid in enumerate((5, 6, 5, 7)):
        lives.note(birth(order, tid, 4))

    assert [lives.get(tid) is not None for tid in (5, 6, 7)] == [True, False, True]
    assert lives.get(None) is None


@pytest.mark.parametrize(("status", "code"), [(0, 0), (0x300, 3), (9, 137), (0x8B, 139), (0xFF00, 255)])
def test_an_exit_code_is_as_shells_have_it(status: int, code: int) -> None:
    """A core dump does not count."""
    assert exit_code(status) == code
