# SPDX-License-Identifier: Apache-2.0
"""The text of a snapshot: a summary, the tree, and the pid objects without a task.

    subtree of 4711 · 4 processes, 2 threads, 7 pids · 2024-05-01 12:00:00 UTC · Linux 6.1.0 x86_64
    complete · verified by numbering

    4711 bash · session leader · user jane · 3h old
    ├─ 4712 make -j8 all · group leader · 12m old
    │  ├─ {4713 make} {4714 make}
    │  └─ 4720/1 init · pid:[4026532001] level 1 · session leader
    └─ 4722 cc · zombie, exited 3 · group 4690 · born of 4700 (gone)

    pids without a task here
       4690 · group of 4722

A task's numbers go from the root's namespace inward; a single number is the one in the root's. Group, session,
namespace and terminal are shown if they are not the parent's, a state if it is not running, a creator if it is not the
parent, an exit signal if it is not SIGCHLD, user and age if they are not the parent's. Arguments, where they are known,
are shortened to the room that the line has. Threads are in braces; threads without a remark share lines.

With colour, a task's numbers have the colour of its session, its name that of its group (exporters.content.wording has
the rule), and exited tasks are red. The words say the same without colour. A narrow terminal cuts nothing off: remarks
continue in the next line, and fewer generations are indented.
"""

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

from agent.model import Snapshot, Task, TaskState
from agent.record import NamedTuple
from exporters.content.identity import UserName, age, command, nameless, user
from exporters.content.wording import ALARM, Remark, Remarks, Subject, count, cut, is_bare, name, plain
from exporters.drawing.colours import BOLD, Ink, Phrase, Span, columns, fold, shortened, width

_WIDTH = 100  # columns that threads may share if no width is given
_NARROWEST = 20  # columns; a narrower layout is impossible, so lines are then wider than requested
_LEAST_COMMAND = 12  # columns; a command line with less room is left out
_DEEPEST = 40  # generations that are indented; deeper trees would be mostly margin
Tinted: TypeAlias = Literal["session and group", "session", "group"]
_ALARMING = (TaskState.ZOMBIE, TaskState.DEAD_LEADER)


class _Signs(NamedTuple):
    """The characters of the tree's lines."""

    child: str
    last: str
    beside: str
    below: str
    between: str
    more: str


_UNICODE = _Signs("├─ ", "└─ ", "│  ", "   ", " · ", "…")
_ASCII = _Signs("|- ", "`- ", "|  ", "   ", " - ", "...")


class Row(NamedTuple):
    """A line of a tree that can be folded.

    Attributes:
        text: the line.
        key: identity of the task: numbers and start; None for a line that is no task's.
        generation: of the task, from 0; a line of threads has that of a child. -1 for a line outside the tree.
        sign: place of the character of its branch that can be replaced by a mark; -1 where it has none.
    """

    text: str
    key: tuple[tuple[int, ...], int | None] | None = None
    generation: int = -1
    sign: int = -1


def render(
    snapshot: Snapshot,
    *,
    unicode: bool = True,
    color: bool = False,
    width: int | None = None,
    tinted: Tinted = "session and group",
    names: UserName = nameless,
) -> str:
    """Return the snapshot as lines of text, without a newline after the last one.

    Args:
        snapshot: the snapshot to show.
        unicode: False for pure ASCII.
        color: True for a terminal's colour sequences (SGR, 256 colours).
        width: columns of the terminal, which no line exceeds; None: lines of any length.
        tinted: meaning of a task's colours: the session for its numbers and the group for its name, or one of the two
            for both.
        names: gives the name of a user id.
    """
    view = _View(snapshot, _UNICODE if unicode else _ASCII, Ink(color=color, unicode=unicode), width, tinted, names)
    return "\n".join([*view.summary(), "", *[row.text for row in view.tree()], *view.ghosts()])


