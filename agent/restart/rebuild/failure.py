# SPDX-License-Identifier: Apache-2.0
"""Errors of a rebuild: the guard's last message, explained by means of the plan."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.errors import CkptreeError, HostError
from agent.interpreter import TOP
from agent.model.signalnames import signal_in_words
from agent.restart.planning.plan import NOBODY, Actor, Op, Plan, Step
from agent.restart.rebuild.helperabi import Doing, Message, Reason, Setup
from agent.restart.rebuild.preflight import holders

_SETUP: Final = {
    Setup.PROGRAM: "the helper cannot map its program",
    Setup.USERNS: "no CAP_SYS_ADMIN, and a user namespace for the tree is refused: unshare(CLONE_NEWUSER)",
    Setup.IDMAP: "no CAP_SYS_ADMIN, and the ids of the user namespace for the tree cannot be mapped",
    Setup.SOCKETS: "no descriptors for the helper",
    Setup.CLONE: "the first process of the tree is refused: clone3()",
    Setup.PRIVATE: "the mounts of the tree cannot be made private",
    Setup.STDIO: "/dev/null cannot be opened",
    Setup.SESSION: "the leader of the session that the tree begins in was killed",
    Setup.STAGE: "the pages that processes share since a fork cannot be read from the images",
    Setup.KEYRING: "the tree gets no session keyring of its own, and its tasks must not have the caller's: keyctl()",
    Setup.WATCHER: "the process that ends the tree should its guard be killed is refused: clone3() or pidfd_open()",
}


class RebuildError(CkptreeError):
    """The failure of a rebuild of which nothing is left.

    Attributes:
        step: the step that failed, or the next step of an actor that is gone; None if no step is concerned.
        error: errno; 0 if no system call failed.
    """

    def __init__(self, message: str, step: Step | None = None, error: int = 0) -> None:
        super().__init__(message)
        self.step = step
        self.error = error


def remedy(top: Path = Path(TOP)) -> str:
    """Return what a user does about a helper that is missing, or of another version.

    Args:
        top: the folder in which this installation lies; of a checkout, it has the file by which `make` compiles helpers.
    """
    return "`make setup` compiles it" if (top / "Makefile").exists() else "install the package ckptree again"


def differs(found: Sequence[str]) -> RebuildError:
    """Make the error for differences of a tree from its image; the tree must be taken down."""
    return RebuildError("the kernel says of the rebuilt tree:\n  " + "\n  ".join(found))


def failure(message: Message, plan: Plan, helper: Path) -> CkptreeError:
    """Make the error for a message of the guard.

    Args:
        message: of kind Said.FAILED.
        plan: the plan that was carried out.
        helper: path of the guard's program.

    Returns:
        A RebuildError; a HostError if the host permits no such tree.
    """
    name = errno.errorcode.get(message.error, str(message.error))
    cause = f": {name}, {os.strerror(message.error)}" if message.error else ""
    step = plan.steps[message.place] if message.place < len(plan.steps) else None
    told = _told(plan, step) if step else "no step"
    who = name_of(plan.actors[message.actor]) if message.actor < len(plan.actors) else "nobody"
    if message.reason == Reason.SETUP:
        setup = message.value or message.actor
        if setup == Setup.PROGRAM and not message.error:
            return RebuildError(f"{helper} is of another version, and cannot read this plan: {remedy()}")
        text = f"{_SETUP[Setup(setup)]}{cause}"
        if setup == Setup.CLONE and message.error == errno.EEXIST:
            text += holders(plan.actors[0].numbers[:1])
        if setup == Setup.IDMAP and message.error == errno.EPERM and not os.geteuid():
            # user_namespaces(7): since Linux 5.12 user 0 is mapped for CAP_SETFCAP alone (verify_root_map())
            text += ": user 0 is mapped only for a caller with CAP_SETFCAP: give it to the caller, or CAP_SYS_ADMIN"
        if message.error in (errno.EPERM, errno.ENOSPC) and setup in (Setup.USERNS, Setup.IDMAP, Setup.CLONE):
            return HostError(text)
        return RebuildError(text, None, message.error)
    if message.reason == Reason.DIED:
        return RebuildError(f"{who} was killed from outside; its next step was: {told}", step)
    if message.reason == Reason.STUCK:
        return RebuildError(f"nothing was done for 10 seconds; the first step that is undone: {told}", step)
    if message.reason == Reason.RUN and message.value in (Doing.COMPARE, Doing.FOLDER):
        folder = message.value == Doing.FOLDER
        why = "another folder has the path of its own" if folder else "another file is there, or it was changed"
        return RebuildError(f"{who} does not run its program: {why}, since the check")
    if message.reason == Reason.RUN:
        doing = f": {Doing(message.value).name.lower()}" if message.value else ""
        return RebuildError(f"{who} cannot run its program{doing}{cause}", None, message.error)
    if message.reason == Reason.NUMBERS:
        what = "cannot be opened" if message.error else "does not show them all: mount procfs there"
        text = f"{who} reads its numbers in /proc/thread-self/status, which {what}{cause}"
        return RebuildError(text, None, message.error)
    text = f"step {message.place} failed: {told}{cause or _unfit(message, helper)}"
    if step and step.op is Op.CLONE and message.error == errno.EEXIST and not plan.pidns:
        text += holders(plan.actors[step.target].numbers[:1])
    return RebuildError(text, step, message.error)


def name_of(actor: Actor) -> str:
    """Return the name of an actor for the user: role, tag, numbers."""
    numbers = "/".join(map(str, actor.numbers)) or "any number"
    return f"{actor.role.value} {actor.tag} ({numbers})" if actor.tag else f"{actor.role.value} ({numbers})"


def _unfit(message: Message, helper: Path) -> str:
    """Return the reason why a step failed though no system call failed."""
    if message.reason == Reason.SPARE:
        return ": no number is left that no task of the tree has: raise kernel.pid_max"
    if message.reason == Reason.SURVIVED:
        return f": {signal_in_words(message.value)} does not end it here"
    return f": {helper} does not know that step, so it is of another version: {remedy()}"


def _told(plan: Plan, step: Step) -> str:
    text = f"{step.op.name.lower()} by {name_of(plan.actors[step.by])}"
    if step.target != NOBODY:
        text += f" of {name_of(plan.actors[step.target])}"
    if step.op is Op.SETPGID:
        text += f" into the group of {name_of(plan.actors[step.value])}"
    return f"{text} ({step.why})" if step.why else text
