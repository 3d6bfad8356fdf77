# SPDX-License-Identifier: Apache-2.0
"""Live objects made of a /proc scan, so that the selection has one form of input for every source.

Some facts that /proc lacks are derived: the pid object of a dead group or session leader has the numbers that its
members see; a namespace's parent is that of the nearest ancestor one level up. Births, the subreaper flag, owners of
files and the remainder of a terminal that hung up are not known. A snapshot from /proc is never verified.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agent import rootname
from agent.errors import NoSuchRootError, RefusedError
from agent.model import OUTSIDE, Completeness, Mode, OutsidePid, PidRef, Snapshot, Task, Terminal, WaitStatus
from agent.proc import host, procfs
from agent.selection import select
from agent.table import rules
from agent.table.objects import EXITED, KERNEL, STOPPED, Pid, PidNamespace, TaskStruct
from agent.table.pidspace import INITIAL_INUM

_UNVERIFIED = "source procfs: read task by task while they ran, so it may show a state that never was"


class ProcTable:
    """The tasks of one scan.

    Args:
        rows: from procfs.scan().
    """

    def __init__(self, rows: Sequence[procfs.ProcRow]) -> None:
        self.initial = PidNamespace(0, INITIAL_INUM, None)
        self.tasks: dict[int, TaskStruct] = {}
        self._rows = {row.tid: row for row in rows}
        self._namespaces: dict[tuple[int, int, int], PidNamespace] = {}
        for row in rows:
            self._enter_pid(row.tid, row.numbers, self._namespace(row))
        leaders = [row for row in rows if row.tid == row.tgid]
        self._dead = self._deepest(leaders)
        self._stopped = _stopped(rows)
        for row in leaders:
            task = self._task(row)
            rules.add_process(task, None, self._held(row.pgid_numbers), self._held(row.sid_numbers))
        for row in rows:
            if row.tid != row.tgid and row.tgid in self.tasks:
                rules.add_thread(self._task(row), self.tasks[row.tgid])
        for row in leaders:
            parent = self.tasks.get(row.ppid)
            if parent is not None:
                rules.link_child(self.tasks[row.tid], parent)

    def _task(self, row: procfs.ProcRow) -> TaskStruct:
        flags = KERNEL if row.kernel_thread else 0
        if row.state == "Z":
            flags |= EXITED
        elif row.tgid in self._stopped:
            flags |= STOPPED
        task = TaskStruct(self.initial.numbers[row.numbers[0]], row.start_ns, 0, flags)
        task.exit_code = row.exit_code or WaitStatus(0)
        task.exit_signal = row.exit_signal
        task.comm = row.comm
        task.ids = (row.uid, row.gid)
        if row.pid_ns_for_children not in (None, row.pid_ns):
            task.child_namespace = self._pending(row.pid_ns_for_children or 0)
        self.tasks[row.tid] = task
        return task

    def _pending(self, inum: int) -> tuple[int, int]:
        """Return the namespace of a task's next child as (identity, inode number); identity -1 where no task lives in
        it.
        """
        known = next((one.identity for one in self._namespaces.values() if one.inum == inum and inum), -1)
        return known, inum

    def _namespace(self, row: procfs.ProcRow) -> PidNamespace:
        """Return a task's namespace: its parent's, where that is on the same level, else one below its parent's."""
        level = len(row.numbers) - 1
        if not level:
            return self.initial
        above = self._rows.get(row.ppid)
        seen = {row.tid}
        while above is not None and len(above.numbers) > level + 1 and above.tid not in seen:
            seen.add(above.tid)
            above = self._rows.get(above.ppid)
        if above is not None and len(above.numbers) == level + 1 and above.tid not in seen:
            namespace = self._namespace(above)
            namespace.inum = namespace.inum or row.pid_ns or 0
            return namespace
        parent = self._namespace(above) if above is not None and len(above.numbers) <= level else self.initial
        while parent.level < level - 1:  # the namespace between has no visible init: enter it without an inode number
            parent = self._named(0, 0, parent)
        return self._named(row.pid_ns or 0, row.tid, parent)

    def _named(self, inum: int, top: int, parent: PidNamespace) -> PidNamespace:
        """Return a namespace by its inode number; where that cannot be read, by its topmost task."""
        key = (inum, 0 if inum else top, id(parent))
        if key not in self._namespaces:
            self._namespaces[key] = PidNamespace(len(self._namespaces) + 1, inum, parent)
        return self._namespaces[key]

    def _enter_pid(self, identity: int, numbers: tuple[int, ...], namespace: PidNamespace) -> Pid:
        pid = Pid(identity, numbers, namespace)
        rules.hash_pid(pid)
        return pid

    def _held(self, numbers: tuple[int, ...]) -> Pid:
        """Return the pid object of a group or session; one without a task has the numbers of its deepest member."""
        known = self.initial.numbers.get(numbers[0])
        if known is not None:
            return known
        visible, namespace = self._dead[numbers[0]]
        return self._enter_pid(numbers[0], visible, namespace.ancestor(len(visible) - 1))

    def _deepest(self, rows: Sequence[procfs.ProcRow]) -> dict[int, tuple[tuple[int, ...], PidNamespace]]:
        """Return for each group and session, by its outermost number, all numbers that a member sees, and the
        namespace.
        """
        found: dict[int, tuple[tuple[int, ...], PidNamespace]] = {}
        for row in rows:
            for numbers in (row.pgid_numbers, row.sid_numbers):
                visible = tuple(number for number in numbers if number) or (0,)
                known = found.get(numbers[0])
                if known is None or len(known[0]) < len(visible):
                    found[numbers[0]] = (visible, self._namespace(row))
        return found

    def as_known(self, row: Task, numbers: tuple[int, ...]) -> Task:
        """Return a row without the facts that /proc hides: the subreaper flag, and an exit code without permission."""
        hidden = row.exit_code == 0 and any(
            one.exit_code is None
            for one in self._rows.values()
            if one.state == "Z" and one.numbers[-len(numbers) :] == numbers
        )
        return row._replace(subreaper=None, exit_code=None if hidden else row.exit_code)

    def terminal(self, task: TaskStruct, chosen: select.Selection) -> Terminal | None:
        """Return the controlling terminal of a leader; None for a thread, and where there is none."""
        row = self._rows[task.pid.numbers[0]]
        if task.leader is not task or not row.terminal:
            return None
        pid = self.initial.numbers.get(row.foreground)
        pgrp: PidRef | None = chosen.refs(pid) if pid is not None else None
        if row.foreground <= 0:
            pgrp = OUTSIDE
        elif pid is None and not next(iter(chosen.inside)).pid.level:
            pgrp = OutsidePid((row.foreground,), (0,))  # /proc has only the outermost number of a group without tasks
        return Terminal(host.device_name(row.terminal), pgrp, None)

    def find(self, root: str) -> TaskStruct:
        """Return the task of a pid, or the init of ``pidns:INUM``.

        Raises:
            NoSuchRootError: there is no such task, or it is a thread.
        """
        wanted = rootname.parse(root)
        if wanted.namespace:
            for task in self.tasks.values():
                if task.pid.namespace.inum == wanted.number and task.pid.numbers[-1] == 1:
                    return task
            raise NoSuchRootError(f"/proc shows no init of a pid namespace {wanted}")
        found = self.tasks.get(wanted.number)
        if found is None:
            raise NoSuchRootError(f"no such process: {wanted}")
        if found.leader is not found:
            raise NoSuchRootError(f"{wanted} is a thread, not a process: its process is {found.leader.pid.numbers[0]}")
        return found


