# SPDX-License-Identifier: Apache-2.0
"""A plan as the bytes that the helper in C runs: the mirror of program.h.

    program = head | actor * actors | step * steps | u32 dependency * dependencies | s32 number * numbers

The list of steps is sorted by actor: the steps of an actor are `step_count` entries from `first_step` on. A dependency
is an index into that list. A number 0 is filled in later, by the kernel's choice or the helper's. All fields are in
native byte order and naturally aligned; every part starts at the end of the one before.
"""

import signal
import struct
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from agent.restart.planning.plan import Op, Plan, Role
from agent.restart.rebuild.userids import UserIds

MAGIC: Final = 0x45525443  # "CTRE"
VERSION: Final = 3

# (field, struct code), in the order of the header.
PROGRAM_HEAD = (
    *(("magic", "I"), ("version", "I"), ("actors", "I"), ("steps", "I"), ("dependencies", "I"), ("numbers", "I")),
    *(("flags", "I"), ("spare_first", "i"), ("spare_end", "i"), ("stage", "I")),
)
STAGE_HEAD = (("bytes", "Q"), ("address", "Q"), ("size", "Q"), ("reads", "I"), ("maps", "I"))
STAGE_READ = (("address", "Q"), ("size", "Q"), ("offset", "Q"), ("path", "I"), ("flags", "I"))
PROGRAM_ACTOR = (
    *(("first_step", "I"), ("step_count", "I"), ("first_number", "I"), ("depth", "I"), ("leader", "I"), ("flags", "I")),
    *(("exit_signal", "i"), ("tag", "I"), ("comm", "16s"), ("users", "4I"), ("groups", "4I")),
)
PROGRAM_STEP = (
    *(("op", "I"), ("by", "I"), ("target", "I"), ("value", "i"), ("phase", "I"), ("first_dependency", "I")),
    *(("dependency_count", "I"), ("place", "I")),
)

HEAD: Final = struct.Struct("=" + "".join(code for _, code in PROGRAM_HEAD))
ACTOR: Final = struct.Struct("=" + "".join(code for _, code in PROGRAM_ACTOR))
STEP: Final = struct.Struct("=" + "".join(code for _, code in PROGRAM_STEP))

# head.flags
PROGRAM_PIDNS: Final = 1  # actor 0 is the init of a new pid namespace
PROGRAM_ANY_NUMBERS: Final = 2  # the kernel chooses all numbers
PROGRAM_REAPER: Final = 4  # actor 0 is a reaper: it stays, reaps orphans, and ends as the root does
PROGRAM_NO_STDIO: Final = 8  # standard streams become /dev/null
PROGRAM_NEW_SESSION: Final = 16  # actor 0 begins in a session and group whose leader has gone
PROGRAM_KEEP_RIGHTS: Final = 32  # tasks that hold keep the caller's rights
PROGRAM_IPCNS: Final = 64  # the tree is in a new IPC namespace
PROGRAM_KEYRING: Final = 128  # the tree has a session keyring of its own

# actor.flags
ACTOR_THREAD: Final = 1
ACTOR_SPARE: Final = 2  # a helper or keeper: its numbers are spare ones, found while it runs
ACTOR_TASK: Final = 4
ACTOR_ENDS: Final = 8  # it exits within the plan
ACTOR_LINGERS: Final = 16  # and waits within its exit
ACTOR_STOPPED: Final = 32  # by the exit signal of a child
ACTOR_IDS: Final = 64  # it takes ids before it exits

RESERVED_PIDS: Final = 300
NO_ACTOR: Final = 0xFFFFFFFF


_ROOT: Final = UserIds((0, 0, 0, 0), (0, 0, 0, 0))
NO_IDS: Final[Mapping[int, UserIds]] = MappingProxyType({})
"""Every task that exits has the ids of the caller."""


