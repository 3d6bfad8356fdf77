# SPDX-License-Identifier: Apache-2.0
"""Programs for the processes of a rebuilt tree: one command for all, or the recorded program of each.

A process with a live leader runs its program. A process with a dead leader holds instead, for exec() would bring the
leader back. exec() ends all other threads, so CKPTREE_THREADS names the threads that a program may make again.
"""

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from agent.errors import CkptreeError, RefusedError, UsageError
from agent.model import FileOwner, PidRef, Snapshot, Task, TaskState, Terminal
from agent.record import NamedTuple, replace
from agent.restart.planning.plan import Plan
from agent.restart.rebuild.failure import name_of
from agent.restart.rebuild.helperabi import Program, Rights
from agent.restart.rebuild.rights import HELD, Host, bounds, doubts, obstacles, recorded, this_host
from agent.restart.rebuild.userids import UserIds, held, of_image, to_take

_EXITED: Final = TaskState.ZOMBIE, TaskState.DEAD_LEADER


def split_command(text: str) -> list[str]:
    """Split a command into words as a shell does.

    Raises:
        UsageError: a quote is open, or there is no word.
    """
    import shlex

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--run {text}: {error}") from error
    if not words:
        raise UsageError("--run: expected hold, argv or a command")
    return words


def with_path(words: list[str]) -> list[str]:
    """Return the absolute path of a command's program, and the command's words behind it.

    Raises:
        CkptreeError: the program is not found.
    """
    import shutil

    path = shutil.which(words[0])
    if path is None:
        what = f"{words[0]} is there, and is no program that may be run" if Path(words[0]).exists() else ""
        raise CkptreeError(f"--run: {what or f'there is no program {words[0]}'}")
    return [os.path.abspath(path), *words]


def one_command(
    words: Sequence[str],
    snapshot: Snapshot,
    plan: Plan,
    numbers: Sequence[tuple[int, ...]],
    pids: Sequence[int],
    image: str,
    *,
    keep_rights: bool = False,
) -> dict[int, Program]:
    """Return one command for all processes, by actor, each with its place in the tree in its environment.

    Args:
        words: path, then the arguments from the program's name on.
        snapshot, plan: the snapshot that was rebuilt, and its plan.
        numbers, pids: by actor, as they are in the rebuilt tree.
        image: path of the image's file; empty if it was read from standard input.
        keep_rights: True: the command has all rights of the caller; False: none that the original lacked.
    """
    path, *argv = (os.fsencode(word) for word in words)
    inherited = [key + b"=" + value for key, value in os.environb.items() if not key.startswith(b"CKPTREE_")]
    inherited.append(b"CKPTREE_IMAGE=" + os.fsencode(os.path.abspath(image) if image else ""))
    threads: dict[int, list[str]] = {}
    for index, task in zip(plan.tasks, snapshot.tasks, strict=True):
        if task.pid != task.tgid:
            text = f"{task.pid}:{','.join(map(str, numbers[index]))}"
            threads.setdefault(plan.actors[index].leader, []).append(text)
    programs = {}
    for index, task in _living(snapshot, plan):
        own = {
            "TAG": str(task.pid),
            "PID": str(pids[index]),
            "NUMBERS": ",".join(map(str, numbers[index])),
            "THREADS": " ".join(threads.get(index, ())),
            "TTY": _json(_terminal(task.tty) if task.tty is not None else None),
            "FOWN": _json([_owner(owner) for owner in task.fown] if task.fown else None),
        }
        env = [*inherited, *(f"CKPTREE_{name}={value}".encode() for name, value in own.items())]
        programs[index] = Program(path, argv, env, rights=None if keep_rights else bounds(task))
    return programs


def rights_of_tasks(
    snapshot: Snapshot, plan: Plan, programs: Mapping[int, Program] | None, *, runs: bool, keep_rights: bool
) -> list[Rights | None]:
    """Return the rights of the processes of a tree, as far as they may differ; None: those of this process.

    Args:
        snapshot, plan: the snapshot to be rebuilt, and its plan.
        programs: the recorded programs by actor; None: the tasks hold, or run one command.
        runs: True: they run something; see one_command().
        keep_rights: True: they keep all rights of this process.
    """
    if programs is not None:
        return [each.rights for each in programs.values()]
    if keep_rights:
        return []
    return [bounds(task) for _, task in _living(snapshot, plan)] if runs else [HELD]


