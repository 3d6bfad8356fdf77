# SPDX-License-Identifier: Apache-2.0
"""Events as bytes: the fields of each kind, in msgpack.

A task's life has four events, and a host may have thousands of births a second. So one struct packs the fields that
nearly all events have, with their names; the others are packed as a map, whose head is removed.
"""

import struct
from collections.abc import Callable
from typing import Any, Final

import msgpack

from agent.events.eventfacts import Marks, thread
from agent.events.subscriber import ARGUMENTS, KINDS
from agent.selection.births import flag_names
from agent.table import rules
from agent.table.objects import EXITED, IO_WORKER, KERNEL, STOPPED, SUBREAPER, Pid, PidNamespace, TaskStruct

Said = tuple[int, bytes]
"""The count of a map's entries, and the entries packed."""
Details = Callable[[TaskStruct, PidNamespace], Said]
"""A function that returns the fields of a kind of event."""

_pack = msgpack.Packer().pack
_COMMON: Final = 10  # entries that every event has
_MOST: Final = 15  # further entries; also the most entries of a map whose head is one byte
_SELDOM: Final = STOPPED | KERNEL | IO_WORKER


def _head(kind: str, entries: int) -> bytes:
    packer = msgpack.Packer(autoreset=False)
    packer.pack_map_header(entries)
    packer.pack("event")
    packer.pack(kind)
    head: bytes = packer.bytes()
    return head


_HEADS: Final = {kind: [_head(kind, _COMMON + more) for more in range(_MOST + 1)] for kind in (*KINDS, ARGUMENTS)}


def _row(*names: bytes, codes: str) -> Callable[..., bytes]:
    """Return a function that packs values, each behind its name and the byte of its type."""
    return struct.Struct(">" + "".join(f"{len(name)}s{code}" for name, code in zip(names, codes, strict=True))).pack


def _named(head: bytes, *names: str) -> list[bytes]:
    return [_pack(name) + head for name in names]


# Names with the type bytes of integers of four and eight bytes, unsigned and signed, and of at most 255 bytes.
_PID, _TID, _UID, _GID, _CODE = _named(b"\xce", "pid", "tid", "uid", "gid", "exit_code")
_PARENT, _CREATOR, _PGID, _SID, _OLD = _named(b"\xce", "parent", "creator", "pgid", "sid", "old_tid")
_ORDER, _START = _named(b"\xcf", "order", "start_ns")
(_SIGNAL,) = _named(b"\xd2", "exit_signal")
(_TIME,) = _named(b"\xd3", "time_ns")  # a clock that was set back may be behind the time since boot
(_COMM,) = _named(b"\xc4", "comm")
_NUMBERS, _NUMBER = _named(b"", "numbers") + _named(b"\x91\xce", "numbers")  # the second: an array of one
_WHEN_WHO: Final = _row(_ORDER, _TIME, _PID, _TID, codes="QqII")
_WHAT: Final = _row(_START, _UID, _GID, _COMM, codes="QIIB")
_ALL: Final = _row(_ORDER, _TIME, _PID, _TID, _NUMBER, _START, _UID, _GID, _COMM, codes="QqIIIQIIB")
_BIRTH: Final = _row(_PARENT, _CREATOR, _PGID, _SID, _SIGNAL, codes="IIIIi")
_EXEC: Final = _row(_OLD, _SIGNAL, codes="Ii")
_DEATH: Final = _row(_CODE, codes="I")
_IDS: Final = _row(_PGID, _SID, codes="II")
_DEAD: Final = [_pack({"group_dead": dead})[1:] for dead in (False, True)]
_FLAGS: dict[int, bytes] = {}  # by value: 16 at most, for the table keeps four bits of a birth's flags


def event(
    kind: str,
    order: int,
    time_ns: int,
    task: TaskStruct,
    leader: TaskStruct,
    namespace: PidNamespace,
    say: Details,
    marks: Marks,
) -> bytes:
    """Pack one event.

    Args:
        kind, order, time_ns: of the event.
        task, leader: the task that it is about, and its leader as last told.
        namespace: the subscriber's; the event has the numbers of this namespace.
        say: returns the fields of the kind.
        marks: ``assumed``, ``entered``, or none.
    """
    pid, start_ns, (uid, gid), comm = task.pid, task.start_ns, task.ids, task.comm.rstrip(b"\0")
    count, details = say(task, namespace)
    if marks:
        count, details = count + len(marks), details + _pack(marks)[1:]
    if pid.namespace is namespace:
        tid = pid.numbers[-1]
        tgid = tid if leader is task else leader.pid.number_in(namespace)
        common = _ALL(
            *(_ORDER, order, _TIME, time_ns, _PID, tgid, _TID, tid, _NUMBER, tid),
            *(_START, start_ns, _UID, uid, _GID, gid, _COMM, len(comm)),
        )
        return b"".join((_HEADS[kind][count], common, comm, details))
    numbers = pid.numbers[namespace.level :]
    when = _WHEN_WHO(
        _ORDER, order, _TIME, time_ns, _PID, leader.pid.number_in(namespace), _TID, pid.number_in(namespace)
    )
    what = _WHAT(_START, start_ns, _UID, uid, _GID, gid, _COMM, len(comm))
    return b"".join((_HEADS[kind][count], when, _NUMBERS, _pack(numbers), what, comm, details))


