# SPDX-License-Identifier: Apache-2.0
"""Rules for every tree that a kernel had, or that a kernel is to have again.

Readers do not apply them: a tree that breaks these rules can be shown, compared and converted. The rules are:

* A session or group has the pid of a process, which may be gone. The process of a session's pid is in the session. A
  session's leader never leaves its group. A group never spans two sessions, and its owner is in the same session,
  because setsid() fails while a group has the caller's pid.
* The session that the root inherited, -4097, is the root's session, and a group of that number is in that session.
* Level 0 is the root's namespace. A child's namespace is its parent's or below: clone() goes one level down at most,
  setns() further, and an orphan's new parent is in the namespace of the old one. All threads of a group are in one.
* A container's root is its namespace's init, and the first task of a namespace is its init.
* The creator of a task is a task of the tree or an ancestor, which is gone.
* A number belongs to one pid object in each namespace. The namespaces of a pid object are a line from the root's inward.
* The states of tasks fit the tree: exporters.checking.staterules.

All passes take unsound trees too: they skip a tag that names nothing, because soundness reports it.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from agent.model import CKPT_PID_ROOT, Completeness, Namespace, Snapshot, Task, TaskState
from exporters.checking.staterules import state_faults
from exporters.content.factsreader import Base
from exporters.content.soundness import DEPTH_MAX, PID_NUMBER_MAX, Fault, TaskIds
from exporters.content.wording import plain

RESERVED_PIDS = 300
"""Highest reserved pid: the kernel gives lower numbers only before its counter wraps, and a rebuild gives helpers none."""

# The ids of a tag's namespaces; no entry if they are not known.
_Lines = Mapping[int, tuple[int, ...]]
_Pids = Sequence[tuple[int, ...]]
_Tasks = Sequence[TaskIds | Task]


def doubts(base: Base, snapshot: Snapshot | None) -> Iterator[Fault]:
    """Yield all faults: those of the base, and with a snapshot those of namespaces, births and states."""
    if not base.tasks or not base.numbers:
        return
    tasks: _Tasks = snapshot.tasks if snapshot else base.tasks
    lines = dict(enumerate([pid.namespaces for pid in snapshot.pids], base.first_tag)) if snapshot else {}
    place: dict[int, int] = {}
    for index, task in enumerate(tasks):
        place.setdefault(task.pid, index)
    # The depth that a task itself states may differ; soundness reports that.
    deep = {tag: len(numbers) - 1 for tag, numbers in enumerate(base.numbers, base.first_tag) if len(numbers) > 1}
    yield from _root_faults(base)
    yield from _inherited_faults(tasks)
    yield from _session_faults(tasks, place)
    yield from _group_faults(tasks, place)
    yield from _thread_faults(tasks, place, range(base.first_tag, base.first_tag + len(base.numbers)), deep)
    yield from _nesting_faults(base.first_tag, tasks, place, deep, lines, snapshot)
    yield from _init_faults(base.first_tag, base.numbers, tasks, deep, lines)
    if snapshot:
        yield from _namespace_faults(snapshot.namespaces)
        yield from state_faults(snapshot, place)
        yield from _birth_faults(snapshot.tasks, place)
        yield from _left_out(snapshot.completeness)
        yield from _incomplete(snapshot.completeness)
        yield from _memory_faults(snapshot.tasks)
        yield from _fit_faults(base.first_tag, base.numbers, lines, snapshot.namespaces)


def _left_out(done: Completeness) -> Iterator[Fault]:
    """Report threads that a rebuild cannot make: those of the kernel for io_uring and vhost."""
    if done.kernel_threads_left_out:
        text = f"is {done.kernel_threads_left_out}: threads of the kernel's own (io workers) that no rebuild can have"
        yield Fault("workers-left-out", "completeness", 0, "kernel_threads_left_out", text)


def _incomplete(done: Completeness) -> Iterator[Fault]:
    """Report that the image itself doubts its tree."""
    if done.reasons:
        text = (
            f"say that the snapshot is incomplete, so the tree may never have been so: {plain('; '.join(done.reasons))}"
        )
        yield Fault("incomplete", "completeness", 0, "reasons", text)


def _memory_faults(tasks: Sequence[Task]) -> Iterator[Fault]:
    """Report threads of one group with different memory. Exited tasks have none; an exec leaves one thread."""
    first: dict[int, int | None] = {}
    for index, task in enumerate(tasks):
        if task.state in (TaskState.ZOMBIE, TaskState.DEAD_LEADER):
            continue
        own = task.shares.vm if task.shares else None
        if first.setdefault(task.tgid, own) != own:
            text = f"is {own or 'none'}, and another thread of its group has {first[task.tgid] or 'none'}"
            yield Fault("shared-memory", "tasks", index, "shares", text, (task.pid, task.tgid))


def _root_faults(base: Base) -> Iterator[Fault]:
    numbers, root = base.numbers[0], base.first_tag
    if len(numbers) > 1:
        text = f"the root has {len(numbers)} numbers, but the first namespace is its own"
        yield Fault("root-depth", "pids", 0, "depth", text, (root,))
    if base.mode == "container" and numbers and numbers[-1] != 1:
        text = f"a container's root is its init, which has number 1, not {numbers[-1]}; HEADER.uflags 1 is a subtree"
        yield Fault("container-root", "pids", 0, "numbers", text, (root,))
    room = PID_NUMBER_MAX - RESERVED_PIDS
    if len(base.numbers) >= room and sum([bool(pid) and pid[0] > RESERVED_PIDS for pid in base.numbers]) >= room:
        text = f"all {room} numbers above {RESERVED_PIDS} are taken, and a rebuild needs some for its helpers"
        yield Fault("no-number-left", "pids", 0, "numbers", text)


def _inherited_faults(tasks: _Tasks) -> Iterator[Fault]:
    outside: list[tuple[int, str]] = []
    inherited = tasks[0].sid == CKPT_PID_ROOT
    for index, task in enumerate(tasks):
        for field, tag in (("pgid", task.pgid), ("sid", task.sid)):
            if tag == 0:
                outside.append((index, field))
            elif tag == CKPT_PID_ROOT and not inherited:
                text = f"is {tag}, the session that the root inherited, but the root's own is {tasks[0].sid}"
                yield Fault("inherited-session", "tasks", index, field, text, (task.pid,))
    if outside:
        index, field = outside[0]
        tags = tuple(dict.fromkeys([tasks[index].pid for index, _ in outside]))
        text = (
            f"is 0, as are {len(outside)} ids of {len(tags)} tasks in all: they had no number in the root's namespace, "
            "so the tree can be rebuilt in a new pid namespace only"
        )
        yield Fault("outside-id", "tasks", index, field, text, tags)


def _session_faults(tasks: _Tasks, place: Mapping[int, int]) -> Iterator[Fault]:
    for index, task in enumerate(tasks):
        pid, sid = task.pid, task.sid
        if pid != task.tgid and task.tgid in place:
            continue  # continue  # the leader's row is judged
        if pid == sid:
            if task.pgid != pid:
                text = f"is {task.pgid}, but a session leader stays in its own group, {pid}"
                yield Fault("session-leader-group", "tasks", index, "pgid", text, (pid, task.pgid))
            continue
        owner = tasks[place[sid]] if sid in place else None
        if owner and owner.tgid != sid:
            text = f"is {sid}, but that is a thread of {owner.tgid}; only a process leads a session"
            yield Fault("owner-is-thread", "tasks", index, "sid", text, (pid, sid))
        elif owner and owner.sid != sid:
            text = f"is {sid}, but that task's own session is {owner.sid}"
            yield Fault("session-owner", "tasks", index, "sid", text, (pid, sid))


def _group_faults(tasks: _Tasks, place: Mapping[int, int]) -> Iterator[Fault]:
    # The session of each group: its owner's; else the group's own tag if it is a session; else its first member's.
    sessions = {task.sid: task.sid for task in tasks if task.sid > 0}
    sessions[CKPT_PID_ROOT] = CKPT_PID_ROOT
    for index, task in enumerate(tasks):
        pgid, sid = task.pgid, task.sid
        if pgid in (0, task.pid) or task.pid == sid or (task.pid != task.tgid and task.tgid in place):
            continue  # outside; its own group; a session leader, judged above; or a thread, judged by its leader's row
        owner = tasks[place[pgid]] if pgid in place else None
        if owner and owner.tgid != pgid:
            text = f"is {pgid}, but that is a thread of {owner.tgid}; only a process has a group"
            yield Fault("owner-is-thread", "tasks", index, "pgid", text, (task.pid, pgid))
            continue
        session = owner.sid if owner else sessions.setdefault(pgid, sid)
        if session != sid:
            text = f"is {pgid}, a group of session {session}, but the task's session is {sid}"
            yield Fault("group-sessions", "tasks", index, "pgid", text, (task.pid, pgid))


def _thread_faults(tasks: _Tasks, place: Mapping[int, int], tags: range, deep: Mapping[int, int]) -> Iterator[Fault]:
    for index, task in enumerate(tasks):
        if task.pid == task.tgid or task.pid not in tags or task.tgid not in tags:
            continue
        mine, theirs = deep.get(task.pid, 0), deep.get(task.tgid, 0)
        if task.tgid not in place:
            text = f"tag {task.tgid} has no task, and a leader stays as long as its threads"
            yield Fault("leader-without-task", "tasks", index, "tgid", text, (task.pid, task.tgid))
        elif mine != theirs:
            text = f"is {mine}, but that of its thread group is {theirs}"
            yield Fault("thread-group", "tasks", index, "depth", text, (task.pid, task.tgid))


def _nesting_faults(
    first: int,
    tasks: _Tasks,
    place: Mapping[int, int],
    deep: Mapping[int, int],
    lines: _Lines,
    snapshot: Snapshot | None,
) -> Iterator[Fault]:
    for index, task in enumerate(tasks):
        if not deep or not index or task.ppid not in place:
            continue
        mine, theirs = deep.get(task.pid, 0), deep.get(task.ppid, 0)
        line, above = lines.get(task.pid, ()), lines.get(task.ppid, ())
        if mine < theirs:
            text = f"is {mine}, but that of its parent {task.ppid} is {theirs}"
            yield Fault("nesting-parent", "tasks", index, "depth", text, (task.pid, task.ppid))
        elif line and line[: len(above)] != above:
            text = f"{line} are neither those of its parent {task.ppid}, {above}, nor below them"
            yield Fault("nesting-parent", "pids", task.pid - first, "namespaces", text, (task.pid, task.ppid))
        elif mine > theirs + 1:
            theirs = _creator_depth(task, deep, snapshot, theirs)
            if mine > theirs + 1:
                text = f"is {mine}, but that of its creator is {theirs}, and clone() goes one level down"
                yield Fault("nesting-depth", "tasks", index, "depth", text, (task.pid, task.ppid))


def _creator_depth(task: TaskIds | Task, deep: Mapping[int, int], snapshot: Snapshot | None, unknown: int) -> int:
    """Return the level of a task's creator; `unknown` if the birth was not observed or the creator is outside."""
    creator = task.birth.creator if isinstance(task, Task) and task.birth else None
    if snapshot is None or creator is None:
        return unknown
    if creator.tag is not None:
        return deep.get(creator.tag, 0)
    numbers = snapshot.ancestors[creator.ancestor].numbers if creator.ancestor is not None else ()
    return len(numbers) - 1 if numbers else unknown


