# SPDX-License-Identifier: Apache-2.0
"""What there is to say of each task of a snapshot, in words and in colours, whatever it is then drawn with.

Theory
------
A task is *named* by its numbers, from the root's namespace inward, and its comm. All else is a *remark*, and made only
where something is not as one expects of a child of its parent: group, session and namespace where they differ from the
parent's, a terminal where the parent has another or is not in its foreground, a state where it is not running, a creator
where it is not the parent, an exit signal where it is not SIGCHLD. A thread is compared with its leader, which it stands
below; one whose leader has no task stands where its process would, and is remarked on like a process.

A colour stands for one id: a session and the group of the same leader share theirs. Ids take the colours in the order in
which the tree mentions them, so those that lie near each other differ; where there are more ids than colours, they come
round again, and the words tell.
"""

import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from agent.model import CKPT_PID_NULL, CKPT_PID_ROOT, Namespace, Snapshot, Task, TaskState
from exporters.fields import escape

CORE_DUMPED = 0x80
"""The bit of a wait status that says whether a core was dumped."""

_SIGNAL = 0x7F
_NAMED = 6  # users of a ghost that are named
_NS_PER_S = 1_000_000_000


class Tint(NamedTuple):
    """A colour that can be read on white and on black alike.

    Attributes:
        code: its place among the 256 colours of a terminal.
        rgb: what is there, 0 to 255 each.
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
"""The colour of the dead, and of what is incomplete; of no id."""


class Kind(StrEnum):
    """What a remark is about."""

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
    """One thing said of a task."""

    kind: Kind
    text: str


class Remarks:
    """All that can be said of the tasks of one snapshot.

    Attributes:
        tasks: the task of a pid's tag.
        all_assumed: True where no birth but perhaps the root's was seen; then no task is remarked on for it.
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
        """All remarks on a task."""
        thread = self.is_thread(task)
        above = self.tasks.get(task.tgid if thread else task.ppid)
        remarks = [Remark(Kind.STATE, state(task)), Remark(Kind.NAMESPACE, self._namespace(task, above))]
        if not thread:
            remarks += [Remark(Kind.SESSION, self._session(task, above)), Remark(Kind.GROUP, self._group(task, above))]
            remarks.append(Remark(Kind.TERMINAL, self._terminal(task, above)))
            if task.pid != task.tgid:
                remarks.append(Remark(Kind.THREAD, f"thread of {self.ref(task.tgid)} (gone)"))
            if task.subreaper:
                remarks.append(Remark(Kind.SUBREAPER, "subreaper"))
            remarks.append(Remark(Kind.EXIT_SIGNAL, exit_signal(task.exit_signal)))
        if task.child_namespace is not None:
            where = self.pidns(task.child_namespace) or "an empty pidns"
            where += ", which is dead" if task.child_namespace_dead else ""
            remarks.append(Remark(Kind.NEXT_CHILD, f"next child in {where}"))
        remarks.append(Remark(Kind.SHARES, _shares(task)))
        remarks.append(Remark(Kind.BIRTH, self._birth(task)))
        return [remark for remark in remarks if remark.text]

    def is_thread(self, task: Task) -> bool:
        """True for a thread that has a leader to stand below."""
        return task.pid != task.tgid and task.tgid in self.tasks

    def strange_creator(self, task: Task) -> bool:
        """True where somebody is known to have made the task who is neither its parent nor in its thread group."""
        if task.birth is None or task.birth.creator is None or task is self._root:
            return False
        tag = task.birth.creator.tag
        if tag is None:
            return True
        creator = self.tasks.get(tag)
        return tag != task.ppid and not (creator and creator.tgid == task.tgid)

    def ghosts(self) -> dict[int, dict[str, list[Task]]]:
        """The pid objects without a task, by tag: what each one still is, a session or a group, and of which processes."""
        snapshot = self._snapshot
        ghosts: dict[int, dict[str, list[Task]]] = {
            tag: {} for tag, _ in enumerate(snapshot.pids, snapshot.first_tag) if tag not in self.tasks
        }
        for task in snapshot.tasks if ghosts else ():
            if self.is_thread(task):
                continue
            for use, tag in (("session", task.sid), ("group", task.pgid), ("thread group", task.tgid)):
                if tag in ghosts:
                    ghosts[tag].setdefault(use, []).append(task)
        return ghosts

    def uses(self, ghost: dict[str, list[Task]]) -> list[str]:
        """What a ghost still is, in words."""
        return [f"{use} of {self._few(tasks)}" for use, tasks in ghost.items()] or ["used by no task"]

    def tint(self, tag: int) -> Tint:
        """The colour of a session or group that a task has."""
        return self._tints[tag]

    def is_id(self, tag: int) -> bool:
        """True for the tag of a session or group that a task has."""
        return tag in self._tints

    def numbers(self, tag: int) -> str:
        """All numbers of a pid object, outermost first."""
        pid = self._snapshot.pid(tag)
        return path(pid.numbers) if pid else "?"

    def ref(self, tag: int) -> str:
        """An id as others refer to it: by its number in the root's namespace."""
        if tag == CKPT_PID_ROOT:
            return "inherited from outside"
        return str(self._snapshot.number(tag)) if tag else "outside"

    def pidns(self, id_: int) -> str:
        """The name of a namespace; empty for one that holds no task of the tree."""
        known: Sequence[Namespace] = self._snapshot.namespaces
        return f"pid:[{known[id_].inum}]" if 0 <= id_ < len(known) else ""

    def innermost(self, tag: int) -> int | None:
        """The id of the namespace a pid object lives in; None where the image does not say."""
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
            return f"born of {ancestor.numbers[0] if ancestor.numbers else 'a task outside'} (gone)"
        tag = birth.creator.tag or 0
        return f"born of {self.ref(tag)}" + ("" if tag in self.tasks else " (gone)")


