# SPDX-License-Identifier: Apache-2.0
"""The difference of two snapshots, as text and as a document.

    different: 1 gone, 1 born, 1 moved, 1 changed
    a: subtree of 4711 · 6 tasks · 2024-05-01 12:00:00 UTC
    b: subtree of 4711 · 6 tasks · 2024-05-01 12:00:05 UTC
    who is who: by number and start time

    gone
       4722 cc · child of 4711 · zombie, exited 3
    born
       4723 sh (and 2 threads) · child of 4711
    moved
       4720/1 init: parent 4712 → 4711
    changed
       4712 make: state running → zombie; exit code none → exited 0

    notes, no part of being equal
       4711 bash: comm bash → sh

Tasks are named by their numbers, from the root's namespace inward. A change of a whole process is told once: its
threads are counted unless something else happened to them. exporters.comparing.comparison defines the comparison.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from agent.model import CKPT_PID_ROOT, Snapshot, Task
from agent.model.signalnames import signal_name
from agent.record import NamedTuple
from exporters.comparing.comparison import Change, Changed, Difference, Numbers, Stray, difference
from exporters.content.facts import Document
from exporters.content.fields import escape
from exporters.content.wording import Remarks, count, cut, ended, name, path, plain

__all__ = ["Difference", "difference", "lines", "to_document"]

_INDENT = "   "


def lines(found: Difference, *, unicode: bool = True) -> list[str]:
    """Return the difference as lines of text; pure ASCII if `unicode` is False."""
    told = list(_Account(found).lines())
    if unicode:
        return told
    # Two signs of our own have an ASCII counterpart; other text is escaped.
    plainer = [line.replace(" · ", " - ").replace(" → ", " -> ") for line in told]
    return [line.encode("ascii", "backslashreplace").decode("ascii") for line in plainer]


def to_document(found: Difference) -> Document:
    """Return the difference as maps and lists that JSON can hold.

    A task is ``{numbers, comm, thread_group}``, its thread group given by numbers. A pid object is its numbers, or 0 or
    -4097. Kernel strings are text (exporters.content.fields has the escapes).
    """
    a, b = found.a, found.b
    return {
        "equal": found.equal,
        "identity": "map" if found.mapped else "start" if found.one_tree else "numbers",
        "a": _summary(a),
        "b": _summary(b),
        "gone": [_task(a, task) for task in found.gone],
        "born": [_task(b, task) for task in found.born],
        "moved": [_changed(a, row) for row in found.moved],
        "changed": [_changed(a, row) for row in found.changed],
        "pids_gone": [pid.numbers for pid in found.pids_gone],
        "pids_came": [pid.numbers for pid in found.pids_came],
        "namespaces": [
            {"numbers": row.numbers, "level": row.level, "a": _inum(a, row.a), "b": _inum(b, row.b)}
            for row in found.strays
        ],
        "unsaid": [{"fact": fact, "side": side, "known": known} for fact, side, known in found.unsaid],
        "replaced": [_task(b, row.b) for row in found.replaced],
        "renamed": [_changed(a, row) for row in found.renamed],
        "notes": list(found.notes),
    }


class _Line(NamedTuple):
    """The text about one task."""

    task: Task
    text: str


class _Account:
    """The lines of one difference."""

    def __init__(self, found: Difference) -> None:
        self._found = found
        self._a, self._b = Remarks(found.a), Remarks(found.b)
        self._members_a, self._members_b = (_members(side) if found.strays else {} for side in (found.a, found.b))

    def lines(self) -> Iterator[str]:
        """Yield all lines."""
        found = self._found
        yield self._verdict()
        for side, snapshot in (("a", found.a), ("b", found.b)):
            tasks = count(len(snapshot.tasks), "task")
            root = path(snapshot.pids[0].numbers)
            yield f"{side}: {snapshot.mode} of {root} · {tasks} · {cut(snapshot)}"
        if found.mapped:
            yield "who is who: by the map; a has the numbers that it gives"
        else:
            yield "who is who: by number and start time" if found.one_tree else "who is who: by number"
        parts = (
            ("gone", self._tasks(self._a, found.gone)),
            ("born", self._tasks(self._b, found.born)),
            ("moved", self._changes(found.moved)),
            ("changed", self._changes(found.changed)),
            ("pids without a task, gone", [path(pid.numbers) for pid in found.pids_gone]),
            ("pids without a task, new", [path(pid.numbers) for pid in found.pids_came]),
            ("in another pid namespace", [self._stray(row) for row in found.strays]),
            ("known to one alone", list(self._silences())),
        )
        if any(rows for _, rows in parts):
            yield ""
        for title, rows in parts:
            yield from _part(title, rows)
        notes = [
            *self._folded(
                self._a, [_Line(row.a, ": another task since, with the same number") for row in found.replaced]
            ),
            *self._changes(found.renamed),
            *found.notes,
        ]
        if notes:
            yield ""
            yield from _part("notes, no part of being equal", notes)

    def _verdict(self) -> str:
        found = self._found
        if found.equal:
            return "equal"
        counts = (
            (len(found.gone), "gone"),
            (len(found.born), "born"),
            (len(found.moved), "moved"),
            (len(found.changed), "changed"),
        )
        said = [f"{number} {word}" for number, word in counts if number]
        ghosts = len(found.pids_gone) + len(found.pids_came)
        if ghosts:
            said.append(f"{count(ghosts, 'pid')} without a task")
        if found.strays:
            said.append(f"{count(len(found.strays), 'number')} in another namespace")
        if found.unsaid:
            said.append(f"{count(len(found.unsaid), 'fact')} known to one alone")
        return f"different: {', '.join(said)}"

    def _tasks(self, remarks: Remarks, tasks: Sequence[Task]) -> list[str]:
        """Return the lines of tasks of one side. A thread has no text of its own if its leader is among the tasks."""
        leaders = {task.pid for task in tasks}
        rows = []
        for task in tasks:
            if remarks.is_thread(task) and task.tgid in leaders:
                rows.append(_Line(task, ""))
                continue
            if remarks.is_thread(task):
                place = f"thread of {remarks.ref(task.tgid)}"
            else:
                place = f"child of {remarks.ref(task.ppid)}" if task.ppid else "the root"
            said = [place, *[remark.text for remark in remarks.of(task)]]
            rows.append(_Line(task, "".join([f" · {text}" for text in said])))
        return self._folded(remarks, rows)

    def _changes(self, rows: Sequence[Changed]) -> list[str]:
        said = [_Line(row.a, ": " + "; ".join(map(_change, row.changes))) for row in rows]
        return self._folded(self._a, said)

    def _folded(self, remarks: Remarks, rows: Sequence[_Line]) -> list[str]:
        """Return a line for each row; a thread with no text but its leader's is counted in the leader's line."""
        texts = {row.task.pid: row.text for row in rows}
        silent: Counter[int] = Counter()
        told = []
        for row in rows:
            task = row.task
            if remarks.is_thread(task) and row.text in ("", texts.get(task.tgid)):
                silent[task.tgid] += 1
            else:
                told.append(row)
        return [self._named(remarks, row.task, silent[row.task.pid]) + row.text for row in told]

    def _named(self, remarks: Remarks, task: Task, threads: int) -> str:
        called = f"{remarks.numbers(task.pid)} {name(task)}".rstrip(" ")
        if task.pid != task.tgid:
            called = f"{{{called}}}"
        return called + (f" (and {count(threads, 'thread')})" if threads else "")

    def _stray(self, row: Stray) -> str:
        before, after = _fellow(self._members_a, row, row.a), _fellow(self._members_b, row, row.b)
        return f"{path(row.numbers)}: its number {row.numbers[row.level]} is {before} in a, {after} in b"

    def _silences(self) -> Iterator[str]:
        for fact, side, known in self._found.unsaid:
            other = "b" if side == "a" else "a"
            of = count(known, "pid" if fact == "namespaces" else "task")
            yield f"{fact}: {other} says it of {of}, {side} does not"


def _part(title: str, rows: Sequence[str]) -> Iterator[str]:
    if rows:
        yield title
        yield from [_INDENT + row for row in rows]


def _members(snapshot: Snapshot) -> dict[tuple[int, int], list[Numbers]]:
    """Return the pids in each namespace, by level and id, lowest numbers first."""
    members: defaultdict[tuple[int, int], list[Numbers]] = defaultdict(list)
    for pid in sorted(snapshot.pids):
        for place in enumerate(pid.namespaces):
            members[place].append(pid.numbers)
    return members


def _fellow(members: dict[tuple[int, int], list[Numbers]], row: Stray, id_: int) -> str:
    """Return a namespace's description: the first other pid in it."""
    fellow = next((numbers for numbers in members[row.level, id_] if numbers != row.numbers), None)
    return f"with {path(fellow)}" if fellow else "alone"


