# SPDX-License-Identifier: Apache-2.0
"""The state of a process and of its threads beside memory, registers and files.

First every thread takes what needs no rights or takes none away. Then the first thread sets the limits of the process,
and at last each takes its seccomp filters and its credentials, after which it may no more than the program might.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from agent.restart.contents import credentials, filters
from agent.restart.contents.fillabi import Demand
from agent.restart.contents.fillprogram import About, FillScript, ProcessProgram
from agent.restart.contents.fillsection import FillProgram
from agent.restart.contents.filters import Filters
from agent.restart.contents.holder import write_file
from agent.restart.contents.hostfacts import HostFacts
from agent.restart.contents.images import ProcessImage

SIGNALS: Final = 64
SIGKILL, SIGSTOP = 9, 19
NEVER_CAUGHT: Final = (SIGKILL, SIGSTOP)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME = 1, 4, 15
SIG_SET: Final = 8
SIGINFO: Final = 128
ITIMER_REAL: Final = 0
_ITIMERS: Final = (("real", ITIMER_REAL), ("virt", 1), ("prof", 2))
RELATIVE: Final = 0
SIGEV_THREAD_ID: Final = 4
PRIO_PROCESS: Final = 0
SCHED_FIFO, SCHED_RR = 1, 2
SCHED_RESET_ON_FORK: Final = 0x40000000
_PERSONALITY_FLAGS: Final = 0x0FFE0000
_DOMAINS: Final = (0, 8)
"""PER_LINUX and PER_LINUX32."""
_COMM_BYTES: Final = 16
_SHORT_RSEQ: Final = 32
NO_LOGIN: Final = 0xFFFFFFFF
# Limits that must not hinder the fill: of data, the size of files, descriptors, locked memory, addresses, pending signals.
RAISED: Final = (1, 2, 7, 8, 9, 11)


def raise_limits(script: FillScript, program: ProcessProgram, host: HostFacts) -> None:
    """Raise the limits that could hinder the fill, as far as they may be raised; the image's replace them later."""
    for resource in RAISED:
        soft, hard = host.limits[resource]
        if soft != hard:
            script.about = About("limit", str(resource))
            script.call("prlimit64", 0, resource, program.data(struct.pack("<2Q", hard, hard)), 0)


def restore_process(script: FillScript, program: ProcessProgram, image: ProcessImage, host: HostFacts) -> None:
    """Set what the threads of a process share and what can be set before them; /proc must still be in reach."""
    core = image.core
    if core.tc.HasField("oom_score_adj") and core.tc.oom_score_adj != host.oom_score_adj:
        _write(script, program, "oom_score_adj", int(core.tc.oom_score_adj))
    if core.tc.HasField("loginuid") and core.tc.loginuid not in (NO_LOGIN, host.loginuid):
        _write(script, program, "loginuid", int(core.tc.loginuid))
    script.about = About("task", "personality")
    script.call("personality", personality(int(core.tc.personality)) or 0)
    script.about = About("task", "membarrier")
    registered = int(core.tc.membarrier_registration_mask)
    for bit in range(registered.bit_length()):
        if registered >> bit & 1:
            script.call("membarrier", 1 << bit, 0, 0)
    script.alike(("actions", image.alike[image.pid]), lambda: _restore_actions(script, program, core))


