# SPDX-License-Identifier: Apache-2.0
"""A snapshot: immutable, self-contained, in the image's own terms.

Theory
------
A snapshot has *pid objects* (the kernel's ``struct pid``: one number for each pid namespace that sees it) and *tasks*,
which refer to pid objects by **tag**. Tags count from ``first_tag`` in the order in which the pid objects were
discovered: for each task in tree order its pid, tgid, pgrp and session, each if new. So ``pids[tag - first_tag]`` is
the pid object of a tag, and the first one is the root task's. Two values are no tags:

* ``0``: the id has no number in the root's pid namespace (and, as a parent, "outside": only the root has that);
* ``CKPT_PID_ROOT``: the id is the session that the root itself inherited from outside.

Namespaces are numbered from 0, the root's own, parents before children. ``level`` is relative to the root's.
A *birth* is the edge from a task to the thread that created it, with the session and group it was born into. Ancestors
are tasks that are gone, but through which a living task's birth runs.

Births, terminals and owners of files mention pid objects without collecting them: tags are those of the image, in the
order of its tasks' ids, and a rebuild needs no ghost for a group that only a terminal remembers. Such a *reference* is
a tag where the pid object has one, a special value where one applies, and else the numbers themselves.
"""

from agent.model.birth import Ancestor, AncestorEvent, Birth, Creator
from agent.model.pids import CKPT_PID_NULL, CKPT_PID_ROOT, OUTSIDE, Namespace, OutsidePid, PidObject, PidRef, Tag
from agent.model.process import (
    Capabilities,
    FileOwner,
    OwnerType,
    ProcessDetails,
    ProgramFile,
    Shares,
    Surroundings,
    Terminal,
)
from agent.model.snapshot import At, Completeness, Dialect, Header, Mode, Obstacle, Snapshot, Verified
from agent.model.task import Task, TaskState, WaitStatus

__all__ = [
    "CKPT_PID_NULL",
    "CKPT_PID_ROOT",
    "OUTSIDE",
    "Ancestor",
    "AncestorEvent",
    "At",
    "Birth",
    "Capabilities",
    "Completeness",
    "Creator",
    "Dialect",
    "FileOwner",
    "Header",
    "Mode",
    "Namespace",
    "Obstacle",
    "OutsidePid",
    "OwnerType",
    "PidObject",
    "PidRef",
    "ProcessDetails",
    "ProgramFile",
    "Shares",
    "Snapshot",
    "Surroundings",
    "Tag",
    "Task",
    "TaskState",
    "Terminal",
    "Verified",
    "WaitStatus",
]
