# SPDX-License-Identifier: Apache-2.0
"""The rules for a file, one row each, and the finding that a file breaks a rule at some place.

Severity
--------
An *error* makes a file worthless as a tree: our readers or those of 2011 refuse it, or no kernel can have been in that
state. A rebuild from it would make another tree, if any. A *warning* is about a sound file that needs more than a plain
rebuild has, or holds facts that will be lost. Our readers stop at the first error and pass over warnings.

The last field of a rule is its source: a function of the kernel patch (``restore_*``, ``checkpoint_*``), one of its
user-space companion (``ckpt_*``), or "ours" if neither of them checked it, with the consequence.
"""

from collections.abc import Iterable
from typing import Final, Literal

from agent.errors import FormatError
from agent.record import NamedTuple, record

Severity = Literal["error", "warning"]


class Rule(NamedTuple):
    """One rule for a file.

    Attributes:
        severity: as the module defines it.
        meaning: the text of a finding of this name.
        source: the program that demands it.
    """

    severity: Severity
    meaning: str
    source: str


RULES: Final[dict[str, Rule]] = {
    # the records
    "truncated": Rule("error", "the file ends before its records do", "EIO of every reader"),
    "unexpected-record": Rule("error", "a record of another type stands here", "EINVAL of every reader"),
    "record-head": Rule("error", "a length below the 8 bytes of the record's own head", "EINVAL of every reader"),
    "record-length": Rule("error", "a length that this record cannot have", "EINVAL of every reader"),
    "writer-failed": Rule("error", "an ERROR record: the checkpoint failed when it was written", "ckptinfo"),
    "foreign-records": Rule("warning", "records of unknown types; a conversion drops them", "ours"),
    "second-extension": Rule("error", "our own record stands twice", "ours"),
    "tail-magic": Rule("error", "TAIL without its magic", "restore_read_tail"),
    "bytes-after-tail": Rule("error", "bytes that belong to no record follow TAIL", "ours: not checked in 2011"),
    # the head
    "big-endian": Rule("error", "written by a big-endian machine", "ours: fields are in the writer's order"),
    "head-magic": Rule("error", "HEADER without its magic: no checkpoint image", "restore_read_header"),
    "head-time": Rule("error", "a time past the year 2262", "ours"),
    "uts-length": Rule("error", "a length of the host's strings that no host has", "ckpt_read_header"),
    # A kernel asks for its own build here; the tree does not depend on the host.
    "foreign-arch": Rule("warning", "another machine than x86-64", "restore_read_header, as an error"),
    "foreign-revision": Rule("warning", "another revision of the format", "restore_read_header, as an error"),
    "unknown-flags": Rule("warning", "user flags beside bit 0, subtree", "restore_read_header, as an error"),
    # PIDS
    "pre-patch-image": Rule("error", "record 101 is the tree of bare pid numbers of older images", "its length, 16"),
    "no-pids": Rule("error", "no pid object at all", "restore_read_pids"),
    "pids-buffer-length": Rule("error", "the buffer is not as long as the counts say", "restore_read_pids"),
    "pids-count": Rule("error", "the buffer holds more or fewer pid objects than its head says", "ckpt_read_pids"),
    "pid-past-end": Rule("error", "a pid object runs past the end of the buffer", "restore_read_pids"),
    "pid-depth": Rule("error", "deeper than the kernel nests namespaces", "restore_read_pids; the limit is ours"),
    "pid-number": Rule("error", "a number outside 1 to 4194303", "ours: accepted, and no kernel gives it"),
    "init-number": Rule("error", "number 1 with a namespace below it: an init lives in its own", "ours: accepted"),
    "duplicate-number": Rule("error", "two pid objects have one number in one namespace", "ours: accepted"),
    "offset": Rule("error", "offset is neither the root's tag nor the one before", "ckpt_read_pids, of one dialect"),
    "tag-overflow": Rule("error", "the tags do not fit into 31 bits", "ckpt_obj_insert"),
    "no-number-left": Rule("warning", "no number is free for the helpers of a rebuild", "ckpt_alloc_pid: EOVERFLOW"),
    # TREE
    "no-tasks": Rule("error", "no task at all", "restore_read_tree"),
    "tasks-buffer-length": Rule("error", "the buffer is not as long as the count says", "restore_read_tree"),
    "root-tag": Rule("error", "the root's tag is not the first one", "ours: readers find both by it"),
    "native-tag": Rule("error", "pid or thread group is 0 or special, and must be a tag", "ckpt_init_tree"),
    "tag-range": Rule("error", "a tag that no pid object has", "ckpt_init_tree, but for the parent: crashed"),
    "duplicate-task": Rule("error", "two tasks have one pid", "ours: accepted, and hung"),
    "task-depth": Rule("error", "a task's depth is not that of its pid object", "restore_validate_task"),
    "root-parent": Rule("error", "the root has a parent in the tree", "checkpoint_tree, as a warning"),
    "parent-outside": Rule("error", "a task beside the root has its parent outside", "ckpt_build_tree"),
    "parent-without-task": Rule("error", "a parent that is a pid object without a task", "ckpt_build_tree: crashed"),
    "parent-cycle": Rule("error", "a line of parents that never reaches the root", "ours: accepted, and hung"),
    "parent-order": Rule("error", "a task comes before its parent", "ours: the kernel writes parents first"),
    "leader-elsewhere": Rule("error", "a thread group's leader is in another thread group", "restore_validate_task"),
    "thread-group": Rule("error", "threads of one group differ in group, session or level", "restore_validate_task"),
    # The kernel's restart accepts it and makes a dead leader; but a kernel never releases a leader before its threads.
    "leader-without-task": Rule("warning", "a thread group whose leader has no task", "ckpt_init_tree: makes a ghost"),
    # sessions and groups
    "session-leader-group": Rule("error", "a session leader in another group than its own", "restore_task_pgrp"),
    "owner-is-thread": Rule("error", "a group or session has the pid of a thread", "restore_task_pgrp"),
    "session-owner": Rule("error", "a session has the pid of a task that is in another", "restore_validate_task"),
    "group-sessions": Rule("error", "a group spans two sessions, or its owner's is another", "restore_task_pgrp"),
    "inherited-session": Rule("error", "-4097 where the root did not inherit its session", "restore_validate_task"),
    # Sound, and common below a container's shell; only a rebuild in a new namespace has an outside for these ids.
    "outside-id": Rule("warning", "sessions or groups from outside need a new pid namespace", "ckpt_init_tree"),
    # states
    "exited-parent": Rule("error", "the parent is a task that has exited", "ours: forget_original_parent"),
    "zombie-leader": Rule("error", "a zombie whose thread group has other threads", "ours: delay_group_leader"),
    "dead-leader": Rule("error", "a dead leader without another thread, or no leader", "ours: delay_group_leader"),
    "exit-code": Rule("error", "an exit code of a task that has not exited", "ours"),
    "exit-code-unknown": Rule(
        "warning", "a task has exited, and its status is not known", "ours: a rebuild makes one up"
    ),
    "shared-memory": Rule("error", "threads of one group have different memory", "ours: clone() refuses it"),
    "incomplete": Rule(
        "warning", "the image says that the tree may never have been so", "ours: no tool of 2011 says so"
    ),
    "workers-left-out": Rule("warning", "threads of the kernel's own, io workers, are not in the file", "ours"),
    # namespaces
    "container-root": Rule("error", "the root of a container is not its init", "checkpoint of a container: EINVAL"),
    "root-depth": Rule(
        "error", "the root has numbers below its own namespace", "checkpoint_pids: level 0 is the root's"
    ),
    "nesting-parent": Rule("error", "a task's namespace is not its parent's, nor below it", "ours: no clone does it"),
    # Both occur: setns() into an existing namespace makes them. Nothing in the image can make them again.
    "nesting-depth": Rule("warning", "more than one level below the creator: setns() made it", "ckpt_build_tree"),
    "namespace-without-init": Rule(
        "warning", "no init in a nested namespace: another has to be made for it", "ckpt_build_tree"
    ),
    "namespace-level": Rule("error", "a namespace's level is not one below its parent's", "ours"),
    "namespace-fit": Rule("error", "a pid object's namespaces are no line from the root's inward", "ours"),
    # our own record, and documents
    "extension-length": Rule("error", "our own record has no room for version and checksum", "ours"),
    "extension-version": Rule("error", "our own record is of another version", "ours"),
    "extension-checksum": Rule("error", "our own record is damaged", "ours"),
    "extension-payload": Rule("error", "our own record holds no msgpack", "ours"),
    "extension-field": Rule("error", "a field of our own record is not as its schema says", "ours"),
    "extension-base": Rule("error", "our own record contradicts the base", "ours: the base stands alone"),
    "birth-creator": Rule(
        "error", "a birth whose creator is a tag without a task", "ours: gone creators are ancestors"
    ),
    # a folder of CRIU images
    "criu-image": Rule("error", "a file that is no image of its kind, or no tree", "criu: open_image, pb_read_one"),
    "criu-missing": Rule("error", "a file that a living process needs is not there", "criu: open_image"),
    "criu-unfinished": Rule("warning", "criu may have failed after it wrote the images", "criu: cr_dump_finish"),
    "criu-pages": Rule("error", "a page map names more pages than their file has", "criu: open_page_read"),
    "criu-tree": Rule("error", "tree.ckpt and the images are of different trees", "ours: both are of one instant"),
    "document": Rule("error", "a document that its reader refuses", "ours"),
    "unknown-format": Rule("error", "the file is in no format known here", "ours"),
}
"""All rules by name. Names never change; texts may."""


@record
class Finding:
    """A broken rule at one place of a file.

    Attributes:
        name: key of RULES.
        path: the field at fault, as in ``TREE[3].vppid``.
        message: the fault there, and the right value.
        offset: in bytes from the start of the file; None for a document.
        pids: tags, in the image's own counting, of the pid objects concerned; empty if there are none.
    """

    name: str
    path: str
    message: str
    offset: int | None = None
    pids: tuple[int, ...] = ()

    @property
    def severity(self) -> Severity:
        """The severity of the rule."""
        return RULES[self.name].severity

    @property
    def text(self) -> str:
        """Field and message, for people."""
        return f"{self.path}: {self.message}"

    def error(self) -> FormatError:
        """Return the error of a reader that stops at this finding."""
        return FormatError(self.path, self.message, -1 if self.offset is None else self.offset)


def to_document(findings: Iterable[Finding]) -> list[dict[str, object]]:
    """Return the findings as plain maps."""
    return [
        {
            "severity": found.severity,
            "name": found.name,
            "offset": found.offset,
            "pids": list(found.pids),
            "path": found.path,
            "text": found.text,
        }
        for found in findings
    ]