def own_arguments(snapshot: Snapshot, plan: Plan, host: Host | None = None) -> tuple[dict[int, Program], list[str]]:
    """Return the recorded program of each process that has called exec(), under its recorded rights.

    Args:
        snapshot, plan: the snapshot to be rebuilt, and its plan.
        host: the rights that may be given here; None: those of this process.

    Returns:
        The programs by actor; and lines for the user, about each process that only forked, and so holds, and each that
        may differ from the original.

    Raises:
        RefusedError: the image has no details; or no process has called exec(); or some cannot be started again as
            they were: the error names all of them.
    """
    host = host or this_host(pidns=plan.pidns)
    refused, waiting, doubtful = [], [], []
    programs = {}
    living = [*_living(snapshot, plan), *_leaderless(snapshot, plan)]
    if all(task.details is None for _, task in living):
        raise RefusedError(
            "--run argv: the image does not say what ran: capture the original with `snapshot --with-argv`; of a tree that "
            "`restart` holds, which runs nothing, take the image that it was made from"
        )
    for index, task in living:
        who = name_of(plan.actors[index])
        if task.details is not None and task.details.execed is False:
            waiting.append(f"{who} has only forked, and holds")
            continue
        reasons = list(obstacles(task, host, snapshot.boot_id))
        if reasons:
            refused.append(f"{who}: {'; '.join(reasons)}")
            continue
        try:
            programs[index] = recorded(task, host, snapshot.boot_id)
        except RefusedError as error:
            refused.append(f"{who}: {error}")
        else:
            doubtful += [f"{who}: {doubt}" for doubt in doubts(task, host, snapshot.boot_id)]
    if refused:
        raise RefusedError("--run argv: these cannot be started again as they were", refused)
    if not programs:
        raise RefusedError(
            "--run argv: there is nothing to run, for no process of the image has called exec: they would all hold, "
            "which is --run hold",
            waiting,
        )
    return programs, waiting + doubtful


def holding(
    snapshot: Snapshot, plan: Plan, running: Collection[int], host: Host | None = None
) -> tuple[dict[int, Program], list[str]]:
    """Return the entries of tasks that run no program and take their own user and group ids.

    Args:
        snapshot, plan: the snapshot to be rebuilt, and its plan.
        running: actors that run a program.
        host: as in own_arguments().

    Returns:
        The entries by actor; and lines for the user, about each task that cannot have its ids here.
    """
    host = host or this_host(pidns=plan.pidns, runs=False)
    found, without = {}, []
    leaders = {task.tgid: task for task in snapshot.tasks if task.pid == task.tgid}
    for index, task in zip(plan.tasks, snapshot.tasks, strict=True):
        if plan.actors[index].leader in running or task.state in _EXITED:
            continue
        leader = leaders.get(task.tgid)
        if leader is not None and (leader.uid, leader.gid) == (task.uid, task.gid):
            task = task._replace(details=leader.details)
        try:
            program = held(task, host)
        except RefusedError as error:
            without.append(
                f"{name_of(plan.actors[index])} holds under the ids of the caller: {error} cannot be had here"
            )
        else:
            if program is not None:
                found[index] = program
    return found, without


class Endings(NamedTuple):
    """The ids of the tasks of a tree that have exited: zombies and dead leaders. They take their ids before they exit.

    Attributes:
        ids: by actor, where they are not those of this process.
        refused: by actor that cannot have its ids here, the text that says so.
    """

    ids: dict[int, UserIds]
    refused: dict[int, str]


def endings(snapshot: Snapshot, plan: Plan, host: Host | None = None) -> Endings:
    """Return the ids of the tasks that have exited.

    Args:
        snapshot, plan: the snapshot to be rebuilt, and its plan.
        host: as in own_arguments().
    """
    found = Endings({}, {})
    for index, task in zip(plan.tasks, snapshot.tasks, strict=True):
        known = of_image(task) if task.state in _EXITED else None
        if known is None:
            continue
        host = host or this_host(pidns=plan.pidns, runs=False)
        try:
            ids = to_take(known, host)
        except RefusedError as error:
            found.refused[index] = f"{error} cannot be had here"
        else:
            if ids is not None:
                found.ids[index] = ids
    return found


def at_their_beginning(snapshot: Snapshot) -> Snapshot:
    """Return the same tree, where no process that runs its program again has a pid namespace for its next child.

    The program that asked for such a namespace will ask again, and unshare() fails if there is one already.
    """
    tasks = [
        task._replace(child_namespace=None, child_namespace_dead=None)
        if task.details is not None and task.details.execed is not False
        else task
        for task in snapshot.tasks
    ]
    return replace(snapshot, tasks=tuple(tasks))


def _leaderless(snapshot: Snapshot, plan: Plan) -> list[tuple[int, Task]]:
    pairs = zip(plan.tasks, snapshot.tasks, strict=True)
    return [(index, task) for index, task in pairs if task.state == TaskState.DEAD_LEADER]


def _living(snapshot: Snapshot, plan: Plan) -> list[tuple[int, Task]]:
    """Return the leaders of the processes that have a living leader, with their actors."""
    dead = (TaskState.ZOMBIE, TaskState.DEAD_LEADER)
    pairs = zip(plan.tasks, snapshot.tasks, strict=True)
    return [(index, task) for index, task in pairs if task.pid == task.tgid and task.state not in dead]


def _json(value: object) -> str:
    import json

    return "" if value is None else json.dumps(value, separators=(",", ":"))


def _terminal(tty: Terminal) -> Mapping[str, object]:
    name = None if tty.name is None else tty.name.decode(errors="surrogateescape")
    return {"name": name, "pgrp": _ref(tty.pgrp), "old_pgrp": _ref(tty.old_pgrp)}


def _owner(owner: FileOwner) -> Mapping[str, object]:
    return {"fd": owner.fd, "pid": _ref(owner.pid), "type": owner.type}


def _ref(ref: PidRef | None) -> object:
    if ref is None or isinstance(ref, int):
        return ref
    return {"numbers": ref.numbers, "namespaces": ref.namespaces}