def encode(
    plan: Plan,
    *,
    ids: Mapping[int, UserIds] = NO_IDS,
    any_numbers: bool = False,
    no_stdio: bool = False,
    new_session: bool = False,
    keep_rights: bool = False,
    ipcns: bool = False,
    keyring: bool = False,
    pid_max: int = 32768,
) -> bytes:
    """Encode the program of a plan.

    Args:
        plan: the plan to run.
        ids: of those actors that take other ids than the caller's before they exit.
        any_numbers: let the kernel choose all numbers.
        no_stdio: give the tasks /dev/null for their standard streams.
        new_session: begin the tree in a session and group of its own, with a leader that has gone.
        keep_rights: leave the rights of the caller to tasks that hold.
        ipcns: make an IPC namespace for the tree.
        keyring: give the tree a session keyring of its own.
        pid_max: the bound that numbers of helpers stay below.
    """
    order = _by_actor(plan)
    place = [0] * len(order)
    for at, index in enumerate(order):
        place[index] = at
    first, last = spare_numbers(plan, pid_max)
    flags = (
        (PROGRAM_PIDNS if plan.pidns else 0)
        | (PROGRAM_ANY_NUMBERS if any_numbers else 0)
        | (PROGRAM_REAPER if plan.actors[0].role is Role.REAPER else 0)
        | (PROGRAM_NO_STDIO if no_stdio else 0)
        | (PROGRAM_NEW_SESSION if new_session else 0)
        | (PROGRAM_KEEP_RIGHTS if keep_rights else 0)
        | (PROGRAM_IPCNS if ipcns else 0)
        | (PROGRAM_KEYRING if keyring else 0)
    )
    ends = {step.by for step in plan.steps if step.op is Op.EXIT}
    lingering = plan.lingering()
    stopped = {
        step.by
        for step in plan.steps
        if step.op in (Op.AWAIT, Op.REAP) and plan.actors[step.target].exit_signal == signal.SIGSTOP
    }
    actors: list[bytes] = []
    numbers: list[int] = []
    pack_actor = ACTOR.pack
    counts = [0] * len(plan.actors)
    for step in plan.steps:
        counts[step.by] += 1
    start = 0
    for index, actor in enumerate(plan.actors):
        role, tag, own_numbers, depth, leader, _, exit_signal, comm, _ = actor
        bits = (
            (ACTOR_THREAD if leader != index else 0)
            | (ACTOR_SPARE if not own_numbers else 0)
            | (ACTOR_TASK if role is Role.TASK else 0)
            | (ACTOR_ENDS if index in ends else 0)
            | (ACTOR_LINGERS if index in lingering else 0)
            | (ACTOR_STOPPED if index in stopped else 0)
            | (ACTOR_IDS if index in ids else 0)
        )
        count = counts[index]
        own_ids = ids.get(index, _ROOT)
        actors.append(
            pack_actor(
                start, count, len(numbers), depth, leader, bits, exit_signal, tag, comm, *own_ids.users, *own_ids.groups
            )
        )
        start += count
        known = () if any_numbers else own_numbers
        numbers += known or (0,) * (depth + 1)
    dependencies: list[int] = []
    words: list[int] = []  # of the steps; NOBODY is NO_ACTOR as an unsigned one
    for index in order:
        op, by, target, value, phase, after, _ = plan.steps[index]
        words += (op, by, target, value, phase, len(dependencies), len(after), index)
        if after:
            dependencies += [place[other] for other in after]
    head = HEAD.pack(
        *(MAGIC, VERSION, len(actors), len(order), len(dependencies), len(numbers), flags, first, last, 0),
    )
    tail = struct.pack(f"={len(words)}i{len(dependencies)}I{len(numbers)}i", *words, *dependencies, *numbers)
    return b"".join([head, *actors, tail])


def with_stage(code: bytes, page: int) -> bytes:
    """Return a program with a stage, which begins at a page of the program's file."""
    *fields, _ = HEAD.unpack_from(code)
    return HEAD.pack(*fields, page) + code[HEAD.size :]


def _by_actor(plan: Plan) -> list[int]:
    """Return the indices of the steps, sorted by the actor that makes them, each actor's in order."""
    by = [step.by for step in plan.steps]
    return sorted(range(len(by)), key=by.__getitem__)


def spare_numbers(plan: Plan, pid_max: int) -> tuple[int, int]:
    """Return the widest range of numbers, first and end, that no actor of the plan has at any level."""
    taken = sorted({number for actor in plan.actors for number in actor.numbers if RESERVED_PIDS < number < pid_max})
    return max(_gaps(taken, pid_max), key=lambda gap: gap[1] - gap[0])


def _gaps(taken: list[int], pid_max: int) -> Iterator[tuple[int, int]]:
    first = RESERVED_PIDS + 1
    for number in taken:
        yield first, number
        first = number + 1
    yield first, max(first, pid_max)