def restore_threads(
    fill: FillProgram,
    program: ProcessProgram,
    image: ProcessImage,
    numbers: Mapping[int, int],
    ready: int,
    installed: Filters,
    host: HostFacts,
) -> None:
    """Set what each thread has of its own, and then what the process must get last.

    Args:
        fill: of all processes.
        program: of the process.
        image: of the process.
        numbers: of its threads as they see them, by those in the root's namespace.
        ready: the word that the first thread posts when the threads may begin.
        installed: the seccomp filters of the images.
        host: this host.
    """
    leader = program.scripts[0]
    begun, limited, done = fill.word(), fill.word(), fill.word()
    count = len(program.scripts)
    leader.post(ready)
    for script, tid in zip(program.scripts, image.threads, strict=True):
        script.wait(ready, 1)
        _restore_thread(script, program, image, tid, numbers, host)
        script.post(begun, count)
    leader.wait(begun, count)
    restore_timers(leader, program, image.core, numbers)
    leader.alike(("limits", image.alike[image.pid]), lambda: _restore_limits(leader, program, image.core))
    leader.post(limited)
    for script in program.scripts:
        script.wait(limited, 1)
    filters.restore(program.scripts, program, image, installed)
    for script, tid in zip(program.scripts, image.threads, strict=True):
        core = image.cores[tid]
        thread = core.thread_core
        script.alike(
            ("credentials", image.alike[tid]), partial(credentials.restore, script, program, thread.creds, host)
        )
        # Other ids would clear it. The parent lives, and is the process whose end it is about.
        script.about = About("thread", str(tid))
        script.call("prctl", PR_SET_PDEATHSIG, int(thread.pdeath_sig), 0, 0, 0)
        script.post(done, count)
    leader.wait(done, count)
    # A dumpable process is open to its user, by /proc/PID/mem, with the state that all share. From that state the resumer
    # takes that all are filled, so no other task may have the rights of the restart by then.
    leader.post(fill.credited, len(fill.processes))
    leader.wait(fill.credited, len(fill.processes))
    leader.about = About("task", "dumpable")
    dumpable = int(image.mm.dumpable) if image.mm.HasField("dumpable") else 1
    # 2 cannot be asked for: the kernel's fs.suid_dumpable gives it with other ids. 0 is the nearest that is no less safe.
    leader.call("prctl", PR_SET_DUMPABLE, int(dumpable == 1), 0, 0, 0)


def personality(image: int) -> int | None:
    """Return the execution domain and its flags by a task_core_entry's personality; None: they are not known.

    CRIU reads the hexadecimal number of /proc/PID/personality as a decimal one, up to the first letter.
    """
    try:
        found = int(str(image), 16)
    except ValueError:
        return None
    return found if found & ~_PERSONALITY_FLAGS in _DOMAINS else None


def stop_signal(core: Any) -> int:
    """Return the signal that stops a process as it was stopped: another than SIGSTOP only where it has no handler now."""
    number = int(core.tc.stop_signo)
    actions = dict(_actions(core))
    if number in actions and not actions[number].sigaction:
        return number
    return SIGSTOP


def _actions(core: Any) -> Iterator[tuple[int, Any]]:
    """Yield each signal that can have an action, with its sa_entry."""
    numbers = [number for number in range(1, SIGNALS + 1) if number not in NEVER_CAUGHT]
    yield from zip(numbers, core.tc.sigactions, strict=False)


def blocked(image: ProcessImage, tid: int) -> int:
    """Return the mask of blocked signals of a thread."""
    thread = image.cores[tid].thread_core
    if thread.HasField("blk_sigset"):
        return int(thread.blk_sigset)
    return int(image.core.tc.blk_sigset)


def _write(script: FillScript, program: ProcessProgram, name: str, value: int) -> None:
    """Write a number into a file of the process's own folder in /proc."""
    script.about = About("task", name)
    write_file(script, program, f"/proc/self/{name}".encode(), b"%d" % value)


def _restore_actions(script: FillScript, program: ProcessProgram, core: Any) -> None:
    for number, action in _actions(core):
        if not action.sigaction and not action.flags and not action.mask:
            continue  # the default, which all have by then
        script.about = About("signal", str(number))
        content = struct.pack("<4Q", action.sigaction, action.flags, action.restorer, action.mask)
        script.call("rt_sigaction", number, program.data(content), 0, SIG_SET)


def _restore_limits(script: FillScript, program: ProcessProgram, core: Any) -> None:
    for resource, limit in enumerate(core.tc.rlimits.rlimits):
        script.about = About("limit", str(resource))
        script.call("prlimit64", 0, resource, program.data(struct.pack("<2Q", limit.cur, limit.max)), 0)


