# SPDX-License-Identifier: Apache-2.0
"""The timers of a process: those that were off stay off, with their intervals where the kernel keeps these."""

import struct
from typing import Any

from agent.restart.contents import taskstate
from agent.restart.contents.fillprogram import Data
from agent.restart.contents.fillsection import FillProgram
from exporters.criu.criuschema import messages

CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID = 1, 2
OFF = {"isec": 0, "iusec": 0, "vsec": 0, "vusec": 0}


def settings(**timers: Any) -> dict[tuple[str, int], tuple[int, ...]]:
    """Return the interval and the value that each timer of a process is set to, by the call and the timer's number."""
    core: Any = messages()["core_entry"]()
    itimers = {name: OFF | timers.get(name, {}) for name in ("real", "virt", "prof")}
    core.tc.timers.MergeFrom(messages()["task_timers_entry"](**itimers, posix=timers.get("posix", [])))
    process = FillProgram().process((4,))
    (script,) = process.scripts
    taskstate.restore_timers(script, process, core, {})
    found = {}
    for each in script.operations:
        if each.name in ("setitimer", "timer_settime"):
            (place,) = (argument for argument in each.arguments if isinstance(argument, Data))
            number = each.arguments[0]
            assert isinstance(number, int)
            found[each.name, number] = struct.unpack_from("<4Q", process._data, place.offset)
    return found


def test_a_timer_of_the_processors_time_that_was_off_stays_off_with_its_interval() -> None:
    """set_cpu_itimer() keeps the interval of a timer that is set off."""
    assert settings(virt={"isec": 1}, prof={"iusec": 100_000}) == {
        ("setitimer", 1): (1, 0, 0, 0),
        ("setitimer", 2): (0, 100_000, 0, 0),
    }


def test_the_timer_of_real_time_whose_signal_is_pending_goes_on() -> None:
    """It has an interval and no time left until its signal is taken; do_setitimer() keeps none of one that is off."""
    assert settings(real={"iusec": 5}) == {("setitimer", 0): (0, 5, 0, 5)}
    assert settings(real={"isec": 2, "vsec": 1}) == {("setitimer", 0): (2, 0, 1, 0)}
    assert settings() == {}


def test_a_posix_timer_that_was_off_stays_off() -> None:
    """One of a processor's clock keeps its interval; the kernel tells of one that is about to fire that 1 ns is left."""
    known = {"si_signo": 10, "it_sigev_notify": 0, "sival_ptr": 0, "overrun": 0, "isec": 0, "vsec": 0}
    off = known | {"it_id": 1, "clock_id": CLOCK_PROCESS_CPUTIME_ID, "insec": 7, "vnsec": 0}
    on = known | {"it_id": 2, "clock_id": CLOCK_MONOTONIC, "insec": 7, "vnsec": 1}
    unset = known | {"it_id": 3, "clock_id": CLOCK_MONOTONIC, "insec": 0, "vnsec": 0}

    assert settings(posix=[off, on, unset]) == {
        ("timer_settime", 1): (0, 7, 0, 0),
        ("timer_settime", 2): (0, 7, 0, 1),
    }
