# SPDX-License-Identifier: Apache-2.0
r"""Snapshot -> a drawing in graphviz's language.

    drawing = "digraph" { attributes, legend, places, edges }
    place   = cluster of a pid namespace { node, cluster of a namespace within it }
    node    = process with its threads | block of siblings | ghost, which may be an ancestor | ancestor
    edge    = parent to child | creator to child, if it is not the parent | ghost to the members of its session or group

A process is a table: its name, a badge for each remark, then its threads. It is filled with the colour of its session
and framed with the colour of its group (exporters.content.wording has colours and words). The words are there as well,
because there are more ids than colours. A thread with a remark, or one that created a task, has a cell of its own. A
few of the other threads are named. The legend explains the signs that occur.

The tree grows from left to right, so that many children form a column, as on a terminal and in the same order. graphviz
keeps no such order by itself: siblings in one box have one rank and a chain of invisible edges, which graphviz reads
from bottom to top within boxes, unless it looks for a better order once more: remincross=false forbids that. So nodes
of unknown namespaces have an invisible box. Only the box of an inner namespace may stand elsewhere than its first
process would. All attributes of edges are declared at the head, and ports are attributes, too: graphviz 2.43 takes one
attribute for another where it meets the first port within a box.

In a large drawing siblings without children share a node (exporters.drawing.folding). Only edges from parents and from
ghosts decide on places; graphviz routes the other edges between these places.

Quoting
-------
Names are foreign text: control characters are escaped first. Then ``& < > "`` become character references. A backslash
is doubled in a label, because graphviz would replace ``\N`` and the like. Versions of graphviz differ in how often they
replace escapes in a tooltip, so there a look-alike character stands for the backslash.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator

from agent.model import OUTSIDE, Ancestor, Birth, Creator, Namespace, OutsidePid, PidRef, Snapshot, Tag, Task
from exporters.content.identity import UserName, nameless, user
from exporters.content.wording import ALARM, Remark, Remarks, Subject, count, cut, name, path, plain
from exporters.drawing import folding, treelegend
from exporters.drawing.labels import FONTS, badge, cell, hexadecimal, node, quoted, table, text_cell
from exporters.drawing.treelegend import BIRTH, DARK, DEAD, LINE

_ROOMY = 40  # processes; in a larger drawing siblings share nodes
_NAMED_THREADS = 12  # threads without a remark, in one process
_NAMED_THREADS_IN_LARGE = 3
_THREADS_IN_A_ROW = 3
_LARGE = 1000  # nodes; for a larger drawing the layout takes shortcuts that cannot be seen in it
_LIGHT = 0.8  # share of white in a session's colour

_HEAD = f"""\
digraph ckptree {{
graph [rankdir=LR, remincross=false, nodesep=0.1, ranksep=0.45, labelloc=t, labeljust=l, fontname="{FONTS}", fontsize=11]
node [shape=plain, fontname="{FONTS}", fontsize=10]
edge [headport="", tailport="", arrowsize=0.5, color="{LINE}", style=solid, constraint=true, dir=forward]
"""
_SHORTCUTS = "graph [splines=line, nslimit=1, nslimit1=1, mclimit=0.1]\n"


def dumps(snapshot: Snapshot, names: UserName = nameless) -> bytes:
    """Return the drawing of a snapshot, in UTF-8; equal snapshots and names give equal bytes."""
    return "".join(_Drawing(snapshot, names).text()).encode()


class _Drawing:
    """The parts of one drawing, and lookups for them."""

    def __init__(self, snapshot: Snapshot, names: UserName) -> None:
        self._snapshot = snapshot
        self._names = names
        self._remarks = Remarks(snapshot)
        self._ghosts = self._remarks.ghosts()
        gone = self._remarks.gone_ghosts()
        self._gone = {tag: snapshot.ancestors[id_] for tag, id_ in gone.items()}
        self._ghost_of = {id_: tag for tag, id_ in gone.items()}
        self._threads: defaultdict[int, list[Task]] = defaultdict(list)
        self._children: defaultdict[int, list[Task]] = defaultdict(list)
        self._makers = {task.ppid for task in snapshot.tasks}
        for task in snapshot.tasks:
            if self._remarks.is_thread(task):
                self._threads[task.tgid].append(task)
            else:
                self._children[task.ppid].append(task)
            if self._remarks.strange_creator(task) and task.birth and task.birth.creator:
                self._makers.add(task.birth.creator.tag or OUTSIDE)
        for ancestor in snapshot.ancestors:
            if ancestor.birth.creator:
                self._makers.add(ancestor.birth.creator.tag or OUTSIDE)
        self._ports: dict[int, str] = {}
        self._seen: Counter[str] = Counter()
        processes = sum(map(len, self._children.values()))
        self._is_large = processes > _ROOMY

    def text(self) -> Iterator[str]:
        """Yield the whole text."""
        snapshot = self._snapshot
        yield _HEAD
        if len(snapshot.tasks) > _LARGE:
            yield _SHORTCUTS
        yield f"graph [label=<{self._title()}>]\n"
        inside: defaultdict[int, list[str]] = defaultdict(list)
        for siblings in list(self._children.values()) if self._is_large else ():
            for block in folding.blocks(siblings, self._fold_place, self._kind):
                inside[self._place(block[0][0].pid)].append(self._block(block))
        for task in snapshot.tasks:
            if not self._remarks.is_thread(task) and task.pid not in self._ports:
                inside[self._place(task.pid)].append(self._process(task))
        for tag, uses in self._ghosts.items():
            inside[self._place(tag)].append(self._ghost(tag, uses))
        for ancestor in snapshot.ancestors:
            if ancestor.id in self._ghost_of:
                continue
            place = ancestor.namespaces[-1] if ancestor.namespaces else -1
            inside[place].append(self._ancestor(ancestor))
        for place, chain in self._chains():
            inside[place].append(chain)
        yield from self._clusters(inside)
        yield from self._edges()
        yield treelegend.legend(self._seen, self._snapshot)
        yield "}\n"

    def _title(self) -> str:
        snapshot, done = self._snapshot, self._snapshot.completeness
        lines = [f"<b>{snapshot.mode} of {self._remarks.numbers(snapshot.tasks[0].pid)}</b>"]
        lines.append(f"{count(len(snapshot.tasks), 'task')} · {cut(snapshot)}")
        if self._remarks.all_assumed:
            lines[1] += " · births assumed"
        if not done.complete:
            why = quoted(plain("; ".join(done.reasons))) or "not verified"
            lines.append(f'<font color="{hexadecimal(ALARM)}"><b>INCOMPLETE: {why}</b></font>')
        return '<br align="left"/>'.join([*lines, ""])

    def _place(self, tag: Tag) -> int:
        innermost = self._remarks.innermost(tag)
        return -1 if innermost is None else innermost

    def _clusters(self, inside: dict[int, list[str]]) -> Iterator[str]:
        """Yield the clusters of the namespaces, nested; nodes of unknown namespaces have one that is not seen."""
        if unknown := inside.get(-1):
            yield "subgraph cluster_outside {\ngraph [style=invis]\n"
            yield from unknown
            yield "}\n"
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

    def _fold_place(self, task: Task) -> Hashable | None:
        """Return the place of a process that may share a node with its neighbours; None for another one."""
        alone = task.pid in self._makers or self._threads.get(task.pid)
        return None if alone else (self._place(task.pid),)

    def _kind(self, task: Task) -> Hashable:
        """Return all that a drawing shows of a process but its number; a leader is one of its own session or group."""
        remarks = self._remarks
        creator = task.birth.creator if task.birth and remarks.strange_creator(task) else None
        sid, pgid = (None if tag == task.pid else tag for tag in (task.sid, task.pgid))
        return (task.comm, task.uid, task.state, sid, pgid, creator, tuple(remarks.of(task)))

    def _block(self, block: folding.Block[Task]) -> str:
        """Return the node of siblings."""
        first = block[0][0].pid
        cells = []
        for like in block:
            for task in like:
                self._ports[task.pid] = f"k{first}:p{like[0].pid}"
            drawn = self._table(like[0]) if len(like) == 1 else self._table_of_like(like)
            cells.append(cell(drawn, port=f"p{like[0].pid}", cellpadding="0"))
        label = table(folding.columns(cells), border="1", color="#bbbbbb", cellspacing="2")
        about = [f"{self._remarks.numbers(task.pid)} {name(task)}" for like in block for task in like]
        return node(f"k{first}", label, about)

    def _table_of_like(self, like: list[Task]) -> str:
        self._seen["like"] += 1
        first, last = like[0], like[-1]
        numbers = [self._remarks.numbers(task.pid) for task in (first, like[1], last)]
        rows = [text_cell(f"{len(like)} × {name(first)}", bold=first.pid in (first.sid, first.pgid))]
        rows.append(text_cell(f"{numbers[0]}, {numbers[1]}, … {numbers[2]}", small=True))
        return self._framed(first, [*rows, *self._badges(first)])

    def _process(self, task: Task) -> str:
        """Return the node of a process, or of a thread whose leader has no task."""
        self._ports[task.pid] = f"n{task.pid}"
        return node(f"n{task.pid}", self._table(task), self._about(task))

    def _table(self, task: Task) -> str:
        remarks = self._remarks
        rows = [text_cell(self._name(task), bold=task.pid in (task.sid, task.pgid)), *self._badges(task)]
        quiet: list[Task] = []
        for thread in self._threads.get(task.pid, ()):
            badges = self._badges(thread)
            if badges or thread.pid in self._makers or remarks.strange_creator(thread):
                self._ports[thread.pid] = f"n{task.pid}:t{thread.pid}"
                row = "".join([text_cell(self._name(thread)), *badges])
                inner = table([row], border="0", cellpadding="0", cellspacing="2") if badges else ""
                frame = {"port": f"t{thread.pid}", "border": "1", "color": "#888888"}
                rows.append(cell(inner, **frame) if inner else text_cell(self._name(thread), frame))
            else:
                quiet.append(thread)
        self._seen["thread"] += len(self._threads.get(task.pid, ()))
        return self._framed(task, [*rows, *self._quiet(quiet)])

    def _framed(self, task: Task, rows: list[str]) -> str:
        session, group = self._remarks.tint(task.sid), self._remarks.tint(task.pgid)
        style = "dashed" if task.state in DEAD else "solid"
        return table(rows, border="2", style=style, color=hexadecimal(group), bgcolor=hexadecimal(session, _LIGHT))

    def _name(self, task: Task) -> str:
        called = self._remarks.numbers(task.pid)
        if task.comm:
            called += f" {name(task)}"
        return called if task.pid == task.tgid else f"{{{called}}}"

    def _badges(self, task: Task) -> list[str]:
        return [self._badge(task, remark) for remark in self._remarks.of(task) if self._is_badge(task, remark)]

    def _is_badge(self, task: Task, remark: Remark) -> bool:
        """Return True if neither an edge nor a cluster shows the remark."""
        if remark.kind is Subject.BIRTH:
            return not self._remarks.strange_creator(task)
        return remark.kind is not Subject.NAMESPACE or self._place(task.pid) == -1

    def _badge(self, task: Task, remark: Remark) -> str:
        self._seen[_sign(task, remark)] += 1
        match remark.kind:
            case Subject.STATE:
                return treelegend.state_badge(task.state, remark.text)
            case Subject.SESSION:
                return badge(remark.text, hexadecimal(self._remarks.tint(task.sid)))
            case Subject.GROUP:
                return badge(remark.text, hexadecimal(self._remarks.tint(task.pgid)))
            case Subject.SUBREAPER:
                return badge(remark.text, DARK)
            case _:
                return badge(remark.text)

    def _quiet(self, threads: list[Task]) -> Iterator[str]:
        most = _NAMED_THREADS_IN_LARGE if self._is_large else _NAMED_THREADS
        named = [self._name(thread) for thread in threads[:most]]
        for start in range(0, len(named), _THREADS_IN_A_ROW):
            yield text_cell(" ".join(named[start : start + _THREADS_IN_A_ROW]), small=True)
        if len(threads) > most:
            yield text_cell(f"and {count(len(threads) - most, 'more thread')}", small=True)

    def _ghost(self, tag: Tag, uses: dict[str, list[Task]]) -> str:
        self._seen["ghost"] += 1
        self._ports[tag] = f"g{tag}"
        color = self._ghost_color(tag)
        ancestor = self._gone.get(tag)
        self._seen["ancestor"] += ancestor is not None
        called = f"{self._remarks.numbers(tag)} {'gone' if ancestor else 'no task'}"
        rows = [text_cell(called, italic=True), *map(badge, self._remarks.uses(uses))]
        drawn = table(rows, border="2", style="dotted", color=color, bgcolor="white")
        return node(f"g{tag}", drawn, self._about_ancestor(ancestor) if ancestor else ())

    def _ghost_color(self, tag: Tag) -> str:
        return hexadecimal(self._remarks.tint(tag)) if self._remarks.is_id(tag) else LINE

    def _ancestor(self, ancestor: Ancestor) -> str:
        self._seen["ancestor"] += 1
        called = path(ancestor.numbers) if ancestor.numbers else "outside"
        made = text_cell(f"{called} gone", italic=True, small=True)
        drawn = table([made], border="1", style="dotted", color=BIRTH, bgcolor="white")
        return node(f"a{ancestor.id}", drawn, self._about_ancestor(ancestor))

    def _about_ancestor(self, ancestor: Ancestor) -> Iterator[str]:
        yield f"{path(ancestor.numbers) or 'outside'}, gone"
        yield from self._born(ancestor.birth)
        yield from [f"{event.event} as event {event.order}" for event in ancestor.events]

    def _ancestor_port(self, id_: int) -> str:
        """Return the node of an ancestor: its own, or that of its pid object."""
        return f"g{self._ghost_of[id_]}" if id_ in self._ghost_of else f"a{id_}"

    def _edges(self) -> Iterator[str]:
        remarks = self._remarks
        lines: dict[str, None] = {}  # each once
        for task in self._in_order():
            port = self._ports.get(task.pid, "")  # a thread without children has none
            if task.ppid and not remarks.is_thread(task):
                lines[_edge(self._ports[task.ppid], _node_of(port))] = None
            if remarks.strange_creator(task) and task.birth and task.birth.creator:
                lines[self._birth(task.birth.creator, port)] = None
        yield from lines
        for ancestor in self._snapshot.ancestors:
            if ancestor.birth.creator:
                # An ancestor gets its place from this edge alone.
                yield self._birth(ancestor.birth.creator, self._ancestor_port(ancestor.id), placed=True)
        for tag, uses in self._ghosts.items():
            style = f'style=dotted, dir=none, constraint=false, color="{self._ghost_color(tag)}"'
            members = dict.fromkeys([self._ports[task.pid] for task in _topmost(uses)])
            yield from [_edge(f"g{tag}", port, style) for port in members]

    def _chains(self) -> Iterator[tuple[int, str]]:
        """Yield, for siblings in one box, the box and the edges that keep their order."""
        columns: defaultdict[tuple[str, int], dict[str, None]] = defaultdict(dict)
        for task in self._in_order():
            if task.ppid and not self._remarks.is_thread(task):
                column = columns[_node_of(self._ports[task.ppid]), self._place(task.pid)]
                column[_node_of(self._ports[task.pid])] = None
        for (_, place), nodes in columns.items():
            if len(nodes) > 1:
                yield place, f"{{rank=same; {' -> '.join(reversed(nodes))} [style=invis]}}\n"

    def _in_order(self) -> Iterator[Task]:
        """Yield the tasks in the order of `ckptree show`: the children of threads before those of their leader."""
        seen: set[int] = set()
        for start in self._snapshot.tasks:
            todo = [start]
            while todo:
                task = todo.pop()
                if task.pid in seen:
                    continue
                seen.add(task.pid)
                yield task
                threads = self._threads.get(task.pid, ())
                todo += reversed([*threads, *self._children.get(task.pid, ())])

    def _birth(self, creator: Creator, born: str, *, placed: bool = False) -> str:
        """Return the edge from a creator; if `placed`, the created one stands to the right of its creator."""
        self._seen["birth edge"] += 1
        maker = self._ancestor_port(creator.ancestor or 0) if creator.tag is None else self._ports[creator.tag]
        return _edge(maker, born, f'style=dashed, constraint={str(placed).lower()}, color="{BIRTH}"')

    def _about(self, task: Task) -> Iterator[str]:
        """Yield all facts of a task, for its tooltip."""
        remarks = self._remarks
        yield f"{remarks.numbers(task.pid)} {name(task)}"
        yield f"parent {remarks.ref(task.ppid)}, group {remarks.ref(task.pgid)}, session {remarks.ref(task.sid)}"
        if task.uid is not None and task.gid is not None:
            yield f"{user(task, None, self._names)}, gid {task.gid}"
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


def _edge(tail: str, head: str, style: str = "") -> str:
    """Return the line of an edge between nodes, each with its port if it has one: n5:t7 is the port t7 of n5."""
    ends = [end.partition(":") for end in (tail, head)]
    ports = [f"{which}port={port}" for which, (_, _, port) in zip(("tail", "head"), ends, strict=True) if port]
    said = ", ".join([*([style] if style else []), *ports])
    return f"{ends[0][0]} -> {ends[1][0]}{f' [{said}]' if said else ''}\n"


def _node_of(port: str) -> str:
    return port.partition(":")[0]


def _topmost(uses: dict[str, list[Task]]) -> list[Task]:
    """Return the tasks that a ghost's line leads to: members whose parent is no member."""
    members = {task.pid: task for tasks in uses.values() for task in tasks}
    return [task for task in members.values() if task.ppid not in members]


def _sign(task: Task, remark: Remark) -> str:
    """Return the key under which the legend counts a remark."""
    return task.state or "" if remark.kind is Subject.STATE else remark.kind
