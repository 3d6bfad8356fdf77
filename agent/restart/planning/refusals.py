# SPDX-License-Identifier: Apache-2.0
"""Refusals of trees that no plan is made for, whatever their history: the kernel forbids them, or no way is known.

A refusal is *proven* if a rule of the kernel says that no kernel can be in that state, or can be brought there again
under the given options. All others are limits of ckptree. The proven ones, by Linux 6.18:

`leader-without-task`
    A leader is not reaped before the other threads of its group have gone: delay_group_leader(), kernel/exit.c.
`number-of-the-init` (agent.restart.planning.search)
    In each pid namespace the init has the number 1.

Two refusals are not proven, for a tracer can bring those states about, and a rebuild has no tracer: `dying-namespace`,
where a tracer holds a task within its exit, or a zombie; `zombie-thread`.

`exit-signal` is not proven either: a zombie whose exit signal is SIGKILL. The kernel signals its parent at once, by
exit_notify() or by the release_task() of its last thread, and SIGKILL cannot be ignored. So a parent that stands is one
of these:

* The init of a pid namespace: sig_task_ignored() drops the signal because of SIGNAL_UNKILLABLE. Such a tree is rebuilt.
* A parent that has called exec() since the birth: do_notify_parent() compares parent_exec_id with self_exec_id, and
  sends SIGCHLD if they differ, while the zombie keeps its exit_signal. The tasks of a rebuild call no exec() before all
  stand, so the tree is refused.
* A parent whose zombie another process traces: the tracer gets SIGCHLD. The parent gets its signal when the tracer
  detaches, in __ptrace_detach(). The tree is refused, too.

A parent that has adopted the zombie is none of these, for reparent_leader() sets the exit signal to SIGCHLD.
"""

from signal import Signals
from typing import Final

from agent.errors import NotRebuildableError
from agent.model import TaskState
from agent.model.signalnames import signal_in_words
from agent.restart.planning.cast import Cast, Node

_LAST_SIGNAL: Final = 64
_SIGNAL_BITS: Final = 0x7F  # of a wait status; above bit 7 it has the exit code
_CODE_SHIFT: Final = 8
_HARMLESS: Final = (
    *(Signals.SIGCHLD, Signals.SIGCONT, Signals.SIGSTOP, Signals.SIGTSTP, Signals.SIGTTIN, Signals.SIGTTOU),
    *(Signals.SIGURG, Signals.SIGWINCH),
)
"""Signals that do not kill by default."""

_FAULTS: Final = (*(Signals.SIGBUS, Signals.SIGFPE, Signals.SIGILL, Signals.SIGSEGV, Signals.SIGSYS, Signals.SIGTRAP),)
"""Signals that the kernel forces on a task that commits a fault, even on an init: `commit_fault` in ending.c."""

_ENDS_OF_INITS: Final = (Signals.SIGKILL, *_FAULTS)
"""Signals that an init of a pid namespace can be killed by: SIGKILL from outside, and these."""

_DROP_DYING: Final = " (restart --drop-dying leaves out what the kernel was about to end)"


def refuse_hopeless(cast: Cast) -> None:
    """Refuse a tree that cannot be rebuilt, whatever its history.

    Raises:
        NotRebuildableError: the error names the task and the rule.
    """
    if cast.top is cast.root:
        _refuse_keepers(cast)
    _refuse_root(cast)
    founded = {node.pgid for node in cast.nodes if not node.pgid.leads_session}
    for node in cast.tasks:
        _refuse_strange_threads(node)
        _refuse_dying(cast, node)
        _refuse_status(cast, node)
        _refuse_signal(cast, node)
        _refuse_outside(cast, node, founded=node in founded)
        _refuse_pending(cast, node)


def _refuse_root(cast: Cast) -> None:
    root = cast.root
    if root.exits and all(thread.exits for thread in root.threads) and not root.waits_in_exit:
        text = f"the root {name(root)} has exited: no process is left to hold the tree together"
        raise NotRebuildableError(root.tag, "dead-root", text)
    if root.exit_signal in (Signals.SIGKILL, Signals.SIGSTOP) and (cast.top is root or not cast.pidns):
        sent = signal_in_words(root.exit_signal)
        text = f"the end of {name(root)} sends its parent {sent}, and here that parent is what looks after the tree"
        raise NotRebuildableError(root.tag, "exit-signal", text)


def _refuse_signal(cast: Cast, node: Node) -> None:
    parent = node.parent.leader if node.parent is not None else None
    ends = node.task is not None and node.task.state is TaskState.ZOMBIE and not node.lingers
    if not ends or node.exit_signal != Signals.SIGKILL or parent is None:
        return
    if not parent.is_init or (not parent.space and not cast.pidns):
        text = (
            f"the end of the zombie {name(node)} sends SIGKILL to its parent {name(parent)}, which would die of it here; "
            "there it has called exec() since that birth, or a tracer holds the zombie"
        )
        raise NotRebuildableError(node.tag, "exit-signal", text)


