# SPDX-License-Identifier: Apache-2.0
"""A snapshot as people read it: what it is, the tree, and the pid objects that no task has any more.

    subtree of 4711 · 4 processes, 2 threads, 7 pids · 2024-05-01 12:00:00 UTC · Linux 6.1.0 x86_64
    complete · verified by numbering

    4711 bash · session leader
    ├─ 4712 make · group leader
    │  ├─ {4713 make} {4714 make}
    │  └─ 4720/1 init · pidns:[4026532001] level 1 · session leader
    └─ 4722 cc · zombie, exited 3 · group 4690 · born of 4700 (gone)

    pids without a task
       4690 · group of 4722

A task's numbers go from the root's namespace inward; one number alone is that in the root's. Group, session and
namespace are shown where they differ from the parent's, a state where it is not running, and a creator where it is not
the parent. Threads are in braces; those with nothing to say share lines.
"""

import signal
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from agent.model import CKPT_PID_ROOT, Namespace, Snapshot, Task, TaskState
from exporters.fields import escape

_WIDTH = 100  # columns that threads may share
_DEEPEST = 40  # generations that are indented; a chain of thousands would be mostly margin
_NAMED = 6  # users of a ghost that are named
_CORE_DUMPED = 0x80
_SIGNAL = 0x7F
_NS_PER_S = 1_000_000_000


class _Signs(NamedTuple):
    """What the lines are drawn with."""

    child: str
    last: str
    beside: str
    below: str
    between: str


_UNICODE = _Signs("├─ ", "└─ ", "│  ", "   ", " · ")
_ASCII = _Signs("|- ", "`- ", "|  ", "   ", " - ")


def render(snapshot: Snapshot, *, unicode: bool = True) -> str:
    """The snapshot as lines of text, without a newline after the last one; pure ASCII where `unicode` is False."""
    signs = _UNICODE if unicode else _ASCII
    view = _View(snapshot, signs)
    text = "\n".join([*view.summary(), "", *view.tree(), *view.ghosts()])
    return text if unicode else text.encode("ascii", "backslashreplace").decode("ascii")


