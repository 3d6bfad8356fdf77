# SPDX-License-Identifier: Apache-2.0
"""A plan in graphviz's language: the makers of the actors, and their parents in the end.

Every actor is a node: tasks are boxes, threads rounded boxes, ghosts dotted, helpers dashed and grey, keepers dashed
and yellow, the reaper a house. The sessions and groups that an actor founds and joins stand below its name. A solid
edge leads from the maker to its child; its label is the order of the births, in which the children stand from top to
bottom. A dashed blue edge leads from the parent in the end to the child, unless the maker is that parent. The legend
explains the shapes, lines and colours that occur.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from agent.model import Snapshot
from agent.restart.planning.plan import NOBODY, Actor, CloneBits, Op, Plan, Role
from agent.restart.planview import PlanView
from exporters.content.fields import escape
from exporters.content.wording import exit_signal, path, plain
from exporters.drawing.labels import FONTS, legend, quoted, text_cell, width

_LARGE = 1000  # actors; from here on the layout takes shortcuts
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
    return "".join(_text(PlanView(plan, snapshot))).encode()


def _text(view: PlanView) -> Iterator[str]:
    plan = view.plan
    yield _HEAD
    if len(plan.actors) > _LARGE:
        yield _SHORTCUTS
    yield f'graph [label="{quoted(view.title())}\\l"]\nsubgraph cluster_plan {{\ngraph [style=invis]\n'
    moves = _moves(view)
    for index, actor in enumerate(plan.actors):
        yield _node(view, index, actor, moves[index])
    births: defaultdict[int, list[int]] = defaultdict(list)
    lines: list[str] = []
    ends: list[str] = []
    for step in plan.steps:
        if step.op is not Op.CLONE:
            continue
        births[step.by].append(step.target)
        signal = exit_signal(plan.actors[step.target].exit_signal)
        label = f"{len(births[step.by])}{_flags(step.value)}{signal and f', {signal}'}"
        lines.append(f'a{step.by} -> a{step.target} [label="{label}"]\n')
        parent = view.parents[step.target]
        if parent not in (NOBODY, step.by) and not step.value & CloneBits.THREAD:
            ends.append(f'a{parent} -> a{step.target} [style=dashed, constraint=false, color="{_FINAL}"]\n')
    for children in births.values():
        if len(children) > 1:
            # Within a box graphviz reads such a chain from bottom to top.
            yield f"{{rank=same; {' -> '.join([f'a{child}' for child in reversed(children)])} [style=invis]}}\n"
    yield "}\n"
    yield from lines
    yield from ends
    yield _legend(view, born=bool(lines), adopted=bool(ends))
    yield "}\n"


def _legend(view: PlanView, *, born: bool, adopted: bool) -> str:
    """Return the legend: the signs that occur."""
    actors = view.plan.actors
    roles = dict.fromkeys([actor.role for index, actor in enumerate(actors) if actor.leader == index])
    signs = [
        (text_cell(name, {"border": "1", **frame}), text)
        for role, (name, frame, text) in _SIGNS.items()
        if role in roles
    ]
    if any(actor.leader != index for index, actor in enumerate(actors)):
        signs.append((text_cell("5 comm", {"border": "1", "style": "rounded"}), "a thread"))
    if born:
        signs.append((text_cell("1 ──▶", ink=_LINE), "makes, as its first, second, ... child"))
    if adopted:
        signs.append((text_cell("- - ▶", ink=_FINAL), "is the parent in the end, where that is not the maker"))
    return legend(signs)


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


def _node(view: PlanView, index: int, actor: Actor, moves: list[str]) -> str:
    name = view.names[index]
    if actor.role is Role.TASK:
        comm = plain(escape(actor.comm))
        name = f"{name} {comm}".rstrip()
    lines = [name, *moves[:_MOVES]]
    if len(moves) > _MOVES:
        lines.append(f"and {len(moves) - _MOVES} more")
    if actor.role is not Role.TASK:
        lines.append(actor.why)
    style = _STYLES[actor.role]
    if actor.leader != index:
        style = "style=rounded, "
    label = "\\l".join([quoted(line) for line in lines if line])
    roof = "house" in style
    wide = max(map(width, lines)) * (_ROOF if roof else 1) + _MARGIN
    under = "\\l" if roof else ""  # an empty line, for the roof cuts the corners off
    return f'a{index} [{style}width={wide / _POINTS_PER_INCH:.2f}, label="{under}{label}\\l"]\n'


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
