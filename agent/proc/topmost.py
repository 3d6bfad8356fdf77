# SPDX-License-Identifier: Apache-2.0
"""The topmost process of a cgroup, unit, job, container or pod: the root of a snapshot of it.

A process is topmost if its parent is not in the cgroup. A snapshot needs exactly one, and has the tree below it, also
the parts that have moved to another cgroup. A view may have several: a process of ``docker exec`` is topmost beside the
container's init.

The search reads several files of the kernel one after the other, so its result must hold before and after the snapshot:
the topmost process is found, the snapshot is taken, and then the cgroup must still have the same topmost process. A
pidfd shows that it lives on, so that its number is still its own. Otherwise all is repeated, a few times.
"""

import os
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Final, TypeVar

from agent.errors import CkptreeError, HostError, NoSuchRootError, RefusedError
from agent.proc.statfile import UNREADABLE, stat_fields
from agent.record import NamedTuple
from agent.rootname import CgroupsName, ContainerName, JobName, PodName, RootName, Target

_ATTEMPTS: Final = 5
_MANAGER: Final = "slurmstepd"
_PF_KTHREAD: Final = 0x0020_0000
_PPID, _FLAGS, _STARTTIME = (
    4 - 3,
    9 - 3,
    22 - 3,
)  # proc(5) counts from 1, and the first field after the name is the third

T = TypeVar("T")


class Member(NamedTuple):
    """A process in a cgroup.

    Attributes:
        pid, ppid: numbers in this process's pid namespace.
        start: clock ticks since boot.
        comm: its name.
        kernel: True for a kernel thread.
    """

    pid: int
    ppid: int
    start: int
    comm: str
    kernel: bool = False


def answered(target: Target, ask: Callable[[str], T], proc: Path = Path("/proc")) -> T:
    """Return the answer of `ask` about the process that a target means.

    Args:
        target: from rootname.parse_target.
        ask: takes a ROOT that is a pid or a pid namespace.
        proc: mount point of procfs.

    Raises:
        NoSuchRootError: there is no such cgroup, unit, job, container or pod, or no process in it.
        RefusedError: several of its processes are topmost; all are listed.
        CkptreeError: its topmost process changed at each attempt; or `ask` raises it.
    """
    return _answered(target, lambda name: [topmost(name, proc)], lambda pids: ask(pids[0]), proc)


def answered_of_all(target: Target, ask: Callable[[list[str]], T], proc: Path = Path("/proc")) -> T:
    """Return the answer of `ask` about all topmost processes that a target means.

    Args:
        target: from rootname.parse_target.
        ask: takes all ROOTs, in order, none of them below another.
        proc: mount point of procfs.

    Raises:
        NoSuchRootError: there is no such cgroup, unit, job, container or pod, or no process in it.
        CkptreeError: its topmost processes changed at each attempt; or `ask` raises it.
    """
    return _answered(target, lambda name: _apart(tops(name, proc), proc), ask, proc)


def _answered(
    target: Target,
    look: Callable[[CgroupsName], list[Member]],
    ask: Callable[[list[str]], T],
    proc: Path,
) -> T:
    """Look, ask, and look again; return an answer whose processes were the topmost ones both times."""
    if isinstance(target, RootName):
        return ask([f"pidns:{target.number}" if target.namespace else str(target.number)])
    for _ in range(_ATTEMPTS):
        found = look(target)
        with ExitStack() as held:
            try:
                pidfds = [_hold(member.pid, held) for member in found]
            except ProcessLookupError:
                continue
            if [_member(member.pid, proc) for member in found] != found:
                continue  # gone before its pidfd was opened
            try:
                answer = ask([str(member.pid) for member in found])
            except NoSuchRootError:
                if all(map(_is_there, pidfds)):
                    raise
                continue
            try:
                same = all(map(_is_there, pidfds)) and look(target) == found
            except (RefusedError, NoSuchRootError):
                same = False
            if same:
                return answer
            if isinstance(answer, AbstractContextManager):
                answer.__exit__(None, None, None)  # a subscription to another process
    raise CkptreeError(
        f"{target}: its topmost process was another one each time, {_ATTEMPTS} times: name one by its pid"
    )


def _hold(pid: int, held: ExitStack) -> int:
    pidfd = os.pidfd_open(pid)
    held.callback(os.close, pidfd)
    return pidfd


