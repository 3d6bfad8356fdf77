# SPDX-License-Identifier: Apache-2.0
"""A plan in graphviz's language: the makers of the actors, and their parents in the end.

Every actor is a node: tasks are boxes, threads rounded boxes, ghosts dotted, helpers dashed and grey, keepers dashed
and yellow, the reaper a house. The sessions and groups that an actor founds and joins stand below its name. A solid
edge leads from the maker to its child; its label is the order of the births. A dashed blue edge leads from the parent
in the end to the child, unless the maker is that parent.
"""

from collections.abc import Iterator
from html import escape as escape_html

from agent.model import Snapshot
from agent.restart.planning.plan import NOBODY, Actor, CloneBits, Op, Plan, Role
from agent.restart.planview import PlanView
from exporters.content.fields import escape
from exporters.content.wording import exit_signal, path, plain

_LARGE = 1000  # actors; from here on the layout takes shortcuts
_FINAL = "#0057d9"
_MOVES = 6  # founded and joined groups and sessions shown in a node

_HEAD = """\
digraph plan {
graph [rankdir=LR, nodesep=0.1, ranksep=0.45, labelloc=t, labeljust=l, fontname="Helvetica", fontsize=11]
node [shape=box, fontname="Helvetica", fontsize=10, margin="0.08,0.04", height=0]
edge [arrowsize=0.5, color="#555555", fontname="Helvetica", fontsize=8]
"""
_SHORTCUTS = "graph [splines=line, nslimit=1, nslimit1=1, mclimit=0.1]\n"
_STYLES = {
    Role.TASK: "",
    Role.GHOST: "style=dotted, ",
    Role.HELPER: 'style="dashed,filled", fillcolor="#eeeeee", ',
    Role.KEEPER: 'style="dashed,filled", fillcolor="#fff2cc", ',
    Role.REAPER: 'shape=house, style=filled, fillcolor="#fff2cc", ',
}


def dumps(plan: Plan, snapshot: Snapshot) -> bytes:
    """Return the drawing of a plan, in UTF-8; the same plan gives the same bytes."""
    return "".join(_text(PlanView(plan, snapshot))).encode()


def _text(view: PlanView) -> Iterator[str]:
    plan = view.plan
    yield _HEAD
    if len(plan.actors) > _LARGE:
        yield _SHORTCUTS
    legend = "solid: bears · dashed blue: parent in the end"
    yield f'graph [label="{_quoted(view.title())}\\l{legend}\\l"]\n'
    moves = _moves(view)
    for index, actor in enumerate(plan.actors):
        yield _node(view, index, actor, moves[index])
    births: dict[int, int] = {}
    for step in plan.steps:
        if step.op is not Op.CLONE:
            continue
        births[step.by] = births.get(step.by, 0) + 1
        signal = exit_signal(plan.actors[step.target].exit_signal)
        label = f"{births[step.by]}{_flags(step.value)}{signal and f', {signal}'}"
        yield f'a{step.by} -> a{step.target} [label="{label}"]\n'
        parent = view.parents[step.target]
        if parent not in (NOBODY, step.by) and not step.value & CloneBits.THREAD:
            yield f'a{parent} -> a{step.target} [style=dashed, constraint=false, color="{_FINAL}"]\n'
    yield "}\n"


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
    label = "\\l".join([_quoted(line) for line in lines if line])
    return f'a{index} [{style}label="{label}\\l"]\n'


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


def _quoted(text: str) -> str:
    """Return text for a quoted string, in which graphviz resolves HTML references and escapes."""
    return escape_html(text).replace("\\", "\\\\")