class _View:
    """The lines of one snapshot, and the lookups they need."""

    def __init__(self, snapshot: Snapshot, signs: _Signs) -> None:
        self._snapshot = snapshot
        self._signs = signs
        self._tasks = {task.pid: task for task in snapshot.tasks}
        self._threads: defaultdict[int, list[Task]] = defaultdict(list)
        self._children: defaultdict[int, list[Task]] = defaultdict(list)
        self._root = snapshot.tasks[0]
        for task in snapshot.tasks[1:]:
            if self._is_thread(task):
                self._threads[task.tgid].append(task)
            else:
                # A thread whose leader is gone altogether stands where its process would.
                self._children[task.ppid or self._root.pid].append(task)
        births = [task.birth for task in snapshot.tasks[1:] if task.birth]
        self._all_assumed = bool(births) and not any(birth.observed for birth in births)

    def summary(self) -> Iterator[str]:
        """What the snapshot is, and how far it can be trusted."""
        snapshot, header = self._snapshot, self._snapshot.header
        processes = len({task.tgid for task in snapshot.tasks})
        counts = [_count(processes, "process", "processes")]
        if len(snapshot.tasks) > processes:
            counts.append(_count(len(snapshot.tasks) - processes, "thread"))
        counts.append(_count(len(snapshot.pids), "pid"))
        if len(snapshot.namespaces) > 1:
            counts.append(_count(len(snapshot.namespaces), "pid namespace"))
        when = datetime.fromtimestamp(snapshot.time_ns // _NS_PER_S, UTC)
        host = " ".join(_plain(word) for word in (header.release, header.machine) if word)
        yield self._joined(
            f"{snapshot.mode} of {self._numbers(self._root.pid)}",
            ", ".join(counts),
            f"{when:%Y-%m-%d %H:%M:%S} UTC",
            host and f"Linux {host}",
        )
        yield from self._trust()
        if snapshot.squashed:
            yield f"   outside, under one tag: {', '.join(map(_plain, snapshot.squashed))}"
        if snapshot.entered:
            yield f"   entered from outside and left out: {', '.join(map(_plain, snapshot.entered))}"

    def tree(self) -> Iterator[str]:
        """The tasks, each below its parent."""
        signs = self._signs
        # What is below, last line first: the task or a ready line of threads, how far in, and what stands before it.
        todo: list[tuple[Task | str, int, str, str]] = [(self._root, 0, "", "")]
        while todo:
            item, generation, branch, margin = todo.pop()
            if isinstance(item, str):
                yield branch + item
                continue
            far = f"[{generation} deep] " if generation > _DEEPEST else ""
            yield branch + far + self._label(item)
            below = self._below(item, _WIDTH - len(margin))
            for place, each in enumerate(reversed(below)):
                if generation >= _DEEPEST:
                    # No further in: from here on the labels count the generations.
                    todo.append((each, generation + 1, margin + signs.last, margin))
                else:
                    sign, more = (signs.child, signs.beside) if place else (signs.last, signs.below)
                    todo.append((each, generation + 1, margin + sign, margin + more))

    def ghosts(self) -> Iterator[str]:
        """The pid objects that live on as a session, group or thread group only."""
        snapshot = self._snapshot
        users: defaultdict[int, dict[str, list[Task]]] = defaultdict(lambda: defaultdict(list))
        for task in snapshot.tasks:
            if self._is_thread(task):
                continue
            for use, tag in (("session", task.sid), ("group", task.pgid), ("thread group", task.tgid)):
                if tag not in self._tasks:
                    users[tag][use].append(task)
        ghosts = [tag for tag, _ in enumerate(snapshot.pids, snapshot.first_tag) if tag not in self._tasks]
        if not ghosts:
            return
        yield ""
        yield "pids without a task"
        for tag in ghosts:
            uses = [f"{use} of {self._named(tasks)}" for use, tasks in users[tag].items()]
            yield "   " + self._joined(self._numbers(tag), *(uses or ["used by no task"]))

    def _trust(self) -> Iterator[str]:
        done = self._snapshot.completeness
        checked = "not verified" if done.verified == "no" else f"verified by {done.verified}"
        bare = all(task.comm is None and task.state is None for task in self._snapshot.tasks)
        yield self._joined(
            "complete" if done.complete else "INCOMPLETE",
            checked,
            f"{done.lost} events lost" if done.lost else "",
            f"{_count(done.anomalies, 'anomaly', 'anomalies')} healed" if done.anomalies else "",
            f"{_count(done.kernel_threads_left_out, 'kernel thread')} left out" if done.kernel_threads_left_out else "",
            "births assumed" if self._all_assumed else "",
            "bare image: numbers only" if bare else "",
        )
        for reason in done.reasons:
            yield f"   {_plain(reason)}"

    def _below(self, task: Task, width: int) -> "Sequence[Task | str]":
        """What is drawn below a task: its threads that have nothing to say in shared lines, then all else."""
        lines: list[Task | str] = []
        others: list[Task] = []
        line = ""
        for thread in self._threads[task.pid] if task.pid == task.tgid else ():
            if self._children.get(thread.pid) or self._notes(thread):
                others.append(thread)
                continue
            name = self._name(thread)
            if line and len(line) + 1 + len(name) > width:
                lines.append(line)
                line = name
            else:
                line = f"{line} {name}" if line else name
        return [*lines, *([line] if line else []), *others, *self._children.get(task.pid, ())]

    def _label(self, task: Task) -> str:
        return self._joined(self._name(task), *self._notes(task))

    def _name(self, task: Task) -> str:
        name = self._numbers(task.pid)
        if task.comm is not None:
            name += f" {_plain(escape(task.comm))}"
        return name if task.pid == task.tgid else f"{{{name}}}"

    def _notes(self, task: Task) -> list[str]:
        """All that is not as one expects of a child of its parent."""
        thread = self._is_thread(task)
        above = self._tasks.get(task.tgid if thread else task.ppid)
        notes = [_state(task), self._namespace(task, above)]
        if not thread:
            notes += [self._session(task, above), self._group(task, above)]
            if task.pid != task.tgid:
                notes.append(f"thread of {self._ref(task.tgid)} (gone)")
        if task.subreaper and not thread:
            notes.append("subreaper")
        if task.child_namespace is not None:
            notes.append(f"next child in {self._pidns(task.child_namespace) or 'an empty pidns'}")
        notes.append(self._birth(task))
        return [note for note in notes if note]

    def _session(self, task: Task, above: Task | None) -> str:
        if task.sid == task.pid:
            return "session leader"
        return "" if above and above.sid == task.sid else f"session {self._ref(task.sid)}"

    def _group(self, task: Task, above: Task | None) -> str:
        if task.pgid == task.pid:
            return "" if task.sid == task.pid else "group leader"
        return "" if above and above.pgid == task.pgid else f"group {self._ref(task.pgid)}"

    def _namespace(self, task: Task, above: Task | None) -> str:
        mine = self._innermost(task)
        if above is None or (mine == self._innermost(above) and task.depth == above.depth):
            return ""
        pidns = self._pidns(mine) if mine is not None else ""
        return f"{pidns} level {task.depth}" if pidns else f"level {task.depth}"

    def _innermost(self, task: Task) -> int | None:
        pid = self._snapshot.pid(task.pid)
        return pid.namespaces[-1] if pid and pid.namespaces else None

    def _pidns(self, id_: int) -> str:
        known: Sequence[Namespace] = self._snapshot.namespaces
        return f"pidns:[{known[id_].inum}]" if 0 <= id_ < len(known) else ""

    def _birth(self, task: Task) -> str:
        birth = task.birth
        if birth is None or task is self._root:
            return ""
        if birth.creator is None:
            if birth.observed:
                return "born of a task outside"
            return "" if self._all_assumed else "birth assumed"
        if birth.creator.ancestor is not None:
            ancestor = self._snapshot.ancestors[birth.creator.ancestor]
            return f"born of {ancestor.numbers[0] if ancestor.numbers else 'a task outside'} (gone)"
        tag = birth.creator.tag
        creator = self._tasks.get(tag) if tag is not None else None
        if tag is None or tag == task.ppid or (creator and creator.tgid == task.tgid):
            return ""
        return f"born of {self._ref(tag)}" + ("" if creator else " (gone)")

    def _is_thread(self, task: Task) -> bool:
        """True for a thread that has a leader to stand below."""
        return task.pid != task.tgid and task.tgid in self._tasks

    def _numbers(self, tag: int) -> str:
        pid = self._snapshot.pid(tag)
        return "/".join(map(str, pid.numbers)) if pid else "?"

    def _ref(self, tag: int) -> str:
        if tag == CKPT_PID_ROOT:
            return "inherited from outside"
        return str(self._snapshot.number(tag)) if tag else "outside"

    def _named(self, tasks: Sequence[Task]) -> str:
        names = [self._ref(task.pid) for task in tasks[:_NAMED]]
        if len(tasks) > _NAMED:
            names.append(f"{len(tasks) - _NAMED} more")
        return ", ".join(names)

    def _joined(self, *parts: str) -> str:
        """The parts that there are; the first one is the name, the others are remarks."""
        return self._signs.between.join([part for part in parts if part])


def _state(task: Task) -> str:
    if task.state is None or task.state is TaskState.RUNNING:
        return ""
    ended = "" if task.exit_code is None else f", {_ended(task.exit_code)}"
    return ("dead leader" if task.state is TaskState.DEAD_LEADER else task.state.value) + ended


def _ended(code: int) -> str:
    """A wait status, as a shell's user would say it."""
    number = code & _SIGNAL
    if not number:
        return f"exited {code >> 8 & 0xFF}"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"killed by {name}" + (", core dumped" if code & _CORE_DUMPED else "")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _plain(text: str) -> str:
    """A foreign string without what a terminal would obey."""
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text])