def _change(change: Change) -> str:
    return f"{change.field} {_value(change, change.a)} → {_value(change, change.b)}"


def _value(change: Change, value: object) -> str:
    """Return one side of a change in words."""
    if value is None:
        return "none" if change.field == "exit code" else "unknown"
    if isinstance(value, tuple):
        return path(value)
    if isinstance(value, bytes):
        return plain(escape(value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and change.field == "exit code":
        return ended(value)
    if isinstance(value, int) and change.field == "exit signal":
        return signal_name(value)
    if isinstance(value, int) and change.field in ("parent", "thread group", "group", "session"):
        return "inherited from outside" if value == CKPT_PID_ROOT else "outside"
    return str(value)


def _summary(snapshot: Snapshot) -> Document:
    return {
        "mode": snapshot.mode,
        "root": snapshot.pids[0].numbers,
        "boot_id": snapshot.boot_id or None,
        "time_ns": snapshot.time_ns,
        "tasks": len(snapshot.tasks),
        "pids": len(snapshot.pids),
    }


def _task(snapshot: Snapshot, task: Task) -> Document:
    first = snapshot.first_tag
    return {
        "numbers": snapshot.pids[task.pid - first].numbers,
        "comm": _text(task.comm),
        "thread_group": snapshot.pids[task.tgid - first].numbers,
    }


def _changed(snapshot: Snapshot, row: Changed) -> Document:
    changes = [
        {"field": change.field.replace(" ", "_"), "a": _text(change.a), "b": _text(change.b)} for change in row.changes
    ]
    return {**_task(snapshot, row.a), "changes": changes}


def _text(value: object) -> object:
    return escape(value) if isinstance(value, bytes) else value


def _inum(snapshot: Snapshot, id_: int) -> int | None:
    return snapshot.namespaces[id_].inum if 0 <= id_ < len(snapshot.namespaces) else None