def topmost(name: CgroupsName, proc: Path = Path("/proc")) -> Member:
    """Return the one process of a cgroup or unit whose parent is not in it.

    The tasks of a step of Slurm have one parent, its slurmstepd. Where the step has several tasks here, and this process
    may see that parent's tree, the parent is returned in their place: else a step of several tasks would have no image.

    Raises:
        NoSuchRootError: there is no such cgroup, unit, job, container or pod, or no process in it.
        RefusedError: there are several; all are listed.
        HostError: this process cannot see some of the processes.
    """
    found = tops(name, proc)
    if len(found) > 1 and isinstance(name, JobName) and (above := _manager(found, proc)) is not None:
        return above
    if len(found) > 1:
        raise RefusedError(
            f"{name} has {len(found)} topmost processes, and a snapshot has one root: name one of them by its pid",
            [f"{top.pid} {top.comm}, child of {top.ppid}" for top in found],
        )
    return found[0]


def _manager(found: list[Member], proc: Path) -> Member | None:
    """Return the slurmstepd that is the parent of all; None: there is none, or it belongs to another user than root's."""
    parents = {each.ppid for each in found}
    above = _member(parents.pop(), proc) if len(parents) == 1 and 0 not in parents else None
    return above if above is not None and above.comm.startswith(_MANAGER) and os.geteuid() == 0 else None


def tops(name: CgroupsName, proc: Path = Path("/proc")) -> list[Member]:
    """Return the processes of a cgroup or unit whose parents are not in it, ordered by number.

    Raises:
        NoSuchRootError: there is no such cgroup, unit, job, container or pod, or no process in it.
        HostError: this process cannot see some of the processes.
    """
    members = _members(name, _folders(name, proc), proc)
    found = sorted(member for member in members.values() if member.ppid not in members)
    if not found:
        raise NoSuchRootError(f"{name} has no process")
    return found


def _apart(found: list[Member], proc: Path) -> list[Member]:
    """Leave out processes that descend from another one of the list, by way of a process in another cgroup."""
    pids = {member.pid for member in found}
    apart = []
    for member in found:
        above: Member | None = member
        seen = {member.pid}
        while above is not None and above.ppid not in seen and above.ppid not in pids:
            seen.add(above.ppid)
            above = _member(above.ppid, proc) if above.ppid else None
        if above is None or above.ppid not in pids:
            apart.append(member)
    return apart


def _folders(name: CgroupsName, proc: Path) -> list[Path]:
    """Return the folders of the cgroups that a name stands for. Each module is imported for the names it knows alone."""
    match name:
        case JobName():
            from agent.proc import slurmjobs

            return slurmjobs.find(name, proc)
        case ContainerName():
            from agent.proc import containers

            return containers.find(name, proc)
        case PodName():
            from agent.proc import pods

            return pods.find(name, proc)
        case _:
            from agent.proc import cgroups

            return [cgroups.find(name, proc)]


def _listed(folders: list[Path]) -> set[int]:
    """Return the processes of cgroups, of which some, but not all, may be gone."""
    from agent.proc import cgroups

    found: set[int] = set()
    gone = None
    for folder in folders:
        try:
            found |= cgroups.processes(folder)
        except NoSuchRootError as error:
            gone = error
    if gone is not None and not found:
        raise gone
    return found


def _members(name: CgroupsName, folders: list[Path], proc: Path) -> dict[int, Member]:
    """Return the processes by pid, without kernel threads."""
    found: dict[int, Member] = {}
    unseen: set[int] = set()
    for again in (True, False):
        pids = _listed(folders)
        if 0 in pids:
            raise HostError(f"{name} has processes that this pid namespace does not see: ask on the host")
        found = {pid: member for pid in pids if (member := _member(pid, proc)) is not None}
        # A process that the cgroup lists and /proc does not show has gone meanwhile. If it is so twice, it is hidden.
        hidden, unseen = unseen & (pids - found.keys()), pids - found.keys()
        if not unseen:
            break
        if not again and hidden:
            raise HostError(
                f"{name} has processes that {proc} does not show ({', '.join(map(str, sorted(hidden)[:10]))}): it is "
                "mounted with hidepid, or for another pid namespace"
            )
    return {pid: member for pid, member in found.items() if not member.kernel}


def _member(pid: int, proc: Path) -> Member | None:
    """Read a process's stat; return None where it is gone or hidden."""
    try:
        stat = (proc / str(pid) / "stat").read_bytes()
    except UNREADABLE:
        return None
    fields = stat_fields(stat)
    comm = stat.partition(b"(")[2].rpartition(b")")[0].decode(errors="backslashreplace")
    kernel = bool(int(fields[_FLAGS]) & _PF_KTHREAD)
    return Member(pid, int(fields[_PPID]), int(fields[_STARTTIME]), comm, kernel)


def _is_there(held: int) -> bool:
    try:
        signal.pidfd_send_signal(held, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, and belongs to another user
    return True
