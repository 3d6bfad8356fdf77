# SPDX-License-Identifier: Apache-2.0
"""Remarks on the tasks of a snapshot, in words and colours, for every kind of drawing.

Theory
------
A task is *named* by its numbers, from the root's namespace inward, and its comm. All else is a *remark*, made only for
a difference from a plain child of its parent: group, session and namespace if they are not the parent's, a terminal if
the parent has another or is not in its foreground, a state that is not running, a creator that is not the parent, an
exit signal that is not SIGCHLD. A thread is drawn below its leader and compared with it. A thread whose leader has no
task is drawn in place of its process, and has the remarks of a process.

A colour stands for one id: a session and the group of the same leader share a colour. Ids take the colours in the order
in which the tree mentions them, so neighbours differ. A tree with more ids than colours uses colours again; then the
words tell the ids apart.
"""

import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum

from agent.model import CKPT_PID_NULL, CKPT_PID_ROOT, OUTSIDE, Namespace, PidRef, Snapshot, Tag, Task, TaskState
from agent.model.signalnames import signal_in_words, signal_name
from agent.record import NamedTuple
from exporters.content.fields import escape

CORE_DUMPED = 0x80
"""The bit of a wait status that means a core dump."""

_SIGNAL = 0x7F
_NAMED = 6  # users of a ghost that are named
NS_PER_S = 1_000_000_000


class Tint(NamedTuple):
    """A colour that is legible on white and on black.

    Attributes:
        code: its index among a terminal's 256 colours.
        rgb: its parts, 0 to 255 each.
    """

    code: int
    rgb: tuple[int, int, int]


TINTS = (
    Tint(28, (0, 135, 0)),
    Tint(27, (0, 95, 255)),
    Tint(130, (175, 95, 0)),
    Tint(164, (215, 0, 215)),
    Tint(30, (0, 135, 135)),
    Tint(98, (135, 95, 215)),
    Tint(100, (135, 135, 0)),
    Tint(162, (215, 0, 135)),
    Tint(31, (0, 135, 175)),
)
"""The colours of ids."""

ALARM = Tint(160, (215, 0, 0))
"""The colour of exited tasks and of incomplete snapshots; of no id."""


class Subject(StrEnum):
    """The subject of a remark."""

    STATE = "state"
    NAMESPACE = "namespace"
    SESSION = "session"
    GROUP = "group"
    TERMINAL = "terminal"
    THREAD = "thread"
    SUBREAPER = "subreaper"
    EXIT_SIGNAL = "exit-signal"
    NEXT_CHILD = "next-child"
    SHARES = "shares"
    BIRTH = "birth"


class Remark(NamedTuple):
    """One remark on a task."""

    kind: Subject
    text: str


