# SPDX-License-Identifier: Apache-2.0
"""Pid objects and namespaces, and references to them."""

from typing import NewType

from agent.record import NamedTuple

Tag = NewType("Tag", int)
"""The number by which an image refers to a pid object, or one of the special values; it is not a pid."""

OUTSIDE = Tag(0)
"""In place of a tag: the id has no number in the root's namespace; as a parent: the root's."""

CKPT_PID_ROOT = Tag(-4097)
CKPT_PID_NULL = Tag(-4096)


class Namespace(NamedTuple):
    """A pid namespace as the snapshot knows it.

    Attributes:
        id: its place in ``Snapshot.namespaces``; 0 is the root task's.
        inum: the inode number of /proc/PID/ns/pid. It is no identity: the kernel gives it to the next namespace at
            once.
        level: depth below the root's namespace, which has 0.
        parent: the id of the namespace above; None for the root's.
    """

    id: int
    inum: int
    level: int
    parent: int | None


class PidObject(NamedTuple):
    """One ``struct pid``, from the root's namespace inward.

    Attributes:
        numbers: one for each level, outermost first.
        namespaces: the ids of the namespaces that the numbers belong to, in the same order. May be empty where a bare
            image names none.
    """

    numbers: tuple[int, ...]
    namespaces: tuple[int, ...]


class OutsidePid(NamedTuple):
    """A pid object without a tag: only a birth, an ancestor, a terminal or an owner of a file mentions it.

    Attributes:
        numbers: as in PidObject; empty where the root's namespace does not see it.
        namespaces: as in PidObject. A namespace that died has no id: -1.
    """

    numbers: tuple[int, ...]
    namespaces: tuple[int, ...]


PidRef = Tag | OutsidePid
"""A tag (or 0, or CKPT_PID_ROOT), else the numbers themselves."""
