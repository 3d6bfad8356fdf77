# SPDX-License-Identifier: Apache-2.0
"""The state of a process and of its threads beside memory, registers and files."""

import struct
from typing import Any, Final

from agent.restart.contents.fillabi import Demand
from agent.restart.contents.fillprogram import About, FillScript, ProcessProgram
from agent.restart.contents.images import ProcessImage

SIGNALS: Final = 64
_NEVER_CAUGHT: Final = (9, 19)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME, PR_CAPBSET_DROP = 1, 4, 15, 24
PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 28, 38, 47, 2
NO_SETUID_FIXUP: Final = 1 << 2
_CAPABILITY_VERSION: Final = 0x20080522
_CAPABILITIES: Final = 41
SIG_SET: Final = 8
_ITIMERS: Final = (("real", 0), ("virt", 1), ("prof", 2))
RLIM_NOFILE: Final = 7
TIMER_ABSTIME: Final = 0
SIGEV_THREAD_ID: Final = 4
_COMM_BYTES: Final = 16
_ALL: Final = (1 << 64) - 1


def restore_actions(script: FillScript, program: ProcessProgram, core: Any) -> None:
    """Set the actions of all signals."""
    numbers = [number for number in range(1, SIGNALS + 1) if number not in _NEVER_CAUGHT]
    for number, action in zip(numbers, core.tc.sigactions, strict=False):
        if not action.sigaction and not action.flags and not action.mask:
            continue  # the default, which all have by then
        script.about = About("signal", str(number))
        content = struct.pack("<4Q", action.sigaction, action.flags, action.restorer, action.mask)
        script.call("rt_sigaction", number, program.data(content), 0, SIG_SET)


def restore_limits(script: FillScript, program: ProcessProgram, core: Any) -> None:
    """Set the resource limits."""
    for resource, limit in enumerate(core.tc.rlimits.rlimits):
        script.about = About("limit", str(resource))
        script.call("prlimit64", 0, resource, program.data(struct.pack("<2Q", limit.cur, limit.max)), 0)


def restore_timers(script: FillScript, program: ProcessProgram, core: Any) -> None:
    """Set the interval timers, and create the POSIX timers by their numbers."""
    if not core.tc.HasField("timers"):
        return
    for name, number in _ITIMERS:
        timer = getattr(core.tc.timers, name)
        if timer.vsec or timer.vusec:
            script.about = About("timer", name)
            value = struct.pack("<4Q", timer.isec, timer.iusec, timer.vsec, timer.vusec)
            script.call("setitimer", number, program.data(value), 0)
    for timer in sorted(core.tc.timers.posix, key=lambda each: int(each.it_id)):
        script.about = About("timer", str(timer.it_id))
        event = struct.pack(
            "<QiiI44x", timer.sival_ptr, timer.si_signo, timer.it_sigev_notify, timer.notify_thread_id & 0xFFFFFFFF
        )
        script.timer(int(timer.clock_id), program.data(event), int(timer.it_id))
        if timer.vsec or timer.vnsec:
            value = struct.pack("<4Q", timer.isec, timer.insec, timer.vsec, timer.vnsec)
            script.call("timer_settime", int(timer.it_id), TIMER_ABSTIME, program.data(value), 0)


