# SPDX-License-Identifier: Apache-2.0
"""Snapshot -> a folder of CRIU images with the process tree alone: no memory, files or registers.

    pstree.img      one pstree_entry for each process, parents first: pid, ppid, pgid, sid, threads with its own pid
    first
    core-PID.img    one core_entry for each process: its state, exit code, name, and whether it is a subreaper
    core-TID.img    one core_entry for each other thread: its name

``crit x DIR ps`` and ``crit decode`` show them. criu cannot restore them: they hold no memory, no files and no
registers. For that reason there is no inventory.img, which a restore reads first.

CRIU has one number for each id: the one in the root's pid namespace. An id without a number there is 0, and so is the
root's parent. A parent is a process. Notes (exporters.format) tell which parts of a snapshot CRIU cannot hold.
"""

from collections.abc import Iterator, Sequence

from agent.model import CKPT_PID_ROOT, Snapshot, Tag, Task, TaskState
from exporters.content.fields import escape
from exporters.criu.criuschema import ALIVE, DEAD, MACHINES, STOPPED, UNKNOWN_MACHINE, messages
from exporters.criu.imagefile import image
from exporters.format import Dump

_NAMED = 6  # examples in a note
_U32 = 0xFFFFFFFF

# From CRIU's compel/task-state.h. crit --pretty uses other numbers: it shows a stopped task as a zombie. The kernel has
# a dead leader as a zombie while it has threads, and so does CRIU.
_STATES = {
    None: ALIVE,
    TaskState.RUNNING: ALIVE,
    TaskState.STOPPED: STOPPED,
    TaskState.ZOMBIE: DEAD,
    TaskState.DEAD_LEADER: DEAD,
}

# Kinds of facts that these files cannot hold, each with the fields of a task that carry it.
_LEFT_OUT = {
    "how, by whom and in which order they were born": ("birth",),
    "start times": ("start_ns",),
    "exit signals": ("exit_signal",),
    "user and group ids": ("uid", "gid"),
    "controlling terminals, owners of files": ("tty", "fown"),
    "arguments, working folders and environments": ("argv", "cwd", "env"),
    "programs, credentials and capabilities": ("details",),
    "what processes share without being threads": ("shares",),
}


def dump(snapshot: Snapshot) -> Dump:
    """Return the files by name, with notes on what they leave out.

    Raises:
        HostError: no protobuf library is installed.
    """
    tree = _Processes(snapshot)
    return Dump(dict(tree.files()), tuple(tree.notes()))


