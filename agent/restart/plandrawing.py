# SPDX-License-Identifier: Apache-2.0
"""A plan in graphviz's language: the makers of the actors, and their parents in the end.

Every actor is a node: tasks are boxes, threads rounded boxes, ghosts dotted, helpers dashed and grey, keepers dashed
and yellow, the reaper a house. The sessions and groups that an actor founds and joins stand below its name. A solid
edge leads from the maker to its child; its label is the order of the births, in which the children stand from top to
bottom. A dashed blue edge leads from the parent in the end to the child, unless the maker is that parent. The legend
explains the shapes, lines and colours that occur.

In a large drawing children without children share a node, and like ones a cell of it (exporters.drawing.folding). One
edge leads to the node, so its children are born one after the other, in the same way, and have one parent in the end.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterator
from typing import Final

from agent.model import Snapshot
from agent.record import NamedTuple
from agent.restart.planning.plan import NOBODY, Actor, CloneBits, Op, Plan, Role
from agent.restart.planview import PlanView
from exporters.content.fields import escape
from exporters.content.wording import exit_signal, path, plain
from exporters.drawing import folding
from exporters.drawing.labels import FONTS, cell, legend, node, quoted, table, text_cell, width

_LARGE = 1000  # actors; from here on the layout takes shortcuts
_ROOMY = 40  # actors; in a larger drawing siblings share nodes
_FINAL = "#0057d9"
_LINE = "#555555"
_MOVES = 6  # founded and joined groups and sessions shown in a node
_POINTS_PER_INCH: Final = 72
_MARGIN: Final = 16  # points of a node beside its text
_ROOF: Final = 1.4  # width of a house in relation to that of its text

_HEAD = f"""\
digraph plan {{
graph [rankdir=LR, remincross=false, nodesep=0.1, ranksep=0.45, labelloc=t, labeljust=l, fontname="{FONTS}", fontsize=11]
node [shape=box, fontname="{FONTS}", fontsize=10, margin="0.08,0.04", height=0]
edge [arrowsize=0.5, color="{_LINE}", style=solid, constraint=true, label="", fontname="{FONTS}", fontsize=8]
"""
_SHORTCUTS = "graph [splines=line, nslimit=1, nslimit1=1, mclimit=0.1]\n"
_GREY, _YELLOW = "#eeeeee", "#fff2cc"
_STYLES = {
    Role.TASK: "",
    Role.GHOST: "style=dotted, ",
    Role.HELPER: f'style="dashed,filled", fillcolor="{_GREY}", ',
    Role.KEEPER: f'style="dashed,filled", fillcolor="{_YELLOW}", ',
    Role.REAPER: f'shape=house, style=filled, fillcolor="{_YELLOW}", ',
}
# A cell of the legend has a frame and a colour; that of a house has no roof.
_SIGNS: Final = {
    Role.TASK: ("5 comm", {"style": "solid"}, "a task of the tree"),
    Role.GHOST: ("ghost 3", {"style": "dotted"}, "has the pid of a gone process for its session or group, and exits"),
    Role.HELPER: (
        "helper 1",
        {"style": "dashed", "bgcolor": _GREY},
        "makes tasks that no task of the tree can make, and exits",
    ),
    Role.KEEPER: (
        "keeper 1",
        {"style": "dashed", "bgcolor": _YELLOW},
        "the init of a namespace whose own is not in the tree",
    ),
    Role.REAPER: (
        "reaper",
        {"style": "solid", "bgcolor": _YELLOW},
        "a house: stands above the root, and adopts and reaps",
    ),
}


def dumps(plan: Plan, snapshot: Snapshot) -> bytes:
    """Return the drawing of a plan, in UTF-8; the same plan gives the same bytes."""
    return "".join(_PlanDrawing(PlanView(plan, snapshot)).text()).encode()


class _Birth(NamedTuple):
    """A birth, as its edges show it.

    Attributes:
        maker: the actor that calls clone().
        child: the actor that is born.
        turn: place among the births of its maker, from 1.
        how: the flags and the exit signal.
        parent: the parent in the end, where that is another one than the maker; NOBODY otherwise.
    """

    maker: int
    child: int
    turn: int
    how: str
    parent: int


class _PlanDrawing:
    """The parts of one drawing, and lookups for them."""

    def __init__(self, view: PlanView) -> None:
        self._view = view
        self._actors = view.plan.actors
        self._moves = _moves(view)
        self._births: list[_Birth] = []
        self._siblings: defaultdict[int, list[_Birth]] = defaultdict(list)
        for step in view.plan.steps:
            if step.op is Op.CLONE:
                siblings = self._siblings[step.by]
                signal = exit_signal(self._actors[step.target].exit_signal)
                how = f"{_flags(step.value)}{signal and f', {signal}'}"
                parent = view.parents[step.target]
                other = parent not in (NOBODY, step.by) and not step.value & CloneBits.THREAD
                birth = _Birth(step.by, step.target, len(siblings) + 1, how, parent if other else NOBODY)
                siblings.append(birth)
                self._births.append(birth)
        self._alone = {each.parent for each in self._births} | self._siblings.keys()
        self._nodes = {index: f"a{index}" for index in range(len(self._actors))}
        self._blocks = dict(self._folded()) if len(self._actors) > _ROOMY else {}

    def text(self) -> Iterator[str]:
        """Yield the whole text."""
        yield _HEAD
        if len(self._actors) > _LARGE:
            yield _SHORTCUTS
        yield f'graph [label="{quoted(self._view.title())}\\l"]\nsubgraph cluster_plan {{\ngraph [style=invis]\n'
        for index, name in self._nodes.items():
            if name == f"a{index}":
                yield self._node(index)
            elif name == f"k{index}":
                yield self._block(name, self._blocks[name])
        for siblings in self._siblings.values():
            column = list(dict.fromkeys([self._nodes[each.child] for each in siblings]))
            if len(column) > 1:
                # Within a box graphviz reads such a chain from bottom to top.
                yield f"{{rank=same; {' -> '.join(reversed(column))} [style=invis]}}\n"
        yield "}\n"
        lines, ends = self._edges()
        yield from lines
        yield from ends
        yield self._legend(born=bool(lines), adopted=bool(ends))
        yield "}\n"

    def _folded(self) -> Iterator[tuple[str, folding.Block[_Birth]]]:
        """Yield the nodes of several actors, by their names, and note them as the nodes of their actors."""
        for siblings in self._siblings.values():
            for block in folding.blocks(siblings, self._place, self._kind):
                name = f"k{block[0][0].child}"
                self._nodes |= {each.child: name for like in block for each in like}
                yield name, block

    def _place(self, birth: _Birth) -> Hashable | None:
        """Return the edges of an actor that may share a node with its neighbours; None for another one."""
        return None if birth.child in self._alone else (birth.how, birth.parent)

    def _kind(self, birth: _Birth) -> Hashable:
        """Return all that a drawing shows of an actor but its number."""
        actor = self._actors[birth.child]
        return actor.role, actor.comm, actor.leader == birth.child, actor.why, tuple(self._moves[birth.child])

    def _edges(self) -> tuple[list[str], list[str]]:
        """Return the edges from makers, and those from parents in the end, in the order of the births."""
        lines, ends = [], []
        last = {self._nodes[each.child]: each.turn for each in self._births}
        for birth in self._births:
            name = self._nodes[birth.child]
            if name not in last:
                continue  # drawn with the first of its node
            turns = str(birth.turn) if last[name] == birth.turn else f"{birth.turn}–{last[name]}"
            del last[name]
            lines.append(f'{self._nodes[birth.maker]} -> {name} [label="{turns}{birth.how}"]\n')
            if birth.parent != NOBODY:
                drawn = f'style=dashed, constraint=false, color="{_FINAL}"'
                ends.append(f"{self._nodes[birth.parent]} -> {name} [{drawn}]\n")
        return lines, ends

    def _legend(self, *, born: bool, adopted: bool) -> str:
        """Return the legend: the signs that occur."""
        actors = self._actors
        roles = dict.fromkeys([actor.role for index, actor in enumerate(actors) if actor.leader == index])
        signs = [
            (text_cell(name, {"border": "1", **frame}), text)
            for role, (name, frame, text) in _SIGNS.items()
            if role in roles
        ]
        if any(actor.leader != index for index, actor in enumerate(actors)):
            signs.append((text_cell("5 comm", {"border": "1", "style": "rounded"}), "a thread"))
        if any(len(like) > 1 for block in self._blocks.values() for like in block):
            signs.append((text_cell("9 × comm", {"border": "1"}), "siblings that differ in nothing but their numbers"))
        if born:
            signs.append((text_cell("1 ──▶", ink=_LINE), "makes, as its first, second, ... child"))
        if adopted:
            signs.append((text_cell("- - ▶", ink=_FINAL), "is the parent in the end, where that is not the maker"))
        return legend(signs)

    def _called(self, index: int) -> str:
        """Return the name of an actor, and the comm of a task."""
        actor = self._actors[index]
        return f"{self._view.names[index]} {_comm(actor)}".rstrip()

    def _about(self, index: int) -> list[str]:
        """Return the lines below the name of an actor: the sessions and groups, and the reason of one that is no task."""
        moves, actor = self._moves[index], self._actors[index]
        lines = moves[:_MOVES]
        if len(moves) > _MOVES:
            lines.append(f"and {len(moves) - _MOVES} more")
        if actor.role is not Role.TASK and actor.why:
            lines.append(actor.why)
        return lines

    def _node(self, index: int) -> str:
        actor = self._actors[index]
        lines = [self._called(index), *self._about(index)]
        style = "style=rounded, " if actor.leader != index else _STYLES[actor.role]
        label = "\\l".join([quoted(line) for line in lines if line])
        roof = "house" in style
        wide = max(map(width, lines)) * (_ROOF if roof else 1) + _MARGIN
        under = "\\l" if roof else ""  # an empty line, for the roof cuts the corners off
        return f'a{index} [{style}width={wide / _POINTS_PER_INCH:.2f}, label="{under}{label}\\l"]\n'

    def _block(self, name: str, block: folding.Block[_Birth]) -> str:
        """Return the node of siblings."""
        cells = [cell(self._cell([each.child for each in like]), cellpadding="0") for like in block]
        label = table(folding.columns(cells), border="1", color="#bbbbbb", cellspacing="2")
        return node(name, label, [self._called(each.child) for like in block for each in like])

    def _cell(self, like: list[int]) -> str:
        """Return the cell of an actor, or of like ones."""
        first = like[0]
        actor = self._actors[first]
        if len(like) == 1:
            rows = [text_cell(self._called(first))]
        else:
            word = _comm(actor) if actor.role is Role.TASK else actor.role.value
            names = [self._view.names[index].removeprefix(f"{actor.role} ") for index in (*like[:2], like[-1])]
            rows = [text_cell(f"{len(like)} × {word}"), text_cell(f"{names[0]}, {names[1]}, … {names[2]}", small=True)]
        frame = {"style": "rounded"} if actor.leader != first else _SIGNS[actor.role][1]
        lines = [text_cell(line, small=True) for line in self._about(first)]
        return table([*rows, *lines], border="1", color="black", **frame)


def _comm(actor: Actor) -> str:
    return plain(escape(actor.comm)) if actor.role is Role.TASK else ""


def _moves(view: PlanView) -> list[list[str]]:
    """Return, for each actor, the sessions and groups that it founds, joins and is put into."""
    moves: list[list[str]] = [[] for _ in view.plan.actors]
    for step in view.plan.steps:
        if step.op is Op.SETSID:
            moves[step.by].append("founds its session")
        elif step.op is Op.SETPGID and step.value == step.target:
            moves[step.target].append("founds its group")
        elif step.op is Op.SETPGID:
            by = "" if step.by == step.target else f", by {view.names[step.by]}"
            moves[step.target].append(f"joins group {path(view.plan.actors[step.value].numbers)}{by}")
        elif step.op is Op.SUBREAPER:
            moves[step.by].append("becomes subreaper" if step.value else "ceases to be subreaper")
    return moves


def _flags(bits: int) -> str:
    names = [
        text
        for bit, text in (
            *((CloneBits.THREAD, "thread"), (CloneBits.PARENT, "sibling")),
            *((CloneBits.NEWPID, "namespace"), (CloneBits.FIRST, "init")),
        )
        if bits & bit
    ]
    return f" {' '.join(names)}" if names else ""
