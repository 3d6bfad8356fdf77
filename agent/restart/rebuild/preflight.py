# SPDX-License-Identifier: Apache-2.0
"""The checks before a rebuild: limits of this host, rights of the caller, and numbers that are in use."""

import errno
import fcntl
import os
import resource
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.errors import HostError
from agent.proc import cgroups, host
from agent.proc.statfile import UNREADABLE, stat_fields
from agent.restart.planning.plan import CloneBits, Op, Plan, Role
from bpf.btf import Btf

MOST_LEVELS: Final = 32
"""The kernel's MAX_PID_NS_LEVEL."""

_DESCRIPTORS: Final = 128
"""Descriptors that a restart takes: those of its programs are first at numbers above 100."""
_SYS_ADMIN: Final = 1 << 21
_MAY_CHOOSE: Final = _SYS_ADMIN | 1 << 40
"""CAP_SYS_ADMIN and CAP_CHECKPOINT_RESTORE."""
_NS_GET_USERNS: Final = 0xB701


def limit_per_namespace() -> bool | None:
    """Return True if each pid namespace has a pid_max of its own here; None: BTF does not tell.

    Linux kernel commit 7863dcc72d0f "pid: allow pid_max to be set per pid namespace" (in v6.14): the pid_max of a new
    namespace is the largest possible one, and does not depend on the namespace above.
    """
    try:
        btf = Btf()
        struct = btf.structs(["pid_namespace"])["pid_namespace"]
    except (HostError, KeyError):
        return None
    return btf.member(struct, "pid_max") is not None


def preflight(
    plan: Plan,
    *,
    any_numbers: bool = False,
    proc: Path = Path("/proc"),
    machine: str = "",
    limit_per_namespace: Callable[[], bool | None] = limit_per_namespace,
) -> None:
    """Refuse a plan that cannot succeed on this host.

    Args:
        plan: the plan.
        any_numbers: the kernel chooses all numbers.
        proc: the mount point of procfs.
        machine: the processor's name as in uname(); empty: that of this host.
        limit_per_namespace: the function of that name; it is called if a number is above the caller's limit.

    Raises:
        HostError: the host cannot have the tree; the message has all reasons.
    """
    reasons = [*_foreign(proc), *_levels(plan, proc, any_numbers=any_numbers), *_room(plan, proc)]
    reasons += _faults(plan, machine or os.uname().machine)
    if not plan.pidns:
        reasons += _permission(plan, proc, any_numbers=any_numbers)
    if not any_numbers:
        reasons += _too_large(plan, proc, limit_per_namespace)
        if not plan.pidns:
            reasons += _taken(plan, proc)
    if reasons:
        raise HostError("this host cannot have the tree now:\n  " + "\n  ".join(reasons))


def _faults(plan: Plan, machine: str) -> Iterator[str]:
    """Yield a reason for each init that is to end by a fault that no instruction of this processor commits."""
    if machine == "x86_64":
        return
    for step in plan.steps:
        if step.op is not Op.EXIT or os.WTERMSIG(step.value) != signal.SIGFPE:
            continue
        leader = plan.actors[plan.actors[step.by].leader]
        if leader.numbers[-1:] == (1,) or leader.role is Role.KEEPER:
            who = "/".join(map(str, leader.numbers))
            yield (
                f"the init {who} was killed by {signal.SIGFPE.name}, by which an init ends of its own fault alone, and "
                f"on {machine} no division traps: rebuild it on x86_64"
            )


def _foreign(proc: Path) -> Iterator[str]:
    if _level(proc):
        yield (
            f"{proc} shows the numbers of another pid namespace than this process's, so nothing could be verified, nor "
            f"taken down: mount one that is its own (mount -t proc proc {proc})"
        )


