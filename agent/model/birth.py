# SPDX-License-Identifier: Apache-2.0
"""Births of tasks, and the ancestors through which they run."""

from typing import Literal

from agent.model.pids import PidRef, Tag
from agent.record import NamedTuple


class Creator(NamedTuple):
    """The thread that called clone(): exactly one of the two attributes is set.

    Attributes:
        tag: tag of the creating thread's pid object, where that thread is a task of the snapshot.
        ancestor: index into ``Snapshot.ancestors`` otherwise.
    """

    tag: Tag | None
    ancestor: int | None


class Birth(NamedTuple):
    """The clone() call that made a task.

    Attributes:
        creator: the thread that called clone(); None: not observed (assumed), or outside the tree (the root's).
        observed: False where the birth happened before the watch began, or was lost.
        sid: session at birth; None where not observed.
        pgid: process group at birth; None where not observed.
        flags: names of the clone flags that shape the tree, sorted: CLONE_NEWPID, CLONE_PARENT, CLONE_THREAD,
            CLONE_VFORK.
        order: number of the birth event. Larger is later. None where not observed.
    """

    creator: Creator | None
    observed: bool
    sid: PidRef | None
    pgid: PidRef | None
    flags: tuple[str, ...]
    order: int | None


class AncestorEvent(NamedTuple):
    """A system call of an ancestor that shapes its children's births.

    Attributes:
        event: ``setsid``, ``setpgid``, ``subreaper`` or ``exit``.
        order: number of the event.
        value: the new session or group; for ``subreaper`` 1 or 0; None for ``exit``.
    """

    event: Literal["setsid", "setpgid", "subreaper", "exit"]
    order: int
    value: PidRef | int | None


class Ancestor(NamedTuple):
    """A task that is gone, kept because a living task's birth runs through it.

    Attributes:
        id: its index in ``Snapshot.ancestors``.
        numbers, namespaces: its pid object, as in OutsidePid.
        birth: its own birth.
        events: in order; of each kind the last one that mattered.
    """

    id: int
    numbers: tuple[int, ...]
    namespaces: tuple[int, ...]
    birth: Birth
    events: tuple[AncestorEvent, ...]