class Remarks:
    """All remarks on the tasks of one snapshot.

    Attributes:
        tasks: by tag of their pid.
        all_assumed: True if no birth was observed, the root's aside; then no task has a remark on its birth.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._root = snapshot.tasks[0]
        self.tasks = {task.pid: task for task in snapshot.tasks}
        births = [task.birth for task in snapshot.tasks[1:] if task.birth]
        self.all_assumed = bool(births) and not any(birth.observed for birth in births)
        ids = dict.fromkeys([id_ for task in snapshot.tasks for id_ in (task.sid, task.pgid)])
        self._tints = {id_: TINTS[place % len(TINTS)] for place, id_ in enumerate(ids)}

    def of(self, task: Task) -> list[Remark]:
        """Return all remarks on a task."""
        thread = self.is_thread(task)
        above = self.tasks.get(task.tgid if thread else task.ppid)
        remarks = [Remark(Subject.STATE, state(task)), Remark(Subject.NAMESPACE, self._namespace(task, above))]
        if not thread:
            remarks += [
                Remark(Subject.SESSION, self._session(task, above)),
                Remark(Subject.GROUP, self._group(task, above)),
            ]
            remarks.append(Remark(Subject.TERMINAL, self._terminal(task, above)))
            if task.pid != task.tgid:
                remarks.append(Remark(Subject.THREAD, f"thread of {self.ref(task.tgid)} (gone)"))
            if task.subreaper:
                remarks.append(Remark(Subject.SUBREAPER, "subreaper"))
            remarks.append(Remark(Subject.EXIT_SIGNAL, exit_signal(task.exit_signal)))
        if task.child_namespace is not None:
            where = self.pidns(task.child_namespace) or "an empty pidns"
            where += ", which is dead" if task.child_namespace_dead else ""
            remarks.append(Remark(Subject.NEXT_CHILD, f"next child in {where}"))
        remarks.append(Remark(Subject.SHARES, _shares(task)))
        remarks.append(Remark(Subject.BIRTH, self._birth(task)))
        return [remark for remark in remarks if remark.text]

    def is_thread(self, task: Task) -> bool:
        """Return True for a thread whose leader has a task."""
        return task.pid != task.tgid and task.tgid in self.tasks

    def strange_creator(self, task: Task) -> bool:
        """Return True if the known creator is neither the task's parent nor in its thread group."""
        if task.birth is None or task.birth.creator is None or task is self._root:
            return False
        tag = task.birth.creator.tag
        if tag is None:
            return True
        creator = self.tasks.get(tag)
        return tag != task.ppid and not (creator and creator.tgid == task.tgid)

    def ghosts(self) -> dict[Tag, dict[str, list[Task]]]:
        """Return the pid objects without a task, by tag: for each use (session, group, thread group) the processes."""
        snapshot = self._snapshot
        ghosts: dict[Tag, dict[str, list[Task]]] = {tag: {} for tag, _ in snapshot.tagged() if tag not in self.tasks}
        for task in snapshot.tasks if ghosts else ():
            if self.is_thread(task):
                continue
            for use, tag in (("session", task.sid), ("group", task.pgid), ("thread group", task.tgid)):
                if tag in ghosts:
                    ghosts[tag].setdefault(use, []).append(task)
        return ghosts

    def gone_ghosts(self) -> dict[Tag, int]:
        """Return the ghosts that are the pid objects of ancestors, each with the id of one.

        Equal numbers are no proof, for the kernel gives out a number again. But a number has one pid object at a time:
        an ancestor is the ghost of its own number if it ever was in a session or group of that ghost.
        """
        snapshot = self._snapshot
        ghosts = {pid.numbers: tag for tag, pid in snapshot.tagged() if tag not in self.tasks}
        alike = {each.id: ghosts[each.numbers] for each in snapshot.ancestors if each.numbers in ghosts}
        if not alike:
            return {}
        been_in: set[tuple[int | None, PidRef | int | None]] = {
            (each.id, event.value)
            for each in snapshot.ancestors
            for event in each.events
            if event.event in ("setsid", "setpgid")
        }
        births = [*[task.birth for task in snapshot.tasks], *[each.birth for each in snapshot.ancestors]]
        for birth in births:
            if birth and birth.creator:  # which gave its own session and group to the child
                been_in |= {(birth.creator.ancestor, birth.sid), (birth.creator.ancestor, birth.pgid)}
        return {tag: id_ for id_, tag in reversed(alike.items()) if (id_, tag) in been_in}

    def uses(self, ghost: dict[str, list[Task]]) -> list[str]:
        """Return the uses of a ghost in words."""
        return [f"{use} of {self._few(tasks)}" for use, tasks in ghost.items()] or ["used by no task"]

    def tint(self, tag: Tag) -> Tint:
        """Return the colour of a session or group that a task has."""
        return self._tints[tag]

    def is_id(self, tag: Tag) -> bool:
        """Return True for the tag of a session or group that a task has."""
        return tag in self._tints

    def numbers(self, tag: Tag) -> str:
        """Return all numbers of a pid object, outermost first."""
        pid = self._snapshot.pid(tag)
        return path(pid.numbers) if pid else "?"

    def ref(self, tag: Tag) -> str:
        """Return an id as text: its number in the root's namespace."""
        if tag == CKPT_PID_ROOT:
            return "inherited from outside"
        return str(self._snapshot.number(tag)) if tag else "outside"

    def pidns(self, id_: int) -> str:
        """Return the name of a pid namespace; empty for one without a task in the tree."""
        known: Sequence[Namespace] = self._snapshot.namespaces
        return f"pid:[{known[id_].inum}]" if 0 <= id_ < len(known) else ""

    def innermost(self, tag: Tag) -> int | None:
        """Return the id of the innermost namespace of a pid object; None if the image has no namespaces."""
        pid = self._snapshot.pid(tag)
        return pid.namespaces[-1] if pid and pid.namespaces else None

    def _few(self, tasks: Sequence[Task]) -> str:
        names = [self.ref(task.pid) for task in tasks[:_NAMED]]
        if len(tasks) > _NAMED:
            names.append(f"{len(tasks) - _NAMED} more")
        return ", ".join(names)

    def _session(self, task: Task, above: Task | None) -> str:
        if task.sid == task.pid:
            return "session leader"
        return "" if above and above.sid == task.sid else f"session {self.ref(task.sid)}"

    def _group(self, task: Task, above: Task | None) -> str:
        if task.pgid == task.pid:
            return "" if task.sid == task.pid else "group leader"
        return "" if above and above.pgid == task.pgid else f"group {self.ref(task.pgid)}"

    def _terminal(self, task: Task, above: Task | None) -> str:
        mine, parents = task.tty, above.tty if above else None
        if mine is None:
            return ""
        if mine.old_pgrp not in (None, CKPT_PID_NULL):
            return "its terminal hung up"
        called = f"on {plain(escape(mine.name))}" if mine.name is not None else "on a terminal"
        same = parents is not None and parents.name == mine.name
        if mine.pgrp != task.pgid or (same and above is not None and above.pgid == task.pgid):
            return "" if same else called
        return "in the foreground" if same else f"{called}, in the foreground"

    def _namespace(self, task: Task, above: Task | None) -> str:
        mine = self.innermost(task.pid)
        if above is None or (mine == self.innermost(above.pid) and task.depth == above.depth):
            return ""
        pidns = self.pidns(mine) if mine is not None else ""
        return f"{pidns} level {task.depth}" if pidns else f"level {task.depth}"

    def _birth(self, task: Task) -> str:
        birth = task.birth
        if birth is None or task is self._root:
            return ""
        if birth.creator is None:
            if birth.observed:
                return "born of a task outside"
            return "" if self.all_assumed else "birth assumed"
        if not self.strange_creator(task):
            return ""
        if birth.creator.ancestor is not None:
            ancestor = self._snapshot.ancestors[birth.creator.ancestor]
            return f"born of {_first_known(ancestor.numbers)} (gone)"
        tag = birth.creator.tag or OUTSIDE
        return f"born of {self.ref(tag)}" + ("" if tag in self.tasks else " (gone)")