def _levels(plan: Plan, proc: Path, *, any_numbers: bool) -> Iterator[str]:
    here = _level(proc)
    deepest = max(actor.depth for actor in plan.actors) + (1 if plan.pidns else 0)
    if here + deepest > MOST_LEVELS:
        yield (
            f"pid namespaces nest {MOST_LEVELS} deep at most; this process is at level {here}, and the tree needs "
            f"{deepest} more"
        )
    levels = max(len(actor.numbers) for actor in plan.actors)
    if levels > MOST_LEVELS and not any_numbers:
        yield f"clone3() lets a process choose numbers at {MOST_LEVELS} levels, and the tree has {levels}"


def _level(proc: Path) -> int:
    """Return the number of pid namespaces from that of the mounted procfs down to this process's."""
    return max(0, len(host.own_status(proc).get("NSpid", "").split()) - 1)


def _permission(plan: Plan, proc: Path, *, any_numbers: bool) -> Iterator[str]:
    """Yield the capabilities that a tree in the caller's pid namespace needs and the caller lacks.

    A tree with a pid namespace of its own needs none, for a user namespace gives them.
    """
    capabilities = _capabilities(proc)
    nests = any(
        step.op in (Op.ENTER, Op.UNSHARE) or (step.op is Op.CLONE and step.value & CloneBits.NEWPID)
        for step in plan.steps
    )
    if nests and not capabilities & _SYS_ADMIN:
        yield "the tree has pid namespaces of its own, which takes CAP_SYS_ADMIN here: be root, or leave out --no-pidns"
    elif not any_numbers and not capabilities & _MAY_CHOOSE:
        yield (
            "to choose numbers here takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE: be root, take any numbers with "
            "--no-pids, or leave out --no-pidns"
        )
    elif not any_numbers and not owns_pid_namespace(proc):
        yield (
            "to choose numbers here takes rights over this pid namespace, which is another user namespace's, and not that "
            "of the caller: leave out --no-pidns, take any numbers with --no-pids, or call it from outside of that one"
        )