def _init_faults(first: int, pids: _Pids, tasks: _Tasks, deep: Mapping[int, int], lines: _Lines) -> Iterator[Fault]:
    """Report nested namespaces without an init; if the namespaces are not known, levels without one."""
    inits = set()
    members: defaultdict[int | tuple[int, ...], list[int]] = defaultdict(list)
    for index, task in enumerate(tasks):
        if task.pid not in deep:
            continue
        where = lines.get(task.pid) or deep[task.pid]
        members[where].append(index)
        if pids[task.pid - first][-1] == 1 and task.pid == task.tgid:
            inits.add(where)
    for where, indices in members.items():
        if where not in inits:
            tags = tuple([tasks[index].pid for index in indices])
            text = f"{len(tags)} tasks are in a namespace at this level, and its init is not among them"
            yield Fault("namespace-without-init", "tasks", indices[0], "depth", text, tags)


def _birth_faults(tasks: Sequence[Task], place: Mapping[int, int]) -> Iterator[Fault]:
    for index, task in enumerate(tasks):
        birth = task.birth
        if birth and birth.creator and birth.creator.tag is not None and birth.creator.tag not in place:
            text = f"names tag {birth.creator.tag}, which has no task; a creator that is gone is an ancestor"
            yield Fault("birth-creator", "tasks", index, "birth.creator", text, (task.pid, birth.creator.tag))


