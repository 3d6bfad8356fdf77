# SPDX-License-Identifier: Apache-2.0
"""The checks of a process and its threads: each yields what cannot be restored, or is no state of a process."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from agent.model.signalnames import signal_in_words
from agent.restart.contents import aiorings, filters, registers, taskstate
from agent.restart.contents.credentials import CAP_SETPCAP, mask
from agent.restart.contents.filters import Filters
from agent.restart.contents.hostfacts import (
    CAP_AUDIT_CONTROL,
    CAP_SYS_ADMIN,
    CAP_SYS_NICE,
    CAP_SYS_RESOURCE,
    HostFacts,
)
from agent.restart.contents.images import ProcessImage
from agent.restart.contents.refusals import Refused
from exporters.content import kernelnames
from exporters.criu.criuschema import ALIVE, STOPPED
from exporters.criu.memorymessages import AREA_GUARD

X86_64: Final = 1
_COMPAT: Final = 2
_STOPS: Final = (0, 19, 20, 21, 22)
_KINDS_OF_NOTICE: Final = (0, 1, 2, 4)
"""SIGEV_SIGNAL, SIGEV_NONE, SIGEV_THREAD, SIGEV_THREAD_ID."""
_THREAD_CPU_CLOCKS: Final = (3, 0xFFFFFFFE)
_NS_PER_S, _US_PER_S = 1_000_000_000, 1_000_000
_POLICIES: Final = (0, 1, 2, 3, 5)
_MEMBARRIER: Final = 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8
_STACK_FLAGS: Final = 1 << 31 | 1 | 2
_STACK_MODES, _NO_STACK, _LEAST_STACK = 3, 2, 2048
"""SS_ONSTACK and SS_DISABLE, the second one alone, and MINSIGSTKSZ."""
_ROBUST_LIST: Final = 24
"""Bytes of struct robust_list_head."""
_MOST_GROUPS: Final = 65536
_SIGNAL_WORDS: Final = 2
_LIMITS: Final = 16
_NOFILE: Final = 7
_WORD_MAX: Final = (1 << 31) - 1


def of_images(process: ProcessImage, installed: Filters) -> Iterator[Refused]:
    """Check a process by its images alone."""
    yield from _task(process)
    for tid in process.threads:
        yield from _thread(process, tid, installed)


def of_host(process: ProcessImage, host: HostFacts) -> Iterator[Refused]:
    """Check whether this host and the caller can give a process the state that it had."""
    if host.machine != "x86_64":
        yield Refused("task", host.machine, "architecture", "contents are restored on x86-64 only")
        return
    guard = next((vma for vma in process.mm.vmas if vma.status & AREA_GUARD), None)
    if guard is not None and not host.guards:
        text = "it is a guard region, which this kernel does not have: restart on Linux 6.13 or later"
        yield Refused("memory", f"{guard.start:#x}-{guard.end:#x}", "guard", text)
    tc = process.core.tc
    for resource, limit in enumerate(tc.rlimits.rlimits):
        if resource < _LIMITS and limit.max > host.limits[resource][1] and not host.has(CAP_SYS_RESOURCE):
            wanted, caller = (kernelnames.limit_value(each) for each in (int(limit.max), host.limits[resource][1]))
            text = f"its hard limit {wanted} is above the caller's {caller}: raise that first, or add CAP_SYS_RESOURCE"
            yield Refused("limit", kernelnames.limit(resource), "limit", text)
    highest = max((int(info.fd) for info in process.fds), default=0)
    needed = highest + 1 + len({int(info.id) for info in process.fds})  # each open file is first at a number above all
    if needed > host.limits[_NOFILE][1]:
        text = (
            f"its restart takes {needed} descriptors or more, and the caller may have {host.limits[_NOFILE][1]}: raise "
            "its hard limit of open files, RLIMIT_NOFILE"
        )
        yield Refused("descriptor", str(highest), "limit", text)
    if tc.oom_score_adj < min(host.oom_score_adj, 0) and not host.has(CAP_SYS_RESOURCE):
        text = f"it is below the caller's {host.oom_score_adj}: that takes CAP_SYS_RESOURCE"
        yield Refused("task", f"oom_score_adj {tc.oom_score_adj}", "oom", text)
    settable = host.loginuid == taskstate.NO_LOGIN or (host.loginuid is not None and host.has(CAP_AUDIT_CONTROL))
    if tc.HasField("loginuid") and tc.loginuid not in (taskstate.NO_LOGIN, host.loginuid) and not settable:
        text = "the kernel gives no process that login user here: it takes CAP_AUDIT_CONTROL"
        yield Refused("task", f"loginuid {tc.loginuid}", "loginuid", text)
    for tid in process.threads:
        yield from _thread_of_host(process, tid, host)


def _task(process: ProcessImage) -> Iterator[Refused]:
    core = process.core
    tc = core.tc
    if int(tc.task_state) not in (ALIVE, STOPPED):
        yield Refused("task", f"state {tc.task_state}", "state", "no state that a dump leaves a process in")
    if int(tc.stop_signo) not in _STOPS:
        yield Refused("signal", str(tc.stop_signo), "signal", "no signal that stops a process")
    if len(tc.sigactions) > taskstate.SIGNALS - len(taskstate.NEVER_CAUGHT):
        yield Refused("signal", "", "signal", "the images have actions for more signals than there are")
    if any(each.compat_sigaction or each.mask_extended for each in tc.sigactions) or tc.blk_sigset_extended:
        yield Refused(
            "signal", "", "architecture", "the actions are those of a 32-bit program, or of another processor"
        )
    yield from _signals(tc.signals_s.signals)
    for resource, limit in enumerate(tc.rlimits.rlimits):
        if limit.cur > limit.max:
            text = f"its soft limit {limit.cur} is above its hard one {limit.max}"
            yield Refused("limit", kernelnames.limit(resource), "limit", text)
    if len(tc.rlimits.rlimits) > _LIMITS:
        yield Refused("limit", str(_LIMITS), "limit", "the kernel has no limit of this number")
    if tc.membarrier_registration_mask & ~_MEMBARRIER:
        text = f"a registration for membarrier() that is not known here: {tc.membarrier_registration_mask:#x}"
        yield Refused("task", "membarrier", "membarrier", text)
    if taskstate.personality(int(tc.personality)) is None:
        yield Refused(
            "task", "personality", "personality", f"the images do not tell it: {tc.personality} is a part of it"
        )
    yield from aiorings.faults(process)
    yield from _timers(process)


def _timers(process: ProcessImage) -> Iterator[Refused]:
    timers = process.core.tc.timers
    for name in ("real", "virt", "prof"):
        one = getattr(timers, name)
        if max(one.iusec, one.vusec) >= _US_PER_S or max(one.isec, one.vsec) > _WORD_MAX << 16:
            yield Refused("timer", name, "timer", "its times are none")
    seen = set()
    for timer in timers.posix:
        place = "timer", str(timer.it_id)
        if timer.it_id in seen or timer.it_id > _WORD_MAX:
            yield Refused(*place, "timer", "two timers have this number, or none can")
        seen.add(timer.it_id)
        if timer.it_sigev_notify not in _KINDS_OF_NOTICE or timer.si_signo > taskstate.SIGNALS:
            text = f"its notice {timer.it_sigev_notify} by {signal_in_words(int(timer.si_signo))} is none"
            yield Refused(*place, "timer", text)
        if timer.it_sigev_notify == taskstate.SIGEV_THREAD_ID and timer.notify_thread_id not in process.threads:
            yield Refused(
                *place, "timer", f"it signals thread {timer.notify_thread_id}, which the process does not have"
            )
        if max(timer.insec, timer.vnsec) >= _NS_PER_S or max(timer.isec, timer.vsec) > _WORD_MAX << 16:
            yield Refused(*place, "timer", "its times are none")
        if timer.clock_id in _THREAD_CPU_CLOCKS and len(process.threads) > 1:
            yield Refused(*place, "timer", "it counts the processor time of one thread, and no image says of which")


def _thread(process: ProcessImage, tid: int, installed: Filters) -> Iterator[Refused]:
    core = process.cores[tid]
    place = "thread", str(tid)
    if core.mtype != X86_64 or not core.HasField("thread_info"):
        text = "the images are of another processor: restart on a host of the same architecture, which must be x86-64"
        yield Refused(*place, "architecture", text)
        return
    if not core.HasField("thread_core") or not core.thread_core.HasField("creds"):
        yield Refused(*place, "missing", "the images do not have its credentials")
        return
    if core.thread_info.gpregs.mode == _COMPAT:
        yield Refused(*place, "architecture", "a 32-bit program is not restored")
    if any(not each.seg_not_present for each in core.thread_info.tls):
        yield Refused(*place, "tls", "it uses a segment of set_thread_area(), which is not restored")
    for text in registers.lacks(core.thread_info.fpregs):
        yield Refused("registers", str(tid), "registers", text)
    thread = core.thread_core
    if thread.blk_sigset_extended:
        yield Refused(*place, "architecture", "its signal mask is that of another processor")
    if thread.pdeath_sig > taskstate.SIGNALS:
        yield Refused("signal", str(thread.pdeath_sig), "signal", "there is no such signal")
    if thread.sas.ss_flags & ~_STACK_FLAGS:
        yield Refused(*place, "stack", f"the flags {thread.sas.ss_flags:#x} of its signal stack are not known here")
    mode = thread.sas.ss_flags & _STACK_MODES
    if mode == _STACK_MODES or (thread.HasField("sas") and not mode & _NO_STACK and thread.sas.ss_size < _LEAST_STACK):
        text = (
            f"flags {thread.sas.ss_flags:#x} and {thread.sas.ss_size} bytes are none of a signal stack: dump it again"
        )
        yield Refused(*place, "stack", text)
    if thread.futex_rla_len not in (0, _ROBUST_LIST):
        text = (
            f"its list of robust futexes has a head of {thread.futex_rla_len} bytes, not {_ROBUST_LIST}: dump it again"
        )
        yield Refused(*place, "futex", text)
    if thread.rseq_entry.rseq_cs_pointer:
        text = "it was within a restartable sequence that must not be restarted, which kernels since Linux 6.0 refuse"
        yield Refused(*place, "rseq", text)
    yield from _signals(thread.signals_p.signals)
    yield from _scheduling(tid, thread)
    yield from _credentials(tid, thread.creds)
    try:
        if filters.mode(process, tid) > filters.FILTER:
            yield Refused("seccomp", str(tid), "seccomp", "its mode is not known here")
        filters.chain(process, tid, installed)
    except Refused as refused:
        yield refused


def _scheduling(tid: int, thread: Any) -> Iterator[Refused]:
    policy = int(thread.sched_policy)
    place = "scheduling", str(tid)
    if policy & ~taskstate.SCHED_RESET_ON_FORK not in _POLICIES:
        yield Refused(*place, "scheduling", f"the policy {policy} is not restored")
    elif taskstate.is_realtime(policy) != bool(thread.sched_prio) or thread.sched_prio > 99:
        yield Refused(*place, "scheduling", f"the policy {policy} has no priority {thread.sched_prio}")
    if not -20 <= thread.sched_nice <= 19:
        yield Refused(*place, "scheduling", f"there is no nice value {thread.sched_nice}")


def _credentials(tid: int, creds: Any) -> Iterator[Refused]:
    place = "credentials", str(tid)
    if len(creds.groups) > _MOST_GROUPS:
        yield Refused(*place, "groups", f"{len(creds.groups)} groups are more than a process can have")
    names = ("cap_inh", "cap_prm", "cap_eff", "cap_bnd", "cap_amb")
    if any(len(getattr(creds, name)) > _SIGNAL_WORDS for name in names):
        yield Refused(*place, "capabilities", "its capabilities have more words than the kernel's")
        return
    inheritable, permitted, effective, _, ambient = (mask(getattr(creds, name)) for name in names)
    if effective & ~permitted or ambient & ~(permitted & inheritable):
        yield Refused(*place, "capabilities", "its sets of capabilities contradict each other")
    if creds.lsm_sockcreate or creds.apparmor_data:
        text = "a security module keeps a label for its sockets, or a policy of its own: these are not restored"
        yield Refused(*place, "label", text)


def _signals(signals: Iterable[Any]) -> Iterator[Refused]:
    for each in signals:
        info = bytes(each.siginfo)
        number = int.from_bytes(info[:4], "little")
        if len(info) != taskstate.SIGINFO or not 0 < number <= taskstate.SIGNALS or number in taskstate.NEVER_CAUGHT:
            yield Refused("signal", str(number), "signal", "it cannot be pending")


def ids_of_host(tid: int, ids: Iterable[tuple[str, Iterable[int], tuple[range, ...]]]) -> Iterator[Refused]:
    """Check whether a thread can have its ids here.

    Args:
        tid: its number.
        ids: a word for each kind, those of the thread, and the ranges that there are here.
    """
    for what, those, there in ids:
        for each in sorted({int(one) for one in those}):
            if not any(each in ids_here for ids_here in there):
                yield Refused("credentials", str(tid), what, f"there is no {what} {each} here")


def _thread_of_host(process: ProcessImage, tid: int, host: HostFacts) -> Iterator[Refused]:
    core = process.cores[tid]
    thread, creds = core.thread_core, core.thread_core.creds
    for text in registers.lacks_here(core.thread_info.fpregs, host.flags):
        yield Refused("registers", str(tid), "registers", text)
    raised = taskstate.is_realtime(int(thread.sched_policy)) or thread.sched_nice < host.nice
    if raised and not host.has(CAP_SYS_NICE):
        yield Refused("scheduling", str(tid), "scheduling", "its priority takes CAP_SYS_NICE")
    if host.filtered:
        text = "the caller has seccomp filters, which the task would get as well: restart where there are none"
        yield Refused("seccomp", str(tid), "seccomp", text)
    elif filters.mode(process, tid) and not host.has(CAP_SYS_ADMIN):
        text = "the caller lacks CAP_SYS_ADMIN, which it takes to fill a task behind its filter"
        yield Refused("seccomp", str(tid), "seccomp", text)
    place = "credentials", str(tid)
    users = creds.uid, creds.euid, creds.suid, creds.fsuid
    groups = creds.gid, creds.egid, creds.sgid, creds.fsgid, *creds.groups
    yield from ids_of_host(tid, (("user", users, host.uids), ("group", groups, host.gids)))
    if host.groups is not None and frozenset(map(int, creds.groups)) != host.groups:
        yield Refused(*place, "groups", "the caller may give no other groups than its own")
    wanted = mask(creds.cap_prm) | mask(creds.cap_inh)
    for what, lacking in (
        ("has", wanted & ~host.granted),
        ("has in its bounding set", mask(creds.cap_bnd) & ~host.bounding),
    ):
        if lacking:
            text = f"it {what} {kernelnames.capabilities(lacking)}, and the caller lacks that: give it to the caller"
            yield Refused(*place, "capabilities", text)
    if not host.granted >> CAP_SETPCAP & 1:
        yield Refused(*place, "capabilities", "the caller lacks CAP_SETPCAP, without which none can be put back")
    if host.no_new_privs and not creds.no_new_privs:
        yield Refused(*place, "no_new_privs", "the caller has no_new_privs, which nothing takes away, and it had not")
    label = bytes(creds.lsm_profile)
    if label and label != host.profile:
        name, own = (each.decode(errors="replace") for each in (label, host.profile or b"none"))
        yield Refused(*place, "label", f"its security label was {name}, and the caller's is {own}: restart under that")
