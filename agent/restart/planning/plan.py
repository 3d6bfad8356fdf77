# SPDX-License-Identifier: Apache-2.0
"""A plan: who is made, and every system call that makes the tree, in one order that is known to work.

Theory
------
*Actors* are the threads that a rebuild brings forth: the tasks of the image; *ghosts*, which hold the number of
somebody who is dead while a session or group still has it; *helpers*, which come and go because a task must be born
where no task of the image can bear it; and where the root is no namespace's init, a *reaper* above it, in place of all
that was above it once. Actor 0 stands at the top: the reaper, else the root. Beside the root, as children of the
reaper, are the *keepers*: each is the init of a namespace that tasks or ghosts are in, while its init was none of the
tree.

*Steps* are system calls. Each is made by one actor, `by`, and an actor makes its own in the order in which they stand.
The whole list is one order that a kernel accepts; `simulate` runs it on a model of the kernel's rules. A rebuild runs
the steps of different actors side by side, and keeps to the order only where two steps have to do with one another: a
step waits for those in `after`.

*Phases* follow one another, and one begins when all steps of the one before are done:

    build     everybody is born, is in the right session and group, and has the right parent; helpers have gone
    activate  in tree order: each task has its turn, and zombies and dead leaders exit in theirs
    leave     ghosts exit and are reaped; then the inits exit that wait within their exit for others of their namespace
    stop      what was stopped stops
"""

from enum import IntEnum, StrEnum
from typing import NamedTuple

NOBODY = -1
"""In place of an actor: there is none."""


class Role(StrEnum):
    """What an actor is there for."""

    TASK = "task"
    GHOST = "ghost"
    HELPER = "helper"
    REAPER = "reaper"
    KEEPER = "keeper"


class Op(IntEnum):
    """What a step does. The numbers are those of enum op in rebuild.h."""

    CLONE = 1  # clone3(): `target` is born; value: CloneBits
    SETSID = 2  # setsid()
    SETPGID = 3  # setpgid(target, number of actor `value`)
    SUBREAPER = 4  # prctl(PR_SET_CHILD_SUBREAPER, value)
    ENTER = 5  # setns(): the next child is born into the namespace whose init is `target`; `target` == `by`: its own
    UNSHARE = 6  # unshare(CLONE_NEWPID): the next child will be init of a namespace that there is not yet
    EXIT = 7  # exit(), or kill() of itself, so that the wait status is `value`
    REAP = 8  # wait for `target`, which exits
    AWAIT = 9  # the same, and it stays a zombie
    ACTIVATE = 10  # its turn in tree order
    STOP = 11  # the group stops
    LINGER = 12  # wait until `target` is within its exit, where it stays while numbers of its namespace are in use


class CloneBits(IntEnum):
    """Bits of a CLONE step's value."""

    THREAD = 1
    PARENT = 2
    NEWPID = 4
    FIRST = 8  # the init of the namespace that its maker has unshared


class Phase(IntEnum):
    """See the module's theory."""

    BUILD = 0
    ACTIVATE = 1
    LEAVE = 2
    STOP = 3


class Actor(NamedTuple):
    """One thread of the rebuild.

    Attributes:
        role: see Role.
        tag: of its pid object in the image; 0 for helpers, and for a reaper that stands for nothing.
        numbers: from the root's namespace inward; empty where any will do. A reaper in a new namespace has number 1,
            and so has a keeper in its innermost one.
        depth: levels below the root's namespace.
        leader: the actor that leads its thread group; itself for a process.
        status: raw wait status with which it ends, for zombies and dead leaders; else None.
        exit_signal: sent to its parent at exit.
        comm: at most 15 bytes.
        why: for people, in a few words, for those that are no tasks; empty for tasks.
    """

    role: Role
    tag: int
    numbers: tuple[int, ...]
    depth: int
    leader: int
    status: int | None
    exit_signal: int
    comm: bytes
    why: str


class Step(NamedTuple):
    """One system call.

    Attributes:
        op: which.
        by: the actor that makes it.
        target: the actor it is about; NOBODY where it is about `by` alone.
        value: see Op.
        phase: see Phase.
        after: indices of the earlier steps, of other actors, that it has to wait for.
        why: for people; empty where the step explains itself.
    """

    op: Op
    by: int
    target: int = NOBODY
    value: int = 0
    phase: Phase = Phase.BUILD
    after: tuple[int, ...] = ()
    why: str = ""


class Plan(NamedTuple):
    """How to make a tree.

    Attributes:
        actors: by index.
        steps: in an order that works.
        pidns: the tree gets a pid namespace of its own; False: it is built in that of the caller.
        tasks: actors of the image's tasks, in the image's order.
        notes: for people: what the rebuilt tree will not have of the original.
    """

    actors: tuple[Actor, ...]
    steps: tuple[Step, ...]
    pidns: bool
    tasks: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def parents(self) -> list[int]:
        """For each actor the one that calls clone() for it; NOBODY for actor 0."""
        parents = [NOBODY] * len(self.actors)
        for step in self.steps:
            if step.op is Op.CLONE:
                parents[step.target] = step.by
        return parents

    def lingering(self) -> set[int]:
        """The actors that wait within their exit in the end."""
        return {step.target for step in self.steps if step.op is Op.LINGER}
