# SPDX-License-Identifier: Apache-2.0
r"""Snapshot -> a drawing in graphviz's language.

    drawing = "digraph" { attributes, legend, places, edges }
    place   = cluster of a pid namespace { node, cluster of a namespace within it }
    node    = process with its threads | ghost | ancestor
    edge    = parent to child | creator to child, if it is not the parent | ghost to the members of its session or group

A process is a table: its name, a badge for each remark, then its threads. It is filled with the colour of its session
and framed with the colour of its group (exporters.content.wording has colours and words). The words are there as well,
because there are more ids than colours. A thread with a remark, or one that created a task, has a cell of its own. A
few of the other threads are named. The legend explains the signs that occur.

The tree grows from left to right, so that many children form a column, as on a terminal. Only edges from parents and
from ghosts decide on places; graphviz routes the other edges between these places.

Quoting
-------
Names are foreign text: control characters are escaped first. Then ``& < > "`` become character references. A backslash
is doubled in a label, because graphviz would replace ``\N`` and the like. Versions of graphviz differ in how often they
replace escapes in a tooltip, so there a look-alike character stands for the backslash.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from html import escape as escape_html

from agent.model import OUTSIDE, Ancestor, Birth, Creator, Namespace, OutsidePid, PidRef, Snapshot, Tag, Task, TaskState
from exporters.content.wording import ALARM, Remark, Remarks, Subject, Tint, count, moment, name, path, plain

_NAMED_THREADS = 12  # threads without a remark, in one process
_THREADS_IN_A_ROW = 3
_LARGE = 1000  # nodes; for a larger drawing the layout takes shortcuts that cannot be seen in it
_LIGHT = 0.8  # share of white in a session's colour
_DEAD = (TaskState.ZOMBIE, TaskState.DEAD_LEADER)
_DARK = "#333333"
_STOPPED = "#b35900"
_LINE = "#555555"
_BIRTH = "#0057d9"

_HEAD = """\
digraph ckptree {
graph [rankdir=LR, nodesep=0.1, ranksep=0.45, labelloc=t, labeljust=l, fontname="Helvetica", fontsize=11]
node [shape=plain, fontname="Helvetica", fontsize=10]
edge [arrowsize=0.5, color="%s"]
"""
_SHORTCUTS = "graph [splines=line, nslimit=1, nslimit1=1, mclimit=0.1]\n"


def dumps(snapshot: Snapshot) -> bytes:
    """Return the drawing of a snapshot, in UTF-8; equal snapshots give equal bytes."""
    return "".join(_Drawing(snapshot).text()).encode()


class _Drawing:
    """The parts of one drawing, and lookups for them."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._remarks = Remarks(snapshot)
        self._ghosts = self._remarks.ghosts()
        self._threads: defaultdict[int, list[Task]] = defaultdict(list)
        self._makers = {task.ppid for task in snapshot.tasks}
        for task in snapshot.tasks:
            if self._remarks.is_thread(task):
                self._threads[task.tgid].append(task)
            if self._remarks.strange_creator(task) and task.birth and task.birth.creator:
                self._makers.add(task.birth.creator.tag or OUTSIDE)
        for ancestor in snapshot.ancestors:
            if ancestor.birth.creator:
                self._makers.add(ancestor.birth.creator.tag or OUTSIDE)
        self._ports: dict[int, str] = {}
        self._seen: Counter[str] = Counter()

    def text(self) -> Iterator[str]:
        """Yield the whole text."""
        snapshot = self._snapshot
        yield _HEAD % _LINE
        if len(snapshot.tasks) > _LARGE:
            yield _SHORTCUTS
        yield f"graph [label=<{self._title()}>]\n"
        inside: defaultdict[int, list[str]] = defaultdict(list)
        for task in snapshot.tasks:
            if not self._remarks.is_thread(task):
                inside[self._place(task.pid)].append(self._process(task))
        for tag, uses in self._ghosts.items():
            inside[self._place(tag)].append(self._ghost(tag, uses))
        for ancestor in snapshot.ancestors:
            place = ancestor.namespaces[-1] if ancestor.namespaces else -1
            inside[place].append(self._ancestor(ancestor))
        yield from self._clusters(inside)
        yield from self._edges()
        yield self._legend()
        yield "}\n"

    def _title(self) -> str:
        snapshot, done = self._snapshot, self._snapshot.completeness
        what = f"{snapshot.mode} of {self._remarks.numbers(snapshot.tasks[0].pid)}"
        lines = [f"<b>{what}</b> · {count(len(snapshot.tasks), 'task')} · {moment(snapshot.time_ns)}"]
        if self._remarks.all_assumed:
            lines[0] += " · births assumed"
        if not done.complete:
            why = _quoted(plain("; ".join(done.reasons))) or "not verified"
            lines.append(f'<font color="{_hex(ALARM)}"><b>INCOMPLETE</b>: {why}</font>')
        return '<br align="left"/>'.join([*lines, ""])

    def _place(self, tag: Tag) -> int:
        innermost = self._remarks.innermost(tag)
        return -1 if innermost is None else innermost

    def _clusters(self, inside: dict[int, list[str]]) -> Iterator[str]:
        """Yield the clusters of the namespaces, nested; nodes of unknown namespaces are outside of all clusters."""
        yield from inside.get(-1, ())
        below: defaultdict[int | None, list[Namespace]] = defaultdict(list)
        for namespace in self._snapshot.namespaces:
            below[namespace.parent].append(namespace)
        todo: list[Namespace | str] = [*reversed(below[None])]
        while todo:
            item = todo.pop()
            if isinstance(item, str):
                yield item
                continue
            grey = "#" + f"{max(0xFF - 0x0A * item.level, 0xB0):02x}" * 3
            label = f"pid:[{item.inum}] · level {item.level}"
            yield f'subgraph cluster_{item.id} {{\ngraph [label="{label}", style="filled,rounded", '
            yield f'fillcolor="{grey}", color="#888888"]\n'
            yield from inside.get(item.id, ())
            todo.append("}\n")
            todo += reversed(below[item.id])

    def _process(self, task: Task) -> str:
        """Return the node of a process, or of a thread whose leader has no task."""
        remarks = self._remarks
        self._ports[task.pid] = f"n{task.pid}"
        leads = task.pid in (task.sid, task.pgid)
        rows = [_cell(self._name(task, bold=leads))]
        rows += [self._badge(task, remark) for remark in remarks.of(task) if self._is_badge(task, remark)]
        quiet: list[Task] = []
        for thread in self._threads.get(task.pid, ()):
            badges = [remark for remark in remarks.of(thread) if self._is_badge(thread, remark)]
            if badges or thread.pid in self._makers or remarks.strange_creator(thread):
                self._ports[thread.pid] = f"n{task.pid}:t{thread.pid}"
                said = "".join([f" · {self._said(thread, remark)}" for remark in badges])
                rows.append(_cell(self._name(thread) + said, port=f"t{thread.pid}", border="1", color="#888888"))
            else:
                quiet.append(thread)
        self._seen["thread"] += len(self._threads.get(task.pid, ()))
        rows += self._quiet(quiet)
        session, group = remarks.tint(task.sid), remarks.tint(task.pgid)
        style = "dashed" if task.state in _DEAD else "solid"
        table = _table(rows, border="2", style=style, color=_hex(group), bgcolor=_hex(session, _LIGHT))
        return _node(f"n{task.pid}", table, self._about(task))

    def _name(self, task: Task, *, bold: bool = False) -> str:
        number = self._remarks.numbers(task.pid)
        called = f"<b>{number}</b>" if bold else number
        if task.comm:
            called += f" {_quoted(name(task))}"
        return called if task.pid == task.tgid else f"{{{called}}}"

    def _is_badge(self, task: Task, remark: Remark) -> bool:
        """Return True if neither an edge nor a cluster shows the remark."""
        if remark.kind is Subject.BIRTH:
            return not self._remarks.strange_creator(task)
        return remark.kind is not Subject.NAMESPACE or self._place(task.pid) == -1

    def _badge(self, task: Task, remark: Remark) -> str:
        self._seen[_sign(task, remark)] += 1
        return _badge(remark.text, self._color(task, remark))

    def _said(self, thread: Task, remark: Remark) -> str:
        self._seen[_sign(thread, remark)] += 1
        color = self._color(thread, remark)
        return f'<font color="{color}">{_quoted(remark.text)}</font>' if color else _quoted(remark.text)

    def _color(self, task: Task, remark: Remark) -> str:
        """Return the colour of a remark; empty if it has none."""
        match remark.kind:
            case Subject.STATE:
                return _hex(ALARM) if task.state in _DEAD else _STOPPED
            case Subject.SESSION:
                return _hex(self._remarks.tint(task.sid))
            case Subject.GROUP:
                return _hex(self._remarks.tint(task.pgid))
            case Subject.SUBREAPER:
                return _DARK
            case _:
                return ""

    def _quiet(self, threads: list[Task]) -> Iterator[str]:
        named = [self._name(thread) for thread in threads[:_NAMED_THREADS]]
        for start in range(0, len(named), _THREADS_IN_A_ROW):
            yield _cell(_small(" ".join(named[start : start + _THREADS_IN_A_ROW])))
        if len(threads) > _NAMED_THREADS:
            yield _cell(_small(f"and {count(len(threads) - _NAMED_THREADS, 'more thread')}"))

    def _ghost(self, tag: Tag, uses: dict[str, list[Task]]) -> str:
        self._seen["ghost"] += 1
        self._ports[tag] = f"g{tag}"
        color = self._ghost_color(tag)
        rows = [_cell(f"<i>{self._remarks.numbers(tag)} no task</i>"), *map(_badge, self._remarks.uses(uses))]
        return _node(f"g{tag}", _table(rows, border="2", style="dotted", color=color, bgcolor="white"))

    def _ghost_color(self, tag: Tag) -> str:
        return _hex(self._remarks.tint(tag)) if self._remarks.is_id(tag) else _LINE

    def _ancestor(self, ancestor: Ancestor) -> str:
        self._seen["ancestor"] += 1
        called = path(ancestor.numbers) if ancestor.numbers else "outside"
        done = [f"{event.event} as event {event.order}" for event in ancestor.events]
        table = _table(
            [_cell(_small(f"<i>{called} gone</i>"))], border="1", style="dotted", color=_BIRTH, bgcolor="white"
        )
        return _node(f"a{ancestor.id}", table, [f"{called}, gone", *self._born(ancestor.birth), *done])

    def _edges(self) -> Iterator[str]:
        remarks = self._remarks
        for task in self._snapshot.tasks:
            if task.ppid and not remarks.is_thread(task):
                yield f"{self._ports[task.ppid]} -> n{task.pid}\n"
            if remarks.strange_creator(task) and task.birth and task.birth.creator:
                yield self._birth(task.birth.creator, self._ports[task.pid])
        for ancestor in self._snapshot.ancestors:
            if ancestor.birth.creator:
                # An ancestor gets its place from this edge alone.
                yield self._birth(ancestor.birth.creator, f"a{ancestor.id}", placed=True)
        for tag, uses in self._ghosts.items():
            style = f'style=dotted, arrowhead=none, weight=0, color="{self._ghost_color(tag)}"'
            yield from [f"g{tag} -> n{task.pid} [{style}]\n" for task in _topmost(uses)]

    def _birth(self, creator: Creator, born: str, *, placed: bool = False) -> str:
        """Return the edge from a creator; if `placed`, the created one stands to the right of its creator."""
        self._seen["birth edge"] += 1
        maker = f"a{creator.ancestor}" if creator.tag is None else self._ports[creator.tag]
        # graphviz 2.43 loses the attributes of an edge between the ports of two neighbours in one column.
        placed = placed or ":" in maker + born
        return f'{maker} -> {born} [style=dashed, constraint={str(placed).lower()}, color="{_BIRTH}"]\n'

    def _about(self, task: Task) -> Iterator[str]:
        """Yield all facts of a task, for its tooltip."""
        remarks = self._remarks
        yield f"{remarks.numbers(task.pid)} {name(task)}"
        yield f"parent {remarks.ref(task.ppid)}, group {remarks.ref(task.pgid)}, session {remarks.ref(task.sid)}"
        if task.uid is not None and task.gid is not None:
            yield f"uid {task.uid}, gid {task.gid}"
        yield from [remark.text for remark in remarks.of(task)]
        if task.birth:
            yield from self._born(task.birth)

    def _born(self, birth: Birth) -> Iterator[str]:
        if birth.observed and birth.order is not None:
            yield f"born as event {birth.order} into group {self._known(birth.pgid)}, session {self._known(birth.sid)}"
            if birth.flags:
                yield ", ".join(map(plain, birth.flags))

    def _known(self, ref: PidRef | None) -> str:
        if isinstance(ref, OutsidePid):
            return path(ref.numbers) or "outside"
        return "unknown" if ref is None else self._remarks.ref(ref)

    def _legend(self) -> str:
        """Return the legend: a table of the signs that occur."""
        seen = self._seen
        green, blue = "#cce7cc", "#005fff"
        box = {"border": "2", "color": blue, "bgcolor": green}
        signs = [
            (True, _cell("1 comm", **box), "a process: filled with its session's colour, framed with its group's"),
            (True, _cell("<b>1</b>", **box), "leads the session or group"),
            (seen["thread"], _cell("{2 comm}"), "a thread"),
            (seen[TaskState.ZOMBIE], _badge("zombie", _hex(ALARM)), "has exited, its parent has not waited for it yet"),
            (seen[TaskState.DEAD_LEADER], _badge("dead leader", _hex(ALARM)), "has exited, its threads live on"),
            (seen[TaskState.STOPPED], _badge("stopped", _STOPPED), "stopped by a signal"),
            (seen[Subject.SUBREAPER], _badge("subreaper", _DARK), "adopts the orphans below it"),
            (
                seen["ghost"],
                _cell("<i>3 no task</i>", border="2", style="dotted", color=_LINE, bgcolor="white"),
                "a pid that is only the session or group of others, dotted lines lead to them",
            ),
            (
                seen["ancestor"],
                _cell("<i>4 gone</i>", border="1", style="dotted", color=_BIRTH, bgcolor="white"),
                "is gone; others were born of it",
            ),
            (len(self._snapshot.tasks) > 1, _cell("──▶"), "parent to child"),
            (
                seen["birth edge"],
                _cell(f'<font color="{_BIRTH}">- - ▶</font>'),
                "creator to child, where the parent is another one",
            ),
            (
                len(self._snapshot.namespaces) > 1,
                _cell("[ ]", bgcolor="#f5f5f5", border="1"),
                "a box around: a pid namespace",
            ),
        ]
        rows = [sign + _cell(_small(text)) for shown, sign, text in signs if shown]
        table = _table(rows, border="0", cellspacing="3")
        return f'subgraph cluster_legend {{\ngraph [label="legend", color="#bbbbbb"]\n{_node("legend", table)}}}\n'


def _topmost(uses: dict[str, list[Task]]) -> list[Task]:
    """Return the tasks that a ghost's line leads to: members whose parent is no member."""
    members = {task.pid: task for tasks in uses.values() for task in tasks}
    return [task for task in members.values() if task.ppid not in members]


def _sign(task: Task, remark: Remark) -> str:
    """Return the key under which the legend counts a remark."""
    return task.state or "" if remark.kind is Subject.STATE else remark.kind


def _node(id_: str, label: str, about: Iterable[str] = ()) -> str:
    tooltip = "&#10;".join(map(escape_html, about)).replace("\\", "\N{REVERSE SOLIDUS OPERATOR}")
    return f'{id_} [label=<{label}>, tooltip="{tooltip or id_}"]\n'


def _table(rows: Iterable[str], **attributes: str) -> str:
    said = {"cellborder": "0", "cellspacing": "0", "cellpadding": "2"} | attributes
    return f"<table{_attributes(said)}>{''.join([f'<tr>{row}</tr>' for row in rows])}</table>"


def _cell(text: str, **attributes: str) -> str:
    return f'<td align="left"{_attributes(attributes)}>{text}</td>'


def _badge(text: str, color: str = "") -> str:
    """Return the cell of a remark, white on its colour if it has one."""
    if not color:
        return _cell(_small(_quoted(text)))
    return _cell(_small(f'<font color="white">{_quoted(text)}</font>'), bgcolor=color)


def _small(text: str) -> str:
    return f'<font point-size="9">{text}</font>'


def _attributes(attributes: dict[str, str]) -> str:
    return "".join([f' {key}="{value}"' for key, value in attributes.items()])


def _quoted(text: str) -> str:
    """Quote a text for a label."""
    return escape_html(text).replace("\\", "\\\\")


def _hex(tint: Tint, light: float = 0.0) -> str:
    """Return a colour mixed with white; `light` is the share of white, 0 to 1."""
    return "#" + "".join([f"{round(part + (0xFF - part) * light):02x}" for part in tint.rgb])