def rows(
    snapshot: Snapshot,
    *,
    unicode: bool = True,
    color: bool = False,
    width: int,
    tinted: Tinted = "session and group",
    names: UserName = nameless,
) -> list[Row]:
    """Return the lines for a screen: a summary in one line, the tree, pids without a task, and the rest of the summary.

    Args:
        snapshot, unicode, color, tinted, names: as of render().
        width: columns of the screen.
    """
    view = _View(snapshot, _UNICODE if unicode else _ASCII, Ink(color=color, unicode=unicode), width, tinted, names)
    return [Row(view.headline()), *view.tree(), *[Row(text) for text in (*view.ghosts(), *view.notes())]]


class _View:
    """The lines of one snapshot, and lookups for them."""

    def __init__(
        self, snapshot: Snapshot, signs: _Signs, ink: Ink, width: int | None, tinted: Tinted, names: UserName
    ) -> None:
        self._snapshot = snapshot
        self._names = names
        self._tinted = tinted
        self._signs = signs
        self._ink = ink
        self._width = None if width is None else max(width, _NARROWEST)
        # The margin takes at most half of the line.
        indented = _DEEPEST if self._width is None else self._width // 2 // len(signs.child)
        self._deepest = min(indented, _DEEPEST)
        self._remarks = Remarks(snapshot)
        self._threads: defaultdict[int, list[Task]] = defaultdict(list)
        self._children: defaultdict[int, list[Task]] = defaultdict(list)
        self._root = snapshot.tasks[0]
        for task in snapshot.tasks[1:]:
            if self._remarks.is_thread(task):
                self._threads[task.tgid].append(task)
            else:
                # A thread whose leader has no task is drawn in place of its process.
                self._children[task.ppid or self._root.pid].append(task)

    def summary(self) -> Iterator[str]:
        """Yield the lines on the snapshot as a whole: contents, host, time and completeness."""
        yield from self._said(*self._contents())
        yield from self._trust()
        yield from self._left_out()

    def headline(self) -> str:
        """Return the summary in one line, shortened; an incomplete snapshot is called so at its beginning."""
        done = self._snapshot.completeness
        root, counts, when, host = self._contents()
        verdict = () if done.complete else (Span("INCOMPLETE", f"{BOLD};{self._ink.of(ALARM)}"),)
        rest = [root, counts, when, *(["complete"] if done.complete else []), *([host] if host else [])]
        ((text,),) = self._ink.spoken([(Span(self._signs.between.join([*([""] if verdict else []), *rest])),)])
        room = (self._width or sys.maxsize) - width(verdict)
        return self._ink.line((*verdict, Span(shortened(text.text, room, self._signs.more))))

    def notes(self) -> Iterator[str]:
        """Yield a blank and the lines that the headline has no room for, where they are about this snapshot."""
        lines = [*([] if self._snapshot.completeness.complete else self._trust()), *self._left_out()]
        yield from ["", *lines] if lines else []

    def _contents(self) -> tuple[str, str, str, str]:
        """Return root, counts, time and host."""
        snapshot, header = self._snapshot, self._snapshot.header
        processes = len({task.tgid for task in snapshot.tasks})
        counts = [count(processes, "process", "processes")]
        if len(snapshot.tasks) > processes:
            counts.append(count(len(snapshot.tasks) - processes, "thread"))
        counts.append(count(len(snapshot.pids), "pid"))
        if len(snapshot.namespaces) > 1:
            counts.append(count(len(snapshot.namespaces), "pid namespace"))
        host = " ".join(plain(word.partition("\0")[0]) for word in (header.release, header.machine) if word)
        return (
            f"{snapshot.mode} of {self._remarks.numbers(self._root.pid)}",
            ", ".join(counts),
            cut(snapshot),
            host and f"Linux {host}",
        )

    def _left_out(self) -> Iterator[str]:
        """Yield the lines on ids from outside that share a tag, and on tasks that were left out."""
        snapshot = self._snapshot
        if snapshot.squashed:
            squashed = ", ".join(map(plain, snapshot.squashed))
            yield from self._said(f"outside, under one tag: {squashed}", margin=self._signs.below)
        if snapshot.entered:
            entered = ", ".join(map(plain, snapshot.entered))
            yield from self._said(f"entered from outside and left out: {entered}", margin=self._signs.below)

    def tree(self) -> Iterator[Row]:
        """Yield the tasks, each below its parent."""
        signs = self._signs
        # A stack, last line first: the task or a finished line of threads, its generation, its branch and its margin.
        todo: list[tuple[Task | Phrase, int, str, str]] = [(self._root, 0, "", "")]
        while todo:
            item, generation, branch, margin = todo.pop()
            if not isinstance(item, Task):
                yield Row(branch + self._ink.line(item), None, generation)
                continue
            key = ((pid.numbers if (pid := self._snapshot.pid(item.pid)) else ()), item.start_ns)
            deep = f"[{generation} deep] " if generation > self._deepest else ""
            label = self._label(item, columns(branch) + len(deep))
            label[0] = (Span(deep), *label[0]) if deep else label[0]
            below = self._below(item, columns(margin))
            # A label of several lines continues the line to the tasks below.
            down = signs.beside if below and generation < self._deepest else signs.below
            place = len(branch) - 2 if below and branch else -1
            for line in self._folded(label, branch, margin + down):
                yield Row(line, key, generation, place)
                place = -1
            for further, each in enumerate(reversed(below)):
                if generation >= self._deepest:
                    # Deeper generations are not indented; their labels have the number of the generation.
                    todo.append((each, generation + 1, margin + signs.last, margin))
                else:
                    sign, beside = (signs.child, signs.beside) if further else (signs.last, signs.below)
                    todo.append((each, generation + 1, margin + sign, margin + beside))

    def ghosts(self) -> Iterator[str]:
        """Yield the lines of pid objects without a task that are a session, group or thread group."""
        remarks = self._remarks
        ghosts = remarks.ghosts()
        if not ghosts:
            return
        yield ""
        yield from self._folded([(Span("pids without a task here", BOLD),)], "", self._signs.below)
        for tag, ghost in ghosts.items():
            number = Span(remarks.numbers(tag), self._ink.of(remarks.tint(tag)) if remarks.is_id(tag) else "")
            label = [(number,), *[(Span(use),) for use in remarks.uses(ghost)]]
            yield from self._folded(label, self._signs.below, self._signs.below * 2)

    def _trust(self) -> Iterator[str]:
        done = self._snapshot.completeness
        checked = "not verified" if done.verified == "no" else f"verified by {done.verified}"
        said = (
            checked,
            f"{done.lost} events lost" if done.lost else "",
            f"{count(done.anomalies, 'anomaly', 'anomalies')} healed" if done.anomalies else "",
            f"{count(done.kernel_threads_left_out, 'kernel thread')} left out" if done.kernel_threads_left_out else "",
            "births assumed" if self._remarks.all_assumed else "",
            "bare image: numbers only" if is_bare(self._snapshot) else "",
        )
        verdict = Span("complete") if done.complete else Span("INCOMPLETE", f"{BOLD};{self._ink.of(ALARM)}")
        yield from self._folded([(verdict,), *[(Span(text),) for text in said if text]], "", self._signs.below)
        for reason in done.reasons:
            yield from self._said(plain(reason), margin=self._signs.below)

    def _below(self, task: Task, margin: int) -> "Sequence[Task | Phrase]":
        """Return the rows below a task: threads without a remark in shared lines, then other threads and children."""
        lines: list[Task | Phrase] = []
        others: list[Task] = []
        line: list[Span] = []
        # Without a terminal's width, the lines of threads have a width of their own, without the margin.
        room = _WIDTH - margin if self._width is None else self._width - margin - len(self._signs.child)
        used = 0
        for thread in self._threads.get(task.pid, ()) if task.pid == task.tgid else ():
            phrase = self._ink.spoken([self._name(thread)])[0]
            wide = width(phrase)
            if self._children.get(thread.pid) or self._remarks_on(thread) or (self._width is not None and wide > room):
                others.append(thread)
            elif line and used + 1 + wide <= room:
                line += (Span(" "), *phrase)
                used += 1 + wide
            else:
                lines += [tuple(line)] if line else []
                line, used = list(phrase), wide
        return [*lines, *([tuple(line)] if line else []), *others, *self._children.get(task.pid, ())]

    def _label(self, task: Task, margin: int) -> list[Phrase]:
        """Return name, command line and remarks of a task.

        Args:
            task: the task.
            margin: columns before its name.
        """
        name, remarks = self._name(task), self._remarks_on(task)
        text = command(task)
        if text:
            (((text, _),),) = self._ink.spoken([(Span(text),)])
            used = margin + width(name) + 1 + sum([len(self._signs.between) + width((each,)) for each in remarks])
            most = columns(text) if self._width is None else max(self._width - used, _LEAST_COMMAND)
            if self._width is None or margin + width(name) + 1 + _LEAST_COMMAND <= self._width:
                name = (*name, Span(f" {shortened(text, most, self._signs.more)}"))
        return [name, *[(each,) for each in remarks]]

    def _remarks_on(self, task: Task) -> list[Span]:
        """Return all remarks on a task; user and age are the last."""
        thread = self._remarks.is_thread(task)
        above = self._remarks.tasks.get(task.tgid if thread else task.ppid)
        if above is not None and not thread:
            above = self._remarks.tasks.get(above.tgid, above)
        said = [self._remark(task, remark) for remark in self._remarks.of(task)]
        old = "" if thread else age(self._snapshot, task)
        more = (
            user(task, above, self._names),
            "" if above is not None and old == age(self._snapshot, above) else old,
        )
        return [*said, *[Span(text) for text in more if text]]

    def _name(self, task: Task) -> Phrase:
        ids = {"session": (task.sid, task.sid), "group": (task.pgid, task.pgid)}.get(
            self._tinted, (task.sid, task.pgid)
        )
        session, group = (self._ink.of(self._remarks.tint(tag)) for tag in ids)
        leads = f"{BOLD};" if task.pid in ids else ""
        spans = [Span(self._remarks.numbers(task.pid), leads + session)]
        called = name(task)
        if task.comm is not None:
            spans += [Span(" "), Span(called, group)]
        return tuple(spans) if task.pid == task.tgid else (Span("{"), *spans, Span("}"))

    def _remark(self, task: Task, remark: Remark) -> Span:
        if remark.kind is Subject.STATE:
            return Span(remark.text, self._ink.of(ALARM) if task.state in _ALARMING else BOLD)
        if remark.kind is Subject.SESSION:
            return Span(remark.text, self._ink.of(self._remarks.tint(task.sid)))
        if remark.kind is Subject.GROUP:
            return Span(remark.text, self._ink.of(self._remarks.tint(task.pgid)))
        return Span(remark.text)

    def _said(self, *parts: str, margin: str = "") -> Iterator[str]:
        """Yield the parts that are not empty, uncoloured."""
        return self._folded([(Span(part),) for part in parts if part], margin, margin + self._signs.below)

    def _folded(self, phrases: Sequence[Phrase], first: str, rest: str) -> Iterator[str]:
        """Yield a label in as many lines as it needs; `first` stands before the first line, `rest` before the
        others."""
        ends = [sys.maxsize] * 2 if self._width is None else [self._width - columns(margin) for margin in (first, rest)]
        margin = first
        for line in fold(self._ink.spoken(phrases), self._signs.between, *ends):
            yield margin + self._ink.line(line)
            margin = rest