def restore_thread(
    script: FillScript, program: ProcessProgram, image: ProcessImage, tid: int, numbers: tuple[int, int]
) -> None:
    """Set what each thread has of its own.

    Args:
        script: the thread's.
        program: of its process.
        image: of its process.
        tid: its number in the root's namespace.
        numbers: of its process and of itself, as it sees them.
    """
    core = image.cores[tid]
    thread = core.thread_core
    script.about = About("thread", str(tid))
    script.call("set_tid_address", int(core.thread_info.clear_tid_addr), demand=Demand.ANY)
    if thread.futex_rla_len:
        script.call("set_robust_list", int(thread.futex_rla), int(thread.futex_rla_len))
    if thread.HasField("rseq_entry") and thread.rseq_entry.rseq_abi_pointer:
        rseq = thread.rseq_entry
        script.call("rseq", int(rseq.rseq_abi_pointer), int(rseq.rseq_abi_size), 0, int(rseq.signature))
    if thread.HasField("sas"):
        stack = struct.pack("<QiiQ", thread.sas.ss_sp, _signed(thread.sas.ss_flags), 0, thread.sas.ss_size)
        script.call("sigaltstack", program.data(stack), 0)
    comm = core.tc.comm if tid == image.pid else thread.comm
    script.call("prctl", PR_SET_NAME, program.data(bytes(comm)[: _COMM_BYTES - 1] + b"\0"), 0, 0, 0)
    _pending(script, program, thread.signals_p, *numbers)
    if tid == image.pid:
        _pending(script, program, core.tc.signals_s, numbers[0], None)
    if thread.HasField("creds"):
        restore_credentials(script, program, thread.creds)
    if thread.pdeath_sig:
        script.call("prctl", PR_SET_PDEATHSIG, int(thread.pdeath_sig), 0, 0, 0)


def restore_credentials(script: FillScript, program: ProcessProgram, creds: Any) -> None:
    """Take ids, groups, capabilities and secure bits; the capabilities go last, since the rest needs them."""
    script.about = About("credentials", "")
    script.call("prctl", PR_SET_SECUREBITS, NO_SETUID_FIXUP, 0, 0, 0)
    groups = struct.pack(f"<{len(creds.groups)}I", *creds.groups)
    script.call("setgroups", len(creds.groups), program.data(groups))
    script.call("setresgid", int(creds.gid), int(creds.egid), int(creds.sgid))
    script.call("setfsgid", int(creds.fsgid))
    script.call("setresuid", int(creds.uid), int(creds.euid), int(creds.suid))
    script.call("setfsuid", int(creds.fsuid))
    bounding = _mask(creds.cap_bnd)
    for bit in range(_CAPABILITIES):
        if not bounding >> bit & 1:
            script.call("prctl", PR_CAPBSET_DROP, bit, 0, 0, 0)
    head = program.data(struct.pack("<II", _CAPABILITY_VERSION, 0))
    ambient = _mask(creds.cap_amb)
    if ambient:
        _capset(script, program, head, (_mask(creds.cap_prm),) * 2 + (_mask(creds.cap_inh),))
        for bit in range(_CAPABILITIES):
            if ambient >> bit & 1:
                script.call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, bit, 0, 0)
    script.call("prctl", PR_SET_SECUREBITS, int(creds.secbits), 0, 0, 0)
    _capset(script, program, head, (_mask(creds.cap_eff), _mask(creds.cap_prm), _mask(creds.cap_inh)))
    if creds.no_new_privs:
        script.call("prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def blocked(image: ProcessImage, tid: int) -> int:
    """Return the mask of blocked signals of a thread."""
    thread = image.cores[tid].thread_core
    if thread.HasField("blk_sigset"):
        return int(thread.blk_sigset)
    return int(image.core.tc.blk_sigset)


def _capset(script: FillScript, program: ProcessProgram, head: Any, sets: tuple[int, ...]) -> None:
    low = [each & 0xFFFFFFFF for each in sets]
    high = [each >> 32 & 0xFFFFFFFF for each in sets]
    script.call("capset", head, program.data(struct.pack("<6I", *low, *high)))


def _pending(script: FillScript, program: ProcessProgram, queue: Any, pid: int, tid: int | None) -> None:
    for each in queue.signals:
        info = bytes(each.siginfo)
        number = int.from_bytes(info[:4], "little")
        script.about = About("signal", str(number))
        place = program.data(info.ljust(128, b"\0"))
        if tid is None:
            script.call("rt_sigqueueinfo", pid, number, place)
        else:
            script.call("rt_tgsigqueueinfo", pid, tid, number, place)


def _mask(words: Any) -> int:
    return sum(int(word) << 32 * index for index, word in enumerate(words))


def _signed(value: int) -> int:
    return value - (1 << 32) if value >> 31 else value