def restore_timers(script: FillScript, program: ProcessProgram, core: Any, numbers: Mapping[int, int]) -> None:
    """Set the interval timers, and create the POSIX timers by their numbers.

    A timer without time left is off, and may have an interval all the same: clocks of a processor keep it
    (set_cpu_itimer() and posix_cpu_timer_set() of the kernel). ITIMER_REAL alone loses its interval when it is set off
    (do_setitimer()): one that has an interval and no time left has fired, and goes on once its signal is taken.
    How often a timer has overrun since its last signal cannot be set: a program that asks gets 0.

    Args:
        script: of the first thread.
        program: of the process.
        core: the core_entry of the process.
        numbers: of its threads as they see them, by those in the root's namespace.
    """
    if not core.tc.HasField("timers"):
        return
    for timer in sorted(core.tc.timers.posix, key=lambda each: int(each.it_id)):
        script.about = About("timer", str(timer.it_id))
        thread = numbers.get(int(timer.notify_thread_id), int(timer.notify_thread_id))
        event = struct.pack("<QIIi44x", timer.sival_ptr, timer.si_signo, timer.it_sigev_notify, thread)
        script.timer(_signed(int(timer.clock_id)), program.data(event), int(timer.it_id))
        setting = timer.isec, timer.insec, timer.vsec, timer.vnsec
        if any(setting):
            script.call("timer_settime", int(timer.it_id), RELATIVE, program.data(struct.pack("<4Q", *setting)), 0)
    for name, number in _ITIMERS:
        timer = getattr(core.tc.timers, name)
        setting = timer.isec, timer.iusec, timer.vsec, timer.vusec
        if number == ITIMER_REAL and not any(setting[2:]):
            setting = (*setting[:2], *setting[:2])
        if any(setting):
            script.about = About("timer", name)
            script.call("setitimer", number, program.data(struct.pack("<4Q", *setting)), 0)


def rseq_bytes(size: int, host: HostFacts) -> int:
    """Return the bytes of an area of restartable sequences that this kernel takes, of one of `size` bytes.

    Linux before 6.3 takes 32 bytes alone. It never touches later fields, so a request there is not granted.
    """
    return size if host.long_rseq else min(size, _SHORT_RSEQ)


def _restore_thread(
    script: FillScript,
    program: ProcessProgram,
    image: ProcessImage,
    tid: int,
    numbers: Mapping[int, int],
    host: HostFacts,
) -> None:
    core = image.cores[tid]
    thread = core.thread_core
    script.about = About("thread", str(tid))
    script.call("set_tid_address", int(core.thread_info.clear_tid_addr), demand=Demand.ANY)
    if thread.futex_rla_len:
        script.call("set_robust_list", int(thread.futex_rla), int(thread.futex_rla_len))
    if thread.HasField("rseq_entry") and thread.rseq_entry.rseq_abi_pointer:
        rseq = thread.rseq_entry
        script.call(
            "rseq", int(rseq.rseq_abi_pointer), rseq_bytes(int(rseq.rseq_abi_size), host), 0, int(rseq.signature)
        )
    if thread.HasField("sas"):
        stack = struct.pack("<QIIQ", thread.sas.ss_sp, thread.sas.ss_flags, 0, thread.sas.ss_size)
        script.call("sigaltstack", program.data(stack), 0)
    comm = core.tc.comm if tid == image.pid else thread.comm
    script.call("prctl", PR_SET_NAME, program.data(bytes(comm)[: _COMM_BYTES - 1] + b"\0"), 0, 0, 0)
    _restore_scheduling(script, program, thread, tid)
    number = numbers[tid]
    _restore_pending(script, program, thread.signals_p.signals, ("rt_tgsigqueueinfo", numbers[image.pid], number))
    if tid == image.pid:
        _restore_pending(script, program, core.tc.signals_s.signals, ("rt_sigqueueinfo", number))


def _restore_scheduling(script: FillScript, program: ProcessProgram, thread: Any, tid: int) -> None:
    if not thread.HasField("sched_policy"):
        return
    script.about = About("scheduling", str(tid))
    priority = int(thread.sched_prio) if is_realtime(int(thread.sched_policy)) else 0
    script.call("setpriority", PRIO_PROCESS, 0, int(thread.sched_nice))
    script.call("sched_setscheduler", 0, int(thread.sched_policy), program.data(struct.pack("<I", priority)))


def is_realtime(policy: int) -> bool:
    """Return True if a policy has priorities."""
    return policy & ~SCHED_RESET_ON_FORK in (SCHED_FIFO, SCHED_RR)


def _restore_pending(
    script: FillScript, program: ProcessProgram, signals: Sequence[Any], call: tuple[str, *tuple[int, ...]]
) -> None:
    name, *numbers = call
    for each in signals:
        info = bytes(each.siginfo)
        number = int.from_bytes(info[:4], "little")
        script.about = About("signal", str(number))
        script.call(name, *numbers, number, program.data(info))


def _signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value