def _refuse_status(cast: Cast, node: Node) -> None:
    """Refuse wait statuses that no task can be made to end with."""
    code = node.task.exit_code if node.task is not None and node.exits else None
    number = (code or 0) & _SIGNAL_BITS
    if not number:
        return
    if node.task is not None and node.task.state is TaskState.DEAD_LEADER:
        if not node.waits_in_exit:
            text = f"{name(node)} was killed by {signal_in_words(number)} as a thread alone: its others live on"
            raise NotRebuildableError(node.tag, "exit-status", text)
    elif number in _HARMLESS or number > _LAST_SIGNAL or (code or 0) >> _CODE_SHIFT:
        text = f"{name(node)} has the wait status {code:#x}, and no signal ends a process with that"
        raise NotRebuildableError(node.tag, "exit-status", text)
    elif cast.inits.get(node.space) is node.leader and number not in _ENDS_OF_INITS:
        text = f"the init {name(node)} was killed by {signal_in_words(number)}, which an init is immune to"
        raise NotRebuildableError(node.tag, "exit-status", text)


def _refuse_keepers(cast: Cast) -> None:
    """Refuse keepers where the root is the top: a keeper stands beside the root, so it needs a reaper above both."""
    for keeper in cast.keepers:
        if keeper.tag:
            text = f"{name(keeper)} was the init of a pid namespace that others are in, and none of the tree"
            raise NotRebuildableError(keeper.tag, "dead-init", text)
        node = next(one for one in cast.nodes if keeper.space in cast.chain(one.space) and one.tag)
        raise NotRebuildableError(
            node.tag, "namespace-without-init", f"{name(node)} is in a pid namespace whose init is none of the tree"
        )


def _refuse_strange_threads(node: Node) -> None:
    row = node.task
    if node.lingers:
        return
    if node.leader.task is None:
        text = f"the leader of {name(node)}'s thread group has no task"
        raise NotRebuildableError(node.tag, "leader-without-task", text, proven=True)
    if row is not None and node.leader is not node and row.state in (TaskState.ZOMBIE, TaskState.DEAD_LEADER):
        raise NotRebuildableError(
            node.tag, "zombie-thread", f"{name(node)} is a dead thread that only its tracer keeps"
        )


def _refuse_dying(cast: Cast, node: Node) -> None:
    """Refuse tasks that cannot be in a namespace whose init waits within its exit."""
    if node.lingers and node.leader is cast.top:
        text = f"the init {name(node)} waits within its exit, and no process of the tree stands above it"
        raise NotRebuildableError(node.tag, "dying-namespace", text)
    for space in cast.chain(node.space):
        init = cast.inits.get(space)
        if init is None or init.task is None or not init.waits_in_exit or node.leader is init:
            continue
        if not node.waits_in_exit and node.task is not None and node.task.state is not TaskState.ZOMBIE:
            text = f"{name(node)} lives in the pid namespace of {name(init)}, which has exited{_DROP_DYING}"
            raise NotRebuildableError(node.tag, "dying-namespace", text)
        parent = node.parent
        if not node.waits_in_exit and parent is not None and space in cast.chain(parent.space):
            place = f"within the pid namespace of {name(init)}, which has exited"
            text = f"{name(node)} is a zombie, and its parent is {place}{_DROP_DYING}"
            raise NotRebuildableError(node.tag, "dying-namespace", text)


def _refuse_pending(cast: Cast, node: Node) -> None:
    """Refuse a dead namespace of a task's next child if a living task of the tree is in it."""
    row = node.task
    if row is None or node.exits or row.child_namespace is None or not row.child_namespace_dead:
        return
    inside = [one for one in cast.nodes if row.child_namespace in cast.chain(one.space) and not one.exits]
    if inside:
        who = name(inside[0]) or "an init"
        text = f"{who} lives in the pid namespace that waits for a child of {name(node)}, which is dead"
        raise NotRebuildableError(node.tag, "dying-namespace", text)


def _refuse_outside(cast: Cast, node: Node, *, founded: bool) -> None:
    row = node.task
    if cast.inits.get(node.space) is node and node.pgid is not node and node.space in cast.chain(node.pgid.space):
        text = f"the init {name(node)} is in a group of its own namespace, and could never end"
        raise NotRebuildableError(node.tag, "init-in-inner-group", text)
    if node.leader is not node:
        return
    if node.pgid is cast.outside and founded:
        text = f"{name(node)} has founded its group and is in one outside, where no process of the tree can put it"
        raise NotRebuildableError(node.tag, "outside-id", text)
    if not cast.pidns and cast.outside in (node.sid, node.pgid) and row is not None and row.sid == 0:
        text = f"{name(node)}'s session has no number here: that takes a new pid namespace"
        raise NotRebuildableError(node.tag, "outside-id", text)


def name(node: Node) -> str:
    """Return the numbers of a node as text."""
    return "/".join(map(str, node.numbers))