def is_bare(snapshot: Snapshot) -> bool:
    """True for the snapshot of an image that has numbers and no facts."""
    return all(task.comm is None and task.state is None for task in snapshot.tasks)


def moment(time_ns: int) -> str:
    """A CLOCK_REALTIME as date and time."""
    return f"{datetime.fromtimestamp(time_ns // _NS_PER_S, UTC):%Y-%m-%d %H:%M:%S} UTC"


def name(task: Task) -> str:
    """The comm of a task as text that no terminal obeys; empty where the image does not say."""
    return "" if task.comm is None else plain(escape(task.comm))


def state(task: Task) -> str:
    """The state of a task where it is not running, and how it ended."""
    if task.state is None or task.state is TaskState.RUNNING:
        return ""
    how = "" if task.exit_code is None else f", {ended(task.exit_code)}"
    return ("dead leader" if task.state is TaskState.DEAD_LEADER else task.state.value) + how


_SHARED = {"vm": "memory", "fs": "folder", "files": "files"}


def _shares(task: Task) -> str:
    """What a task shares beyond its thread group; the same number is the same thing."""
    ids = task.shares._asdict() if task.shares else {}
    said = [f"{_SHARED[key]} {id_}" for key, id_ in ids.items() if id_ is not None]
    return f"shares {', '.join(said)}" if said else ""


def ended(code: int) -> str:
    """A wait status, as a shell's user would say it."""
    number = code & _SIGNAL
    if not number:
        return f"exited {code >> 8 & 0xFF}"
    word = signal_name(number)
    word = f"signal {word}" if word.isdecimal() else word
    return f"killed by {word}" + (", core dumped" if code & CORE_DUMPED else "")


def signal_name(number: int) -> str:
    """A signal by its name, as kill -l has it, or its number; 0 is none."""
    if not number:
        return "none"
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def exit_signal(number: int | None) -> str:
    """What a process sends its parent at its end; empty where that is SIGCHLD or not known, and of a thread."""
    if number is None or number < 0 or number == signal.SIGCHLD:
        return ""
    return f"exit signal {signal_name(number)}" if number else "no exit signal"


def count(number: int, one: str, many: str = "") -> str:
    """A number of things; `many` is their plural where an s does not make it."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def path(numbers: Sequence[int]) -> str:
    """The numbers of a pid object as one word."""
    return "/".join(map(str, numbers))


def plain(text: str) -> str:
    """A foreign string without what a terminal would obey."""
    if text.isprintable():
        return text
    return "".join([char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text])