# ---- fields of each kind -------------------------------------------------------------------------------------------


def _entries(said: dict[str, Any], before: Said = (0, b"")) -> Said:
    return before[0] + len(said), before[1] + _pack(said)[1:]


def _born(task: TaskStruct, namespace: PidNamespace) -> Said:
    leader, creator = task.leader, task.creator
    parent, pgid, sid = leader.parent, leader.pgid, leader.sid
    above = parent.pid.number_in(namespace) if parent is not None else 0
    maker = above if creator is parent else thread(creator, namespace)
    signal = task.exit_signal
    flags = _FLAGS.get(task.clone_flags)
    if flags is None:
        flags = _FLAGS[task.clone_flags] = _pack("flags") + _pack(flag_names(task.clone_flags))
    if pgid is None or sid is None:
        ids_known = {"pgid": _known(pgid, namespace), "sid": _known(sid, namespace)}
        said = _entries({"parent": above, "creator": maker, **ids_known, "exit_signal": signal})
        return said[0] + 1, said[1] + flags
    group = pgid.number_in(namespace)
    session = group if sid is pgid else sid.number_in(namespace)
    return 6, _BIRTH(_PARENT, above, _CREATOR, maker, _PGID, group, _SID, session, _SIGNAL, signal) + flags


def birth(task: TaskStruct, namespace: PidNamespace) -> Said:
    """Return the fields of a birth."""
    said, flags = _born(task, namespace), task.flags
    if flags & _SELDOM:
        if flags & STOPPED and not flags & EXITED:  # a thread: its tracer lets a stopped group run on
            said = _entries({"stopped": True}, said)
        if rules.is_kernel_worker(task):
            said = _entries({"kernel": True}, said)
    return said


def presence(task: TaskStruct, namespace: PidNamespace) -> Said:
    """Return the fields of a task whose birth is told late: those of a birth, and the present state."""
    more = {**_state(task), "subreaper": bool(task.leader.flags & SUBREAPER)}
    if rules.is_kernel_worker(task):
        more["kernel"] = True
    return _entries(more, _born(task, namespace))


def execution(old: Pid | None) -> Details:
    """Return the function for an exec by the thread that had this pid object."""

    def say(task: TaskStruct, namespace: PidNamespace) -> Said:
        return 2, _EXEC(_OLD, old.number_in(namespace) if old is not None else 0, _SIGNAL, task.exit_signal)

    return say


def arguments(text: bytes, size: int) -> Details:
    """Return the function for the arguments of an exec.

    Args:
        text: the first bytes of the area, as the exec hook saw them.
        size: bytes of the whole area.
    """

    def say(_task: TaskStruct, _namespace: PidNamespace) -> Said:
        return _entries({"arguments": text, "size": size})

    return say


def _death(task: TaskStruct, _namespace: PidNamespace) -> Said:
    """Return the fields of an exit that leaves threads of the group."""
    return 2, _DEATH(_CODE, task.exit_code) + _DEAD[False]


def _last_death(task: TaskStruct, _namespace: PidNamespace) -> Said:
    """Return the fields of an exit after which no thread of the group is left."""
    return 2, _DEATH(_CODE, task.exit_code) + _DEAD[True]


DEATH: Final[tuple[Details, Details]] = (_death, _last_death)
"""Functions for an exit: the first if threads of the group are left, the second if none is."""


def parent(task: TaskStruct, namespace: PidNamespace) -> Said:
    """Return the fields of a new parent; the exit signal may change with it."""
    return _entries({"parent": thread(task.leader.parent, namespace), "exit_signal": task.exit_signal})


def ids(task: TaskStruct, namespace: PidNamespace) -> Said:
    """Return the fields of a new group or session: both ids."""
    pgid, sid = task.leader.pgid, task.leader.sid
    if pgid is None or sid is None:
        return _entries({"pgid": _known(pgid, namespace), "sid": _known(sid, namespace)})
    return 2, _IDS(_PGID, pgid.number_in(namespace), _SID, sid.number_in(namespace))


def _known(pid: Pid | None, namespace: PidNamespace) -> int | None:
    """Return the number of a group or session in a namespace, 0 if it has none there; None if the table lacks it."""
    return pid.number_in(namespace) if pid is not None else None


def subreaper(task: TaskStruct, _namespace: PidNamespace) -> Said:
    """Return the field of a changed subreaper flag."""
    return _entries({"on": bool(task.leader.flags & SUBREAPER)})


def _state(task: TaskStruct) -> dict[str, Any]:
    exited = bool(task.flags & EXITED)
    stopped = not exited and bool(task.flags & STOPPED)
    return {"stopped": stopped, "exit_code": task.exit_code if exited else None}


def condition(task: TaskStruct, _namespace: PidNamespace) -> Said:
    """Return the fields of a state that no other kind of event has: stopped, exit code, exit signal."""
    return _entries({**_state(task), "exit_signal": task.exit_signal})


def nothing(_task: TaskStruct, _namespace: PidNamespace) -> Said:
    """Return no fields."""
    return 0, b""
