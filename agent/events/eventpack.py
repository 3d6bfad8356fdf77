# SPDX-License-Identifier: Apache-2.0
"""Events as bytes: the fields of each kind, in msgpack.

A task's life has four events, and a host may have thousands of births a second. So one struct packs the fields that
nearly all events have, with their names; the others are packed as a map, whose head is removed.
"""

import struct
from collections.abc import Callable
from typing import Any, Final

import msgpack

from agent.events.eventfacts import Facts, Marks, Name, thread
from agent.events.subscriber import ARGUMENTS, KINDS
from agent.selection.births import flag_names
from agent.table import rules
from agent.table.objects import EXITED, IO_WORKER, KERNEL, STOPPED, SUBREAPER, Pid, PidNamespace, TaskStruct

Said = tuple[int, bytes]
"""The count of a map's entries, and the entries packed."""
Details = Callable[[TaskStruct, PidNamespace], Said]
"""A function that returns the fields of a kind of event."""

_pack: Final = msgpack.Packer().pack
_COMMON: Final = 10  # entries that every event has
_MOST: Final = 15  # further entries; also the most entries of a map whose head is one byte
_SELDOM: Final = STOPPED | KERNEL | IO_WORKER

_ORDER: Final[bytes] = _pack("order") + b"\xcf"


def _head(kind: str, entries: int) -> bytes:
    packer = msgpack.Packer(autoreset=False)
    packer.pack_map_header(entries)
    packer.pack("event")
    packer.pack(kind)
    head: bytes = packer.bytes()
    return head + _ORDER


_HEADS: Final[dict[str, list[bytes]]] = {
    kind: [_head(kind, _COMMON + more) for more in range(_MOST + 1)] for kind in (*KINDS, ARGUMENTS)
}


def _row(codes: str, *names: bytes) -> Callable[..., bytes]:
    """Return a function that packs values, each behind its name and the byte of its type."""
    return struct.Struct(">" + "".join(f"{len(name)}s{code}" for name, code in zip(names, codes, strict=True))).pack


# Names with the type bytes of integers of four and eight bytes, unsigned and signed, and of at most 255 bytes. Each is
# final by itself: the compiled form then finds it without a dictionary.
_PID: Final = _pack("pid") + b"\xce"
_TID: Final = _pack("tid") + b"\xce"
_UID: Final = _pack("uid") + b"\xce"
_GID: Final = _pack("gid") + b"\xce"
_CODE: Final = _pack("exit_code") + b"\xce"
_PARENT: Final = _pack("parent") + b"\xce"
_CREATOR: Final = _pack("creator") + b"\xce"
_PGID: Final = _pack("pgid") + b"\xce"
_SID: Final = _pack("sid") + b"\xce"
_OLD: Final = _pack("old_tid") + b"\xce"
_START: Final = _pack("start_ns") + b"\xcf"
_SIGNAL: Final = _pack("exit_signal") + b"\xd2"
_TIME: Final = _pack("time_ns") + b"\xd3"  # a clock that was set back may be behind the time since boot
_COMM: Final = _pack("comm") + b"\xc4"
_NUMBERS: Final = _pack("numbers")
_NUMBER: Final = _pack("numbers") + b"\x91\xce"  # an array of one
_WHEN: Final = struct.Struct(f">Q{len(_TIME)}sq").pack  # behind _ORDER
_WHO: Final = _row("II", _PID, _TID)
_WHAT: Final = _row("QIIB", _START, _UID, _GID, _COMM)
_NAME: Final = _row("IIIQIIB", _PID, _TID, _NUMBER, _START, _UID, _GID, _COMM)
_BIRTH: Final = _row("IIIIi", _PARENT, _CREATOR, _PGID, _SID, _SIGNAL)
_EXEC: Final = _row("Ii", _OLD, _SIGNAL)
_DEATH: Final = _row("I", _CODE)
_IDS: Final = _row("II", _PGID, _SID)
_LEFT: Final = _pack({"group_dead": False})[1:]
_DEAD: Final = _pack({"group_dead": True})[1:]
_UNKNOWN: Final = _pack("exit_code") + _pack(None)  # nothing has told how it ended
_WELL: Final[Said] = (2, _DEATH(_CODE, 0) + _DEAD)  # most tasks end well
_FLAGS: Final[dict[int, bytes]] = {}  # by value: 16 at most, for the table keeps four bits of a birth's flags


def event(
    kind: str,
    order: int,
    time_ns: int,
    task: TaskStruct,
    leader: TaskStruct,
    namespace: PidNamespace,
    say: Details,
    marks: Marks,
    facts: Facts | None = None,
) -> bytes:
    """Pack one event.

    Args:
        kind, order, time_ns: of the event.
        task, leader: the task that it is about, and its leader as last told.
        namespace: the subscriber's; the event has the numbers of this namespace.
        say: returns the fields of the kind.
        marks: ``assumed``, ``entered``, or none.
        facts: of the task: they keep the part that names it, for its further events.
    """
    count, details = say(task, namespace)
    if marks:
        count, details = count + len(marks), details + _pack(marks)[1:]
    if facts is None or leader is not task:
        name = _name(task, leader, namespace)
    elif (kept := facts.name) is not None and kept.fits(task, namespace):
        name = kept.packed
    else:
        name = _name(task, leader, namespace)
        facts.name = Name(namespace, task.start_ns, task.ids, task.comm, name)
    return b"".join((_HEADS[kind][count], _WHEN(order, _TIME, time_ns), name, details))


def _name(task: TaskStruct, leader: TaskStruct, namespace: PidNamespace) -> bytes:
    """Pack the part of an event that says which task it is about."""
    pid = task.pid
    uid, gid = task.ids
    comm = task.comm.rstrip(b"\0")
    if pid.namespace is namespace:
        tid = pid.numbers[-1]
        tgid = tid if leader is task else leader.pid.number_in(namespace)
        start_ns, size = task.start_ns, len(comm)
        row = _NAME(_PID, tgid, _TID, tid, _NUMBER, tid, _START, start_ns, _UID, uid, _GID, gid, _COMM, size)
        return row + comm
    numbers: bytes = _pack(pid.numbers[namespace.level :])
    who = _WHO(_PID, leader.pid.number_in(namespace), _TID, pid.number_in(namespace))
    what = _WHAT(_START, task.start_ns, _UID, uid, _GID, gid, _COMM, len(comm))
    return b"".join((who, _NUMBERS, numbers, what, comm))


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
        number = old.number_in(namespace) if old is not None else 0
        return 2, _EXEC(_OLD, number, _SIGNAL, task.exit_signal)

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
    return 2, _status(task) + _LEFT


def _last_death(task: TaskStruct, _namespace: PidNamespace) -> Said:
    """Return the fields of an exit after which no thread of the group is left."""
    if not task.exit_code and task.flags & EXITED:
        return _WELL
    return 2, _status(task) + _DEAD


def _status(task: TaskStruct) -> bytes:
    """Return the wait status of a task that has ended; null where it is gone and no record has told its exit."""
    return _DEATH(_CODE, task.exit_code) if task.flags & EXITED else _UNKNOWN


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
