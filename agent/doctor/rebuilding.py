# SPDX-License-Identifier: Apache-2.0
"""Findings about rebuilding: two processes, one with a chosen pid, are rebuilt and ended."""

import ctypes
import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final

from agent.doctor.diagnosis import Diagnosis
from agent.errors import CkptreeError, in_words
from agent.model import Completeness, Header, PidObject, Snapshot, Tag, Task
from agent.restart.planning.search import make_plan
from agent.restart.rebuild.beginning import beginning
from agent.restart.rebuild.coordinator import Rebuild
from agent.restart.rebuild.helperprogram import RESERVED_PIDS
from agent.restart.rebuild.preflight import limit_per_namespace

MOST_PIDS: Final = 1 << 22
"""The kernel's PID_MAX_LIMIT on 64-bit machines."""

_NOBODY: Final = 65534
_CHOSEN_PID: Final = 4711  # in a pid namespace of its own, where any number is free
_CLONE_NEWUSER_NEWPID: Final = 0x1000_0000 | 0x2000_0000
_OVER_SYSCTL: Final = {
    "kernel/unprivileged_userns_clone": ("0", "sysctl kernel.unprivileged_userns_clone=1"),
    "user/max_user_namespaces": ("0", "sysctl user.max_user_namespaces=10000"),
    "user/max_pid_namespaces": ("0", "sysctl user.max_pid_namespaces=10000"),
    "kernel/apparmor_restrict_unprivileged_userns": ("1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
}


def a_tree(*numbers: int) -> Snapshot:
    """Return a tree of processes with these numbers, each the parent of the next, all in the session of the first."""
    tasks = tuple(
        Task(pid=tag, ppid=above, tgid=tag, pgid=Tag(1), sid=Tag(1), depth=0, comm=b"ckptree")
        for above, tag in pairwise(map(Tag, range(len(numbers) + 1)))
    )
    return Snapshot(
        mode="subtree",
        time_ns=0,
        pids=tuple(PidObject((number,), ()) for number in numbers),
        tasks=tasks,
        header=Header(),
        completeness=Completeness("no"),
    )


def examine(proc: Path = Path("/proc")) -> Iterator[Diagnosis]:
    """Yield all findings about rebuilding; the last one is about the whole, as ``restart``."""
    whole = _rebuilt()
    yield pid_max(proc, per_namespace=limit_per_namespace())
    yield _here(proc)
    yield _ordinary(proc) if os.geteuid() == 0 else _as_we_are(whole, proc)
    yield whole


def _rebuilt() -> Diagnosis:
    tree = a_tree(1, _CHOSEN_PID)
    try:
        plan = make_plan(tree)
        with Rebuild(plan, no_stdio=True, begin=beginning(tree, pidns=True)) as rebuild:
            rebuild.build()
            numbers = rebuild.numbers
    except (CkptreeError, OSError) as error:
        return Diagnosis(
            "no", "restart", in_words(error), "" if os.geteuid() == 0 else "be root, or see user namespaces above"
        )
    if (_CHOSEN_PID,) not in numbers:
        return Diagnosis("no", "restart", f"processes with other numbers stood: {numbers}")
    return Diagnosis("ok", "restart", "two processes with chosen pids stood in a pid namespace of their own")


def _here(proc: Path) -> Diagnosis:
    free = next(number for number in range(_pid_max(proc) - 1, RESERVED_PIDS, -1) if not (proc / str(number)).exists())
    tree = a_tree(free)
    try:
        plan = make_plan(tree, pidns=False)
        with Rebuild(plan, no_stdio=True, begin=beginning(tree, pidns=False)) as rebuild:
            rebuild.build()
    except (CkptreeError, OSError) as error:
        mend = "be root, or have CAP_CHECKPOINT_RESTORE; without --no-pidns it is not needed"
        return Diagnosis("warn", "restart --no-pidns", in_words(error), mend)
    return Diagnosis("ok", "restart --no-pidns", f"a process with the chosen pid {free} stood in this pid namespace")


def _pid_max(proc: Path) -> int:
    return int((proc / "sys/kernel/pid_max").read_text())


def pid_max(proc: Path, *, per_namespace: bool | None) -> Diagnosis:
    """Compare the largest pid of this namespace with the kernel's largest.

    Args:
        proc: mount point of procfs.
        per_namespace: result of preflight.limit_per_namespace().
    """
    most = _pid_max(proc)
    if most < MOST_PIDS:
        if per_namespace:
            found = (
                f"{most}: larger numbers of other hosts can be given in a pid namespace of its own, not with --no-pidns"
            )
        else:
            found = f"{most}: numbers of other hosts may be larger, and cannot be given here"
        return Diagnosis("warn", "kernel.pid_max", found, f"sysctl kernel.pid_max={MOST_PIDS}")
    return Diagnosis("ok", "kernel.pid_max", str(most))


def _ordinary(proc: Path) -> Diagnosis:
    """Become the user nobody in a child, and try to make namespaces; for root."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
            libc = ctypes.CDLL(None, use_errno=True)
            status = ctypes.get_errno() if libc.unshare(_CLONE_NEWUSER_NEWPID) else 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return Diagnosis("ok", "user namespaces", "ordinary users can restart trees")
    reason = os.strerror(code) if code > 0 else signal.Signals(-code).name
    return Diagnosis("warn", "user namespaces", f"ordinary users cannot restart trees: {reason}", forbidding(proc))


def _as_we_are(whole: Diagnosis, proc: Path) -> Diagnosis:
    if whole.state == "ok":
        return Diagnosis("ok", "user namespaces", "ordinary users can restart trees")
    return Diagnosis("warn", "user namespaces", "ordinary users cannot restart trees", forbidding(proc))


def forbidding(proc: Path) -> str:
    """Return the commands that change the settings which forbid user namespaces."""
    commands = []
    for name, (value, command) in _OVER_SYSCTL.items():
        path = proc / "sys" / name
        if path.exists() and path.read_text().strip() == value:
            commands.append(command)
    return "; ".join(commands)