def _namespace_faults(namespaces: Sequence[Namespace]) -> Iterator[Fault]:
    for id_, _, level, parent in namespaces:
        if parent is not None and level != namespaces[parent].level + 1:
            text = f"is {level}, but that of its parent {parent} is {namespaces[parent].level}"
            yield Fault("namespace-level", "namespaces", id_, "level", text)
        elif level > DEPTH_MAX:
            text = f"is {level}, but namespaces nest {DEPTH_MAX} deep at most"
            yield Fault("namespace-level", "namespaces", id_, "level", text)


def _fit_faults(first: int, pids: _Pids, lines: _Lines, namespaces: Sequence[Namespace]) -> Iterator[Fault]:
    known: list[tuple[int, ...]] = []
    for id_, _, _, parent in namespaces:
        # Cut off at the length that no pid's line has: a file may claim a chain of thousands.
        known.append((*known[parent][: DEPTH_MAX + 1], id_) if parent is not None else (id_,))
    # Soundness has compared the numbers in the root's namespace already.
    seen: dict[tuple[int, int], int] = {}
    for (tag, line), numbers in zip(lines.items(), pids, strict=True):
        if not line or line == (0,):
            continue
        # A dead namespace has no id, so its line cannot be compared further up.
        if line != known[line[-1]] if line[-1] >= 0 else line[0] != 0:
            text = f"{line} is no line of namespaces from the root's, 0, inward"
            yield Fault("namespace-fit", "pids", tag - first, "namespaces", text, (tag,))
        for level, (id_, number) in enumerate(zip(line[1:], numbers[1:], strict=True), 1):
            other = seen.setdefault((id_, number), tag) if id_ >= 0 else tag
            if other != tag:
                text = f"at level {level} {number} is already that of tag {other}, in namespace {id_}"
                yield Fault("duplicate-number", "pids", tag - first, "numbers", text, (other, tag))