def is_bare(snapshot: Snapshot) -> bool:
    """Return True for the snapshot of an image without facts."""
    return all(task.comm is None and task.state is None for task in snapshot.tasks)


def moment(time_ns: int, *, fine: bool = False) -> str:
    """Return a CLOCK_REALTIME in nanoseconds as date and time, in UTC; `fine`: with milliseconds."""
    seconds, rest = divmod(time_ns, NS_PER_S)
    fraction = f".{rest // 1_000_000:03}" if fine else ""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}{fraction} UTC"


def cut(snapshot: Snapshot) -> str:
    """Return the time of a snapshot, and that it is from a recording, where it is."""
    at = snapshot.at
    if at is None:
        return moment(snapshot.time_ns)
    found = f"{moment(at.time_ns, fine=True)}, from a recording, before record {at.order}"
    # The bound is that of the last record's time: where what came next is missing, it says nothing of this time.
    return found if snapshot.completeness.reasons else f"{found}, to within {short_span(at.uncertain_ns)}"


def short_span(ns: int) -> str:
    """Return a short time in the unit that suits it."""
    for unit, size in (("s", NS_PER_S), ("ms", 1_000_000), ("µs", 1_000)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns} ns"


def name(task: Task) -> str:
    """Return the comm of a task, safe for a terminal; empty if the image has none."""
    return "" if task.comm is None else plain(escape(task.comm))