def _stopped(rows: Sequence[procfs.ProcRow]) -> set[int]:
    """Return the processes whose group is stopped, as far as /proc tells.

    /proc shows T for a task that stopped with its group, and t for one that its tracer holds; t says nothing of the
    group. So a group whose tasks are all traced counts as running, and so does one in which a thread has yet to stop.
    """
    letters: dict[int, set[str]] = {}
    for row in rows:
        letters.setdefault(row.tgid, set()).add(row.state)
    return {tgid for tgid, found in letters.items() if "T" in found and found <= {"T", "t", "Z"}}


def snapshot(
    root: str,
    mode: str,
    *,
    without_entered: bool = False,
    proc: Path = Path("/proc"),
    at_cut: Callable[[select.Selection], None] = lambda _: None,
) -> Snapshot:
    """Take a snapshot from /proc, marked as not verified.

    Args:
        root, mode, without_entered: as of agent.capture.snapshots.Snapshots.
        proc: mount point of procfs.
        at_cut: called with the selection.

    Raises:
        CkptreeError: no such root, a leak, or no /proc.
    """
    table = ProcTable(procfs.scan(proc))
    task = table.find(root)
    resolved: Mode = select.resolve_mode(task, mode)
    try:
        chosen = select.select(task, resolved, without_entered=without_entered)
    except RefusedError as error:
        raise RefusedError(f"as far as /proc tells, {error}", error.leaks) from error
    at_cut(chosen)
    return Snapshot(
        mode=resolved,
        time_ns=time.time_ns(),
        boottime_ns=host.cut_clock(proc)(),
        pids=chosen.pids,
        tasks=tuple(
            table.as_known(row, chosen.pids[row.pid - 1].numbers)._replace(tty=table.terminal(live, chosen))
            for row, live in zip(chosen.tasks, chosen.inside, strict=True)
        ),
        namespaces=chosen.namespaces,
        squashed=chosen.squashed,
        entered=chosen.entered,
        boot_id=host.boot_id(),
        header=host.header(),
        completeness=Completeness(
            "no", kernel_threads_left_out=chosen.kernel_workers, reasons=(_UNVERIFIED, *chosen.unknown)
        ),
        as_of_read=("tty",),
    )
