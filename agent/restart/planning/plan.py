# SPDX-License-Identifier: Apache-2.0
"""A plan: the threads that a rebuild makes, and every system call that makes them, in an order that works.

Theory
------
*Actors* are the threads that a rebuild makes. Tasks are those of the image. An actor stands in for each *ghost* of the
image, a pid object without a task: it holds the number of a process that is gone while its session or group has
members. A *helper* comes and goes, because a task must be born where no
task of the image can bear it. A *reaper* stands above a root that is no namespace's init, in place of all tasks that
were above it once. Actor 0 stands at the top: the reaper, else the root. The *keepers* are children of the reaper
beside the root: each is the init of a namespace that tasks or ghosts are in, and whose own init was no task of the
tree.

*Steps* are system calls. One actor, `by`, makes each step, and an actor makes its own steps in their order. The kernel
accepts the whole list in its order; agent.restart.planning.simulate runs it on a model of the kernel's rules. A rebuild
runs the steps of different actors side by side, and keeps to the order only where two steps touch the same thing: a
step waits for those in `after`.

*Phases* follow one another. A phase begins when all steps of the one before are done:

    build     all are born, are in their sessions and groups, and have their parents; helpers have gone
    activate  in tree order: each task has its turn, and zombies and dead leaders exit in theirs
    leave     ghosts exit and are reaped; then the inits exit that wait within their exit for others of their namespace
    stop      the tasks that were stopped stop
"""

from enum import IntEnum, StrEnum
from typing import NamedTuple

from agent.model import Tag, WaitStatus

NOBODY = -1
"""In place of an actor: there is none."""

NO_TAG = Tag(0)
"""The tag of an actor that has no pid object in the image."""


class Role(StrEnum):
    """The purpose of an actor; see the module's theory."""

    TASK = "task"
    GHOST = "ghost"
    HELPER = "helper"
    REAPER = "reaper"
    KEEPER = "keeper"


class Op(IntEnum):
    """The system call of a step. The numbers are those of enum op in program.h."""

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
    FILES = 16  # it shares its maker's table of descriptors; in a restart with contents alone


class Phase(IntEnum):
    """The phases of a rebuild; see the module's theory."""

    BUILD = 0
    ACTIVATE = 1
    LEAVE = 2
    STOP = 3


class Actor(NamedTuple):
    """One thread of the rebuild.

    Attributes:
        role: see Role.
        tag: of its pid object in the image; 0 for helpers, and for a reaper that has none.
        numbers: from the root's namespace inward; empty: any. A reaper in a new namespace has number 1, and so has a
            keeper in its innermost one.
        depth: levels below the root's namespace.
        leader: the actor that leads its thread group; itself for a process.
        status: raw wait status with which it ends, for zombies and dead leaders; else None.
        exit_signal: the signal that its parent gets at its exit.
        comm: at most 15 bytes.
        why: the reason for an actor that is no task, as text for the user; empty for tasks.
    """

    role: Role
    tag: Tag
    numbers: tuple[int, ...]
    depth: int
    leader: int
    status: WaitStatus | None
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
        why: the reason, as text for the user; empty where the step explains itself.
    """

    op: Op
    by: int
    target: int = NOBODY
    value: int = 0
    phase: Phase = Phase.BUILD
    after: tuple[int, ...] = ()
    why: str = ""


class Plan(NamedTuple):
    """A proven way to make a tree.

    Attributes:
        actors: by index.
        steps: in an order that works.
        pidns: the tree gets a pid namespace of its own; False: it is built in that of the caller.
        tasks: actors of the image's tasks, in the image's order.
        notes: differences of the rebuilt tree from the original, as text for the user.
    """

    actors: tuple[Actor, ...]
    steps: tuple[Step, ...]
    pidns: bool
    tasks: tuple[int, ...]
    notes: tuple[str, ...] = ()

    def parents(self) -> list[int]:
        """Return, for each actor, the one that calls clone() for it; NOBODY for actor 0."""
        parents = [NOBODY] * len(self.actors)
        for step in self.steps:
            if step.op is Op.CLONE:
                parents[step.target] = step.by
        return parents

    def lingering(self) -> set[int]:
        """Return the actors that wait within their exit in the end."""
        return {step.target for step in self.steps if step.op is Op.LINGER}