def owns_pid_namespace(proc: Path = Path("/proc")) -> bool:
    """Return False if this process's rights in its user namespace are none over its pid namespace; True if unknown.

    The kernel gives the user namespace that owns another one only where the caller's, or one below, is that
    (ns_get_owner(); ioctl_ns(2)). set_tid of clone3() takes rights in that one (alloc_pid()).
    """
    try:
        namespace = os.open(proc / "self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        os.close(fcntl.ioctl(namespace, _NS_GET_USERNS))
    except OSError as error:
        return error.errno != errno.EPERM
    finally:
        os.close(namespace)
    return True


def _capabilities(proc: Path) -> int:
    return int(host.own_status(proc).get("CapEff", "0"), 16)


def _too_large(plan: Plan, proc: Path, limit_per_namespace: Callable[[], bool | None]) -> Iterator[str]:
    """Yield a reason for numbers above the caller's pid_max; inner ones count if the kernel has one limit for all."""
    pid_max = int((proc / "sys/kernel/pid_max").read_text())
    here = 0 if plan.pidns else 1  # the count of an actor's numbers that are of the caller's namespace
    outer = {number for actor in plan.actors for number in actor.numbers[:here] if number >= pid_max}
    inner = {number for actor in plan.actors for number in actor.numbers[here:] if number >= pid_max}
    large = outer | inner if inner and limit_per_namespace() is False else outer
    if large:
        advice = ", or leave out --no-pidns" if outer and large == outer else ""
        yield (
            f"numbers go up to {pid_max - 1} here, and the tree has {_some(sorted(large))}: raise kernel.pid_max{advice}"
        )


def _taken(plan: Plan, proc: Path) -> Iterator[str]:
    advice = ""
    groups = _groups(proc)
    for number in sorted({actor.numbers[0] for actor in plan.actors if actor.numbers}):
        holder = _holder(number, proc, groups)
        if holder:
            init = ", the init of this namespace" if number == 1 else ""
            yield f"the number {number} is taken by {holder}{init}"
            advice = "leave out --no-pidns, or, without contents, take any numbers with --no-pids"
    if advice:
        yield advice


def holders(numbers: tuple[int, ...]) -> str:
    """Return the present holders of numbers as the end of a message, as far as /proc shows them."""
    proc = Path("/proc")
    groups = _groups(proc)
    lines = [f"; {number} is now held by {_holder(number, proc, groups) or 'no visible process'}" for number in numbers]
    advice = "; --no-pids takes any numbers" if lines else ""
    return "".join(lines) + advice


def holders_of(numbers: Iterable[int], proc: Path = Path("/proc")) -> dict[int, str]:
    """Return the numbers of this namespace that are in use, each with its holder as text, as far as /proc shows them."""
    groups = _groups(proc)
    return {number: holder for number in numbers if (holder := _holder(number, proc, groups))}


def _holder(number: int, proc: Path, groups: Mapping[int, str]) -> str:
    """Return the thread, session or group that has a number of this namespace, as text; empty: /proc shows none."""
    # A thread's number is not in the listing of /proc, but can be looked up.
    with suppress(OSError):
        return _described(number, (proc / str(number) / "status").read_text(errors="replace"))
    return groups.get(number, "")


def _described(number: int, status: str) -> str:
    """Return the name of a task from its status file; for a zombie also the process that has to reap it."""
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    name = fields.get("Name", "").strip()
    if not fields.get("State", "").startswith("Z"):
        return name
    if fields.get("Tgid") == str(number) and int(fields.get("Threads", "1")) > 1:
        return f"{name}, whose threads live on"
    # wait4(2): a traced zombie is its tracer's first
    tracer = fields.get("TracerPid", "0")
    return f"a zombie, {name}, that {tracer if tracer != '0' else fields.get('PPid', '?')} has not reaped"


def _groups(proc: Path) -> dict[int, str]:
    """Return sessions and groups by number, as text that names a member."""
    found: dict[int, str] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            with suppress(*UNREADABLE):
                stat = (entry / "stat").read_bytes()
                comm = stat.partition(b"(")[2].rpartition(b")")[0].decode(errors="replace")
                _, _, pgid, sid, *_ = stat_fields(stat)
                found[int(pgid)] = f"the group of {comm}, {entry.name}"
                found[int(sid)] = f"the session of {comm}, {entry.name}"
    return found


def _room(plan: Plan, proc: Path) -> Iterator[str]:
    needed = sum(actor.role is not Role.HELPER for actor in plan.actors)
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if os.geteuid() and soft != resource.RLIM_INFINITY and needed > soft:
        yield f"the limit of processes (ulimit -u) is {soft}, and the tree has {needed}"
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files != resource.RLIM_INFINITY and files < _DESCRIPTORS:
        yield f"the limit of open files (ulimit -n) is {files}, and a restart takes {_DESCRIPTORS}"
    for limit, used, where in _cgroup_limits(proc):
        if used + needed > limit:
            yield f"the cgroup {where} may have {limit} tasks and has {used}; the tree has {needed}"


def _cgroup_limits(proc: Path) -> Iterator[tuple[int, int, str]]:
    """Yield pids.max, pids.current and path of this process's cgroup and of those above it that have a limit."""
    try:
        mounted = cgroups.hierarchies(proc)
    except HostError:
        return
    for one in mounted:
        folder = cgroups.own(one, proc) if one.options is None or "pids" in one.options else None
        for each in (folder, *folder.parents) if folder is not None else ():
            if each != one.mount and one.mount not in each.parents:
                break
            # the root of a hierarchy has no limit; a container's cgroup has one, though its mount shows it as a root
            with suppress(OSError, ValueError):
                limit = (each / "pids.max").read_text().strip()
                if limit != "max":
                    used = int((each / "pids.current").read_text())
                    yield int(limit), used, os.fspath(each)


def _some(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return f"{shown} and {len(numbers) - 10} more" if len(numbers) > 10 else shown