def state(task: Task) -> str:
    """Return the state of a task and its wait status; empty for a running task."""
    if task.state is None or task.state is TaskState.RUNNING:
        return ""
    how = "" if task.exit_code is None else f", {ended(task.exit_code)}"
    return ("dead leader" if task.state is TaskState.DEAD_LEADER else task.state.value) + how


_SHARED = {"vm": "memory", "fs": "folder", "files": "files"}


def _shares(task: Task) -> str:
    """Return what a task shares beyond its thread group: tasks with the same number share it."""
    ids = task.shares._asdict() if task.shares else {}
    said = [f"{_SHARED[key]} {id_}" for key, id_ in ids.items() if id_ is not None]
    return f"shares {', '.join(said)}" if said else ""


def ended(code: int | None) -> str:
    """Return a wait status in words; None: of a task that has ended, nobody knows how."""
    number = (code or 0) & _SIGNAL
    if code is None or not number:
        return "exit status not known" if code is None else f"exited {code >> 8 & 0xFF}"
    return f"killed by {signal_in_words(number)}" + (", core dumped" if code & CORE_DUMPED else "")


def status_document(code: int | None) -> dict[str, int | str | bool | None]:
    """Return the parts of a wait status: the exit status or the name of the signal, and True for a core dump.

    Args:
        code: raw wait status; None: the task has not exited, and all parts are None.
    """
    if code is None:
        return {"exited": None, "signal": None, "core": None}
    number = code & _SIGNAL
    return {
        "exited": None if number else code >> 8 & 0xFF,
        "signal": signal_name(number) if number else None,
        "core": bool(number and code & CORE_DUMPED),
    }


def exit_signal(number: int | None) -> str:
    """Return a remark on the signal that a process sends its parent at exit; empty for SIGCHLD, unknown, and
    threads."""
    if number is None or number < 0 or number == signal.SIGCHLD:
        return ""
    return f"exit signal {signal_name(number)}" if number else "no exit signal"


def count(number: int, one: str, many: str = "") -> str:
    """Return a number with its noun; `many` is the plural if it is not `one` with an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def _first_known(numbers: Sequence[int]) -> str:
    """Return the outermost number, or, where that is unknown (0), the known ones behind a question mark."""
    if not any(numbers):
        return "a task outside"
    known = next(place for place, number in enumerate(numbers) if number)
    return f"?/{path(numbers[known:])}" if known else str(numbers[0])


def path(numbers: Sequence[int]) -> str:
    """Return the numbers of a pid object, joined by slashes."""
    return "/".join(map(str, numbers))


def plain(text: str) -> str:
    """Return a string with its control characters escaped."""
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text])


def plain_lines(text: str) -> str:
    """Return a text of several lines with all its control characters but newlines escaped."""
    return text if text.isprintable() else "\n".join(map(plain, text.split("\n")))


def plain_json(text: str) -> str:
    """Return a JSON text of the same value with all its control characters but newlines escaped, as JSON does it."""
    return "\n".join([line if line.isprintable() else "".join(map(_in_json, line)) for line in text.split("\n")])


def _in_json(char: str) -> str:
    if char.isprintable():
        return char
    import json  # takes time, and few texts need it

    return json.dumps(char)[1:-1] if char != "\x7f" else r"\u007f"  # json.dumps leaves DEL as it is