class _Processes:
    """The processes of a snapshot. For CRIU a thread is a number in its process."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._tasks = {task.pid: task for task in snapshot.tasks}
        # The members of each thread group, by its tag. A group takes place and parent of its first member. The parent comes
        # earlier in the list, so no process comes before its parent.
        self._groups: dict[Tag, list[Task]] = {}
        for task in snapshot.tasks:
            self._groups.setdefault(task.tgid, []).append(task)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield the name and the contents of each file."""
        made, number = messages(), self._snapshot.number
        mtype = MACHINES.get(self._snapshot.header.machine, UNKNOWN_MACHINE)
        entries = []
        for tgid, members in self._groups.items():
            pid, first, leader = number(tgid), members[0], self._tasks.get(tgid)
            others = [task for task in members if task is not leader]
            entries.append(
                made["pstree_entry"](
                    pid=pid,
                    ppid=self._parent(first),
                    pgid=number(first.pgid),
                    sid=number(first.sid),
                    threads=[pid, *(number(task.pid) for task in others)],
                )
            )
            process = made["task_core_entry"](
                task_state=_STATES[leader.state] if leader else DEAD,
                exit_code=(leader.exit_code or 0) & _U32 if leader else 0,
                personality=0,
                flags=0,
                blk_sigset=0,
                comm=_text((leader or first).comm or b""),
                child_subreaper=(leader or first).subreaper,
            )
            yield f"core-{pid}.img", image("core", [made["core_entry"](mtype=mtype, tc=process)])
            for task in others:
                name = None if task.comm is None else _text(task.comm)
                thread = made["thread_core_entry"](futex_rla=0, futex_rla_len=0, comm=name)
                entry = made["core_entry"](mtype=mtype, thread_core=thread)
                yield f"core-{number(task.pid)}.img", image("core", [entry])
        yield "pstree.img", image("pstree", entries)

    def notes(self) -> Iterator[str]:
        """Yield a sentence for each kind of fact that the files leave out or express in CRIU's way."""
        yield (
            "these files hold the tree alone, for crit to show, and nothing that criu could restore; "
            "what CRIU asks of every task and no snapshot knows (personality, flags, signal mask, futex list) is 0"
        )
        yield from self._of_ids()
        yield from self._of_tasks()
        yield from self._of_all()

    def _of_ids(self) -> Iterator[str]:
        snapshot, tasks = self._snapshot, self._tasks
        nested = [tag for tag, pid in snapshot.tagged() if len(pid.numbers) > 1]
        yield from self._about(
            "CRIU has one number for a pid, that in the root's pid namespace; the others, and which namespaces they "
            "are in, are left out, for",
            nested,
        )
        ghosts = [tag for tag, _ in snapshot.tagged() if tag not in tasks and tag not in self._groups]
        yield from self._about("CRIU knows no pid without a task, but as a session or group of others:", ghosts)
        heads = [members[0] for members in self._groups.values()]
        for what, outside in (
            ("session", [task.tgid for task in heads if task.sid in (0, CKPT_PID_ROOT)]),
            ("group", [task.tgid for task in heads if task.pgid in (0, CKPT_PID_ROOT)]),
        ):
            yield from self._about(f"CRIU has no word for a {what} from outside the tree; it is 0, for", outside)
        yield from self._about(
            "CRIU has no thread without a leader; a dead one was made up, with the name of its first thread:",
            [tgid for tgid in self._groups if tgid not in tasks],
        )
        yield from self._about(
            "CRIU's parents are processes; the parent is a thread that is not its process's leader, for",
            [task.tgid for task in heads if task.ppid in tasks and tasks[task.ppid].tgid != task.ppid],
        )

    def _of_tasks(self) -> Iterator[str]:
        leaders = [self._tasks[tgid] for tgid in self._groups if tgid in self._tasks]
        threads = [task for task in self._snapshot.tasks if task.pid != task.tgid]
        about = self._about
        yield from about(
            "CRIU has to have a state; it is not known, and alive is written, for",
            [task.pid for task in leaders if task.state is None],
        )
        yield from about(
            "CRIU has to have a name; it is not known, and an empty one is written, for",
            [task.pid for task in leaders if task.comm is None],
        )
        yield from about(
            "CRIU's names are UTF-8; those bytes that are not are written as \\xHH, for",
            [task.pid for task in self._snapshot.tasks if task.comm is not None and not _is_utf_8(task.comm)],
        )
        yield from about(
            "CRIU has states and exit codes for processes alone; they are left out for the threads",
            [task.pid for task in threads if task.state not in (None, TaskState.RUNNING) or task.exit_code is not None],
        )
        yield from about(
            "CRIU does not say that the next child will be born into another pid namespace than its parent's, for",
            [task.pid for task in self._snapshot.tasks if task.child_namespace is not None],
        )
        left_out = [
            what
            for what, fields in _LEFT_OUT.items()
            if any(getattr(task, field) is not None for task in self._snapshot.tasks for field in fields)
        ]
        if left_out:
            yield f"left out for all tasks: {', '.join(left_out)}"

    def _of_all(self) -> Iterator[str]:
        snapshot = self._snapshot
        if snapshot.ancestors:
            yield f"left out: ancestors that are gone, through which births run ({len(snapshot.ancestors)})"
        if snapshot.squashed:
            yield f"left out: which sessions and groups from outside there are: {', '.join(snapshot.squashed)}"
        if snapshot.entered:
            yield f"left out: which tasks had entered from outside: {', '.join(snapshot.entered)}"
        if not snapshot.completeness.complete:
            reasons = "; ".join(snapshot.completeness.reasons) or "it is not verified"
            yield f"these files do not say that the snapshot is incomplete: {reasons}"
        yield "left out: when, and on which host and boot, the snapshot was taken, and how it was verified"

    def _parent(self, task: Task) -> int:
        """Return the number of the process that a task's parent belongs to; 0 for the root's parent."""
        parent = self._tasks.get(task.ppid)
        return self._snapshot.number(parent.tgid) if parent else 0

    def _about(self, what: str, tags: Sequence[Tag]) -> Iterator[str]:
        """Yield a sentence that ends with the first few numbers of its tasks; nothing without tasks."""
        if tags:
            few = ", ".join([str(self._snapshot.number(tag)) for tag in tags[:_NAMED]])
            yield f"{what} {few}" + (f" and {len(tags) - _NAMED} more" if len(tags) > _NAMED else "")


def _text(comm: bytes) -> bytes:
    return comm if _is_utf_8(comm) else escape(comm).encode()


def _is_utf_8(comm: bytes) -> bool:
    try:
        comm.decode()
    except UnicodeDecodeError:
        return False
    return True
