# SPDX-License-Identifier: Apache-2.0
"""What can be known to fail before anything is made: limits of this host, and numbers that others have."""

import os
import resource
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from agent.details import UNREADABLE, stat_fields
from agent.errors import HostError
from agent.restart.plan import CloneBits, Op, Plan, Role

MOST_LEVELS: Final = 32
"""The kernel's MAX_PID_NS_LEVEL."""

_SYS_ADMIN: Final = 1 << 21
_MAY_CHOOSE: Final = _SYS_ADMIN | 1 << 40
"""CAP_SYS_ADMIN and CAP_CHECKPOINT_RESTORE."""


def preflight(plan: Plan, *, any_numbers: bool = False, proc: Path = Path("/proc")) -> None:
    """Refuse what cannot succeed; all reasons are told at once.

    Raises:
        HostError: naming them.
    """
    reasons = [*_levels(plan, proc, any_numbers=any_numbers), *_room(plan, proc)]
    if not plan.pidns:
        reasons += _permission(plan, proc, any_numbers=any_numbers)
        if not any_numbers:
            reasons += [*_too_large(plan, proc), *_taken(plan, proc)]
    if reasons:
        raise HostError("this host cannot have the tree now:\n  " + "\n  ".join(reasons))


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
    """How many pid namespaces above that of this process the mounted procfs shows."""
    for line in (proc / "self/status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return len(line.split()) - 2
    return 0


def _permission(plan: Plan, proc: Path, *, any_numbers: bool) -> Iterator[str]:
    """In a namespace of its own it is for a user namespace to allow all that; it allows nothing in the caller's."""
    capabilities = _capabilities(proc)
    nests = any(
        step.op in (Op.ENTER, Op.UNSHARE) or (step.op is Op.CLONE and step.value & CloneBits.NEWPID)
        for step in plan.steps
    )
    if nests and not capabilities & _SYS_ADMIN:
        yield "the tree has pid namespaces of its own, which takes CAP_SYS_ADMIN here: be root, or leave out --no-pidns"
    if not any_numbers and not capabilities & _MAY_CHOOSE:
        yield (
            "to choose numbers here takes CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE: be root, take any numbers with "
            "--no-pids, or leave out --no-pidns"
        )


def _capabilities(proc: Path) -> int:
    for line in (proc / "self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "CapEff":
            return int(value, 16)
    return 0


def _too_large(plan: Plan, proc: Path) -> Iterator[str]:
    pid_max = int((proc / "sys/kernel/pid_max").read_text())
    # Deeper levels have limits of their own, which are not visible before they are there.
    large = sorted({actor.numbers[0] for actor in plan.actors if actor.numbers and actor.numbers[0] >= pid_max})
    if large:
        yield (
            f"numbers go up to {pid_max - 1} here, and the tree has {_some(large)}: raise kernel.pid_max, or leave out "
            "--no-pidns"
        )


def _taken(plan: Plan, proc: Path) -> Iterator[str]:
    advice = ""
    groups = _groups(proc)
    for number in sorted({actor.numbers[0] for actor in plan.actors if actor.numbers}):
        holder = _holder(number, proc, groups)
        if holder:
            init = ", the init of this namespace" if number == 1 else ""
            yield f"the number {number} is taken: it is {holder}{init}"
            advice = "take any numbers with --no-pids, or leave out --no-pidns"
    if advice:
        yield advice


def holders(numbers: tuple[int, ...]) -> str:
    """Who has these numbers now, as far as /proc shows it."""
    proc = Path("/proc")
    groups = _groups(proc)
    lines = [
        f"; {number} is now {_holder(number, proc, groups) or 'held by nobody who is visible'}" for number in numbers
    ]
    advice = "; --no-pids takes any numbers" if lines else ""
    return "".join(lines) + advice


def _holder(number: int, proc: Path, groups: Mapping[int, str]) -> str:
    """Who has a number of this namespace, as a thread or for its session or group; empty: nobody that /proc shows."""
    # A thread's number has no entry in the listing, and yet can be looked up.
    with suppress(OSError):
        status = (proc / str(number) / "status").read_text(errors="replace")
        return status.partition("\n")[0].partition(":")[2].strip()
    return groups.get(number, "")


def _groups(proc: Path) -> dict[int, str]:
    """Sessions and groups by number, and one who is in each."""
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
    for limit, used, where in _cgroup_limits(proc):
        if used + needed > limit:
            yield f"the cgroup {where} may have {limit} tasks and has {used}; the tree has {needed}"


def _cgroup_limits(proc: Path) -> Iterator[tuple[int, int, str]]:
    """pids.max and pids.current of the cgroup of this process and of those above it."""
    for line in (proc / "self/cgroup").read_text().splitlines():
        hierarchy, controllers, path = line.split(":", 2)
        if hierarchy != "0" and "pids" not in controllers.split(","):
            continue
        top = Path("/sys/fs/cgroup") if hierarchy == "0" else Path("/sys/fs/cgroup/pids")
        folder = top / path.lstrip("/")
        while folder != top and top in folder.parents:
            try:
                limit = (folder / "pids.max").read_text().strip()
                if limit != "max":
                    used = int((folder / "pids.current").read_text())
                    yield int(limit), used, "/" + str(folder.relative_to(top))
            except (OSError, ValueError):
                pass
            folder = folder.parent


def _some(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return f"{shown} and {len(numbers) - 10} more" if len(numbers) > 10 else shown
