# SPDX-License-Identifier: Apache-2.0
"""The differences of two memories of a watch, field by field, in words that a reader of a failure understands."""

from collections.abc import Iterable
from typing import Any, Final

from agent.capture.memorywriter import Memory
from agent.table import wire
from agent.table.objects import NOBODY, Pid, PidNamespace, TaskStruct
from agent.table.processtable import ProcessTable

_MOST: Final = 30
_LINKED: Final = ("leader", "parent", "creator")
_PIDS: Final = ("pgid", "sid", "birth_pgid", "birth_sid")
_PLAIN: Final = (
    *("address", "flags", "exit_code", "exit_signal", "ids", "comm", "child_namespace", "clone_flags", "order"),
    "strings",
)
_NONE: Final = "none"


def differences(first: Memory, second: Memory) -> list[str]:
    """Return a line for each field that differs, without what sweeps have noted of ties.

    A field of a task, a pid object or a namespace that only one of them has is not told beside the object itself.
    """
    one, other = _facts(first), _facts(second)
    found = []
    for name in dict.fromkeys((*one, *other)):
        known = [facts.get(name) for facts in (one, other)]
        if known[0] == known[1]:
            continue
        fields = [sorted(field for field in (each or {})) for each in known]
        if None in known:
            found.append(f"{name}: {'only in the second' if known[0] is None else 'only in the first'}")
            continue
        for field in dict.fromkeys((*fields[0], *fields[1])):
            values = [(each or {}).get(field) for each in known]
            if values[0] != values[1]:
                found.append(f"{name}: {field}: {_short(values[0])} in the first, {_short(values[1])} in the second")
    if len(found) > _MOST:
        found[_MOST:] = [f"and {len(found) - _MOST} more"]
    return found


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 300 else f"{text[:300]}..."


def _facts(memory: Memory) -> dict[str, dict[str, Any]]:
    """Return the fields of each object, by its name, and the lists of the table and of the stream."""
    table, stream = memory.table, memory.stream
    found: dict[str, dict[str, Any]] = {
        "stream": {
            "next": stream.next,
            "kinds": stream.kinds,
            "lost": stream.lost,
            "suspect": stream.suspect,
            "early": [int(wire.HEAD.unpack_from(record)[0]) for record in stream.early],
        },
        "table": _lists(table),
    }
    for namespace in (table.pids.initial, *table.pids.namespaces.values()):
        found[f"namespace {_space(namespace)}"] = {
            "inum": namespace.inum,
            "parent": _space(namespace.parent),
            "reaper": _task(namespace.reaper),
            "numbers, in order": [_pid(pid) for pid in namespace.numbers.values()],
        }
    tasks = _reached(table)
    pids = {id(pid): pid for pid in table.pids.numbers.values()}
    for task in tasks:
        found[f"task {_task(task)}"] = _fields(task)
        pids |= {id(pid): pid for pid in (task.pid, *(getattr(task, name) for name in _PIDS)) if pid is not None}
    for pid in pids.values():
        name, number = f"pid {_pid(pid)}", 1
        while name in found:  # one that seemed free, and has been entered anew
            number += 1
            name = f"pid {_pid(pid)}, {number}"
        found[name] = {"users": pid.users, "task": _task(pid.task), "namespace": _space(pid.namespace)}
    return found


def _lists(table: ProcessTable) -> dict[str, Any]:
    counts = table.counts
    return {
        "repairs, anomalies, assumed": (counts.repairs, dict(counts.kinds), counts.assumed),
        "idle": table.idle,
        "astray": table.astray,
        "doubts": _tasks(table.doubts),
        "unknown": list(table.unknown),
        "surprises": [(_task(task), what) for task, what in table.surprises.items()],
        "unlisted": sorted(_tasks(table.unlisted)),
        "orphans": [(address, _tasks(tasks)) for address, tasks in table.orphans.items()],
        "leaderless": [(address, sorted(threads)) for address, threads in table.leaderless.items()],
        "creatorless": [(address, _tasks(tasks)) for address, tasks in table.creatorless.items()],
        "unanswered": [(*question, _task(task)) for question, task in table.unanswered.items()],
        "moved": [(_task(task), identity) for task, identity in table.moved.items()],
        "contracting": _task(table.contracting),
    }


def _fields(task: TaskStruct) -> dict[str, Any]:
    return {
        **{name: getattr(task, name) for name in _PLAIN},
        **{name: _task(getattr(task, name)) for name in _LINKED},
        **{name: _pid(getattr(task, name)) for name in _PIDS},
        "threads": _tasks(task.threads or ()),
        "children": _tasks(task.children()),
        "deeds": [
            (what, order, _pid(value) if isinstance(value, Pid) else value) for what, order, value in task.deeds or ()
        ],
    }


def _reached(table: ProcessTable) -> list[TaskStruct]:
    """Return the tasks that a memory has: the living ones, those on the table's lists, and those they lead to."""
    lists: list[Iterable[TaskStruct]] = [
        *(table.tasks(), table.doubts, table.surprises, table.unlisted, table.moved, table.unanswered.values()),
        *table.orphans.values(),
        *table.creatorless.values(),
    ]
    left = [task for each in lists for task in each]
    left += [table.contracting] if table.contracting is not None else []
    found: dict[TaskStruct, None] = {}
    while left:
        task = left.pop()
        if task not in found and task is not NOBODY:
            found[task] = None
            linked = [getattr(task, name) for name in _LINKED]
            left += [each for each in (*linked, *task.children(), *(task.threads or ())) if each is not None]
    return list(found)


def _tasks(tasks: Iterable[TaskStruct]) -> list[str]:
    return [_task(task) for task in tasks]


def _task(task: TaskStruct | None) -> str:
    if task is None or task is NOBODY:
        return _NONE
    gone = "" if task.pid.task is task else " (gone)"
    return f"{task.pid.numbers[0]} born at {task.start_ns}{gone}"


def _pid(pid: Pid | None) -> str:
    return _NONE if pid is None else f"{'/'.join(map(str, pid.numbers))} ({pid.identity:#x})"


def _space(namespace: PidNamespace | None) -> str:
    return _NONE if namespace is None else f"{namespace.identity:#x}"
