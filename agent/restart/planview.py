# SPDX-License-Identifier: Apache-2.0
"""A plan in words: the actors and their reasons, then every step in its order, phase by phase.

    plan for subtree of 4711, in a pid namespace of its own: 6 tasks, 1 ghost, 1 reaper; 21 steps

    ghost 4690: its group has members
    reaper 1: init of the new pid namespace

    build, 12 steps
       0 reaper 1 forks 4711
       1 4711 founds group 4711
       2 4711 puts 4712 into group 4711, after 0: it cannot see that group's number itself

The name of a task is its numbers, from the root's namespace inward, as everywhere. The name of another actor begins
with its role; helpers and keepers without numbers are counted. A birth shows the exit signal unless that is SIGCHLD. A
step shows the indices of the steps of other actors that it waits for. A phase begins when the one before is done.

The document
------------
`to_document` returns the same as data for programs: ::

    {"format": "ckptree-plan", "version": 1, "pidns": the tree gets a pid namespace of its own,
     "actors": [{"id", "role": "task|ghost|helper|reaper|keeper", "tag": TAG|null, "name",
                 "numbers": [outermost..innermost], "depth", "leader": ID, "maker": ID|null, "parent": ID|null,
                 "status": raw wait status|null, "exit_signal", "comm", "why"}],
     "steps": [{"id", "phase", "op", "by": ID, "target": ID|null, "value": INT, "after": [step ids], "text", "why"}],
     "tasks": [actor of each task of the image], "notes": [text]}

`maker` calls clone() for an actor. `parent` is its parent in the end; null for the top, and for an actor that is gone
then. `value` depends on the step. For a clone it is the sum of 1 for a thread, 2 for a sibling, 4 for a new pid
namespace, 8 for the init of the namespace that its maker has unshared, 16 for the maker's table of descriptors. For a
setpgid it is the actor that owns the group, for a subreaper 1 or 0, for an exit the wait status.

`refusal` returns the document of a tree that has no plan, with the reasons as an image has them: ::

    {"format": "ckptree-plan", "version": 1, "pidns": as above,
     "not_rebuildable": [{"tag": TAG, or 0 for the tree as a whole, "rule", "text", "proven": no kernel can do it}]}

`refusal_of_contents` returns that of a tree whose contents a restart would refuse, with "contents" in the place of
"not_rebuildable": a document of agent.restart.contents.refusals for each object.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent.errors import NotRebuildableError
from agent.model import Snapshot
from agent.restart.contents.refusals import ContentRefusal
from agent.restart.planning.plan import NOBODY, Actor, CloneBits, Op, Plan, Role, Step
from exporters.content.fields import escape
from exporters.content.wording import count, ended, exit_signal, path, plain

FORMAT = "ckptree-plan"
VERSION = 1


class PlanView:
    """The names of a plan's actors, and its steps as sentences.

    Args:
        plan: the plan to show.
        snapshot: the snapshot that the plan builds.

    Attributes:
        names: of the actors.
        makers: for each actor the one that calls clone() for it; NOBODY for the top.
        parents: for each actor its parent in the end; NOBODY for the top, and for an actor that is gone then.
    """

    def __init__(self, plan: Plan, snapshot: Snapshot) -> None:
        self.plan = plan
        self.snapshot = snapshot
        self.makers = plan.parents()
        unnumbered: Counter[Role] = Counter()
        self.names: list[str] = []
        for actor in plan.actors:
            unnumbered[actor.role] += not actor.numbers
            self.names.append(_name(actor, unnumbered[actor.role]))
        self.parents = self._final_parents()

    def _final_parents(self) -> list[int]:
        parents = [NOBODY] * len(self.plan.actors)
        by_tag = {task.pid: actor for task, actor in zip(self.snapshot.tasks, self.plan.tasks, strict=True)}
        for task, actor in zip(self.snapshot.tasks, self.plan.tasks, strict=True):
            parents[actor] = by_tag.get(task.ppid, 0 if actor else NOBODY)  # the parent of the root is the top
        for index, each in enumerate(self.plan.actors):
            if each.role is Role.KEEPER:
                parents[index] = 0
        return parents

    # ---- words -----------------------------------------------------------------------------------------------------

    def lines(self) -> Iterator[str]:
        """Yield the whole plan, line by line."""
        plan = self.plan
        yield self.title()
        extras = [n for n, actor in enumerate(plan.actors) if actor.role is not Role.TASK]
        said = [f"{self.names[n]}: {self.reason(n)}" for n in extras]
        if signal := exit_signal(plan.actors[0].exit_signal):
            said.insert(0, f"{self.names[0]}: born with {signal}")
        if said:
            yield ""
        yield from said
        if plan.notes:
            yield ""
        yield from [f"note: {plain(note)}" for note in plan.notes]
        digits = len(str(len(plan.steps)))
        sizes = Counter(step.phase for step in plan.steps)
        phase = None
        for index, step in enumerate(plan.steps):
            if step.phase is not phase:
                phase = step.phase
                yield ""
                yield f"{phase.name.lower()}, {count(sizes[phase], 'step')}"
            yield f"  {index:>{digits}} {self.sentence(step)}{self._after(step)}{_because(step.why)}"

    def title(self) -> str:
        """Return the first line: the tree, its place, and the counts of actors and steps."""
        plan = self.plan
        roles = Counter(actor.role for actor in plan.actors)
        who = ", ".join([count(roles[role], role.value) for role in Role if roles[role]])
        where = "a pid namespace of its own" if plan.pidns else "the caller's pid namespace"
        root = path(self.snapshot.pids[0].numbers)
        return f"plan for {self.snapshot.mode} of {root}, in {where}: {who}; {count(len(plan.steps), 'step')}"

    def reason(self, actor: int) -> str:
        """Return the reason for an actor that is no task, and its maker."""
        found = self.plan.actors[actor]
        maker = self.makers[actor]
        by = "" if maker == NOBODY else f", born of {self.names[maker]}"
        return f"{found.why or 'stands above the root'}{by}"

    def sentence(self, step: Step) -> str:
        """Return a step as a sentence."""
        by = self.names[step.by]
        own = path(self.plan.actors[step.by].numbers)
        target = self.names[step.target] if step.target != NOBODY else ""
        match step.op:
            case Op.CLONE:
                signal = exit_signal(self.plan.actors[step.target].exit_signal)
                return f"{by} {_birth(step.value, target)}{signal and f' with {signal}'}"
            case Op.SETSID:
                return f"{by} founds session {own} with setsid()"
            case Op.SETPGID:
                return f"{by} {self._joining(step, target)}"
            case Op.SUBREAPER:
                return f"{by} becomes subreaper" if step.value else f"{by} ceases to be subreaper"
            case Op.ENTER if step.target == step.by:
                return f"{by} returns to its own pid namespace for its children"
            case Op.ENTER:
                return f"{by} enters the pid namespace of {target} for its children"
            case Op.UNSHARE:
                return f"{by} unshares the pid namespace of its children"
            case Op.EXIT if self.plan.actors[step.by].role is Role.TASK:
                return f"{by} exits: {ended(step.value)}"
            case Op.EXIT:
                return f"{by} exits"
            case Op.REAP:
                return f"{by} reaps {target}"
            case Op.AWAIT:
                return f"{by} waits for the end of {target}, which stays a zombie"
            case Op.LINGER:
                return f"{by} waits for {target} to be within its exit, where numbers of its namespace keep it"
            case Op.ACTIVATE:
                return f"{by} has its turn"
            case Op.STOP:
                return f"{by} stops"

    def _joining(self, step: Step, target: str) -> str:
        group = path(self.plan.actors[step.value].numbers)
        if step.target == step.by:
            return f"founds group {group}" if step.value == step.by else f"joins group {group}"
        return f"lets {target} found its group" if step.value == step.target else f"puts {target} into group {group}"

    def _after(self, step: Step) -> str:
        return f", after {' '.join(map(str, step.after))}" if step.after else ""

    # ---- the document ----------------------------------------------------------------------------------------------

    def to_document(self) -> dict[str, Any]:
        """Return the plan as data for JSON; see the module."""
        plan = self.plan
        return {
            "format": FORMAT,
            "version": VERSION,
            "pidns": plan.pidns,
            "actors": [self._actor(n, actor) for n, actor in enumerate(plan.actors)],
            "steps": [self._step(n, step) for n, step in enumerate(plan.steps)],
            "tasks": list(plan.tasks),
            "notes": list(plan.notes),
        }

    def _actor(self, index: int, actor: Actor) -> Mapping[str, object]:
        return {
            "id": index,
            "role": actor.role.value,
            "tag": actor.tag or None,
            "name": self.names[index],
            "numbers": list(actor.numbers),
            "depth": actor.depth,
            "leader": actor.leader,
            "maker": _id(self.makers[index]),
            "parent": _id(self.parents[index]),
            "status": actor.status,
            "exit_signal": actor.exit_signal,
            "comm": escape(actor.comm),
            "why": actor.why,
        }

    def _step(self, index: int, step: Step) -> Mapping[str, object]:
        return {
            "id": index,
            "phase": step.phase.name.lower(),
            "op": step.op.name.lower(),
            "by": step.by,
            "target": _id(step.target),
            "value": int(step.value),
            "after": list(step.after),
            "text": self.sentence(step),
            "why": step.why,
        }


def render(plan: Plan, snapshot: Snapshot) -> str:
    """Return the plan as lines of text, without a newline after the last one."""
    return "\n".join(PlanView(plan, snapshot).lines())


def refusal(error: NotRebuildableError, *, pidns: bool) -> dict[str, Any]:
    """Return, as data for programs, the reason why there is no plan."""
    reason = {"tag": error.tag, "rule": error.rule, "text": error.text, "proven": error.proven}
    return {"format": FORMAT, "version": VERSION, "pidns": pidns, "not_rebuildable": [reason]}


def refusal_of_contents(refused: Sequence[ContentRefusal], *, pidns: bool) -> dict[str, Any]:
    """Return, as data for programs, the objects of the contents for which a restart would refuse the tree."""
    return {"format": FORMAT, "version": VERSION, "pidns": pidns, "contents": [each.document for each in refused]}


def to_document(plan: Plan, snapshot: Snapshot) -> dict[str, Any]:
    """Return the plan as data for JSON; see the module."""
    return PlanView(plan, snapshot).to_document()


def _id(actor: int) -> int | None:
    return None if actor == NOBODY else actor


def _name(actor: Actor, count_of_role: int) -> str:
    if actor.role in (Role.HELPER, Role.KEEPER) and not actor.numbers:
        return f"{actor.role} {count_of_role}"
    numbers = path(actor.numbers)
    return numbers if actor.role is Role.TASK else f"{actor.role} {numbers}".rstrip()


def _birth(bits: int, child: str) -> str:
    if bits & CloneBits.THREAD:
        return f"makes thread {child}"
    into = ""
    if bits & (CloneBits.NEWPID | CloneBits.FIRST):
        into = f" into {'a' if bits & CloneBits.NEWPID else 'its'} new pid namespace"
    table = " with its table of descriptors" if bits & CloneBits.FILES else ""
    return f"forks {child}{into}{' as its sibling' if bits & CloneBits.PARENT else ''}{table}"


def _because(why: str) -> str:
    return f": {why}" if why else ""
