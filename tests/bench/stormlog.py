# SPDX-License-Identifier: Apache-2.0
"""The storm's log, read after the storm: every task's life as intervals of CLOCK_BOOTTIME.

Theory ------ The log (storm_log.h) has the times of each request and of its answer. So a life has a time from which its
task *may* be seen (``birth_lo``) and one from which it *must* be (``birth_hi``); likewise at its end (``must_end``,
``gone_hi``). An event that no process lived to log has open bounds: a judge may be too mild, never too hard.
"""

import ctypes as ct
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

ALWAYS = (1 << 63) - 1
"""A time later than every stamp, in ns."""

LIFE_FIELDS = (
    *((name, ct.c_uint64) for name in ("birth_lo", "birth_child", "birth_parent", "death_lo", "zombie_hi", "reap_lo")),
    *((name, ct.c_uint64) for name in ("gone_hi", "setsid_lo", "setsid_hi", "setpgid_lo", "setpgid_hi")),
    *((name, ct.c_uint64) for name in ("moved_lo", "moved_hi", "exec_lo", "exec_hi")),
    *((name, ct.c_uint32) for name in ("kind",)),
    *((name, ct.c_int32) for name in ("tid", "tgid")),
    *((name, ct.c_uint32) for name in ("parent", "leader")),
    *((name, ct.c_int32) for name in ("sid", "pgid", "new_pgid")),
    *((name, ct.c_uint32) for name in ("heir", "pad")),
)
_LIFE = struct.Struct("<15QIiiIIiiiII")
_HEAD = struct.Struct("<QIIIIQ")
_MAGIC = 0x676F4C6D726F7453


class Kind(IntEnum):
    """The kind of a task, as in storm_log.h."""

    VOID = 0
    ROOT = 1
    HOLDER = 2
    IDLE = 3
    WORKER = 4
    PROCESS = 5
    VFORK = 6
    THREAD = 7
    ORPHAN = 8
    AUTOREAP = 9
    KILLED = 10
    INIT = 11
    INNER = 12


class Change(NamedTuple):
    """A change of session or group at some moment between lo and hi."""

    lo: int
    hi: int
    value: int


class Life(NamedTuple):
    """One task of the storm. All times are ns of CLOCK_BOOTTIME; ALWAYS where there is no end.

    Attributes:
        tid, tgid: numbers in the namespace of the storm's root, like all others here.
        kind: the kind of task.
        parent: index of the life of its first parent's leader; its own index for the root.
        leader: index of the life of its group's leader.
        birth_lo, birth_hi: it may be seen from, must be seen from.
        must_end: until here it must be seen, alive or zombie.
        gone_hi: from here on it must not be seen.
        death_lo: no zombie before this; ALWAYS for one that did not die.
        zombie_hi: a zombie, or gone, from here on.
        exec_lo, exec_hi: the exec in between may have made the leader look dead for a moment; both ALWAYS where none.
        sid, pgid: at birth.
        sids, pgids: later changes.
        heir: index of the life that is its parent once the first one is dead; and when that is dead too, the root is.
    """

    tid: int
    tgid: int
    kind: Kind
    parent: int
    leader: int
    birth_lo: int
    birth_hi: int
    must_end: int
    gone_hi: int
    death_lo: int = ALWAYS
    zombie_hi: int = ALWAYS
    exec_lo: int = ALWAYS
    exec_hi: int = ALWAYS
    sid: int = 0
    pgid: int = 0
    sids: tuple[Change, ...] = ()
    pgids: tuple[Change, ...] = ()
    heir: int = 0


@dataclass(frozen=True, slots=True)
class StormLog:
    """A parsed log.

    Attributes:
        lives: by index, None where a clone() failed or the task never told its number.
        stop_ns: nothing captured after this can be judged.
    """

    lives: tuple[Life | None, ...]
    stop_ns: int


def _changes(tid: int, new_pgid: int, stamps: tuple[int, ...]) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """Return the changes of session and group from setsid_lo .. moved_hi. Parent and child may both ask for the same
    group.
    """
    setsid_lo, setsid_hi, setpgid_lo, setpgid_hi, moved_lo, moved_hi = stamps
    sids: tuple[Change, ...] = ()
    pgids: tuple[Change, ...] = ()
    if setpgid_lo or moved_lo:
        lo = min(t for t in (setpgid_lo, moved_lo) if t)
        hi = min((t for t in (setpgid_hi, moved_hi) if t), default=ALWAYS)
        pgids = (Change(lo, hi, new_pgid),)
    if setsid_lo:
        sids = (Change(setsid_lo, setsid_hi or ALWAYS, tid),)
        pgids = (*pgids, *sids)
    return sids, pgids


def _life(fields: tuple[int, ...], leader_fields: tuple[int, ...], parent_fields: tuple[int, ...]) -> Life | None:
    """Return one life. A thread that dies with its group ends as its leader does, a member of a namespace as
    its init.
    """
    birth_lo, birth_child, birth_parent, death_lo, zombie_hi, reap_lo, gone_hi = fields[:7]
    exec_lo, exec_hi, number, tid, tgid, parent, leader, sid, pgid, new_pgid, heir, _ = fields[13:]
    kind = Kind(number)
    if kind is Kind.VOID or not tid:
        return None
    if kind is Kind.THREAD:
        tgid = leader_fields[_TID]
        took_along = [t for t in (leader_fields[_EXEC_LO], leader_fields[_DEATH_LO]) if t > birth_lo]
        death_lo = death_lo or min(took_along, default=0)
        # An exec takes the other threads along before it returns; a leader is reaped after the last thread is gone.
        exec_hi = leader_fields[_EXEC_HI]
        gone_hi = gone_hi or (exec_hi if exec_hi > death_lo > 0 else leader_fields[_GONE_HI])
        exec_lo = exec_hi = 0
    waited_for = kind not in {Kind.THREAD, Kind.AUTOREAP}
    must_end = (max(death_lo, reap_lo) if reap_lo else ALWAYS) if waited_for else death_lo or ALWAYS
    if kind is Kind.INNER and not reap_lo:
        # Linux: zap_pid_ns_processes() kills and reaps all that are left, and only then can the init be waited for.
        must_end = parent_fields[_DEATH_LO] or ALWAYS
        death_lo = death_lo or parent_fields[_DEATH_LO]
        gone_hi = gone_hi or parent_fields[_GONE_HI]
    sids, pgids = ((), ()) if kind is Kind.THREAD else _changes(tid, new_pgid, fields[7:13])
    return Life(
        tid,
        tgid,
        kind,
        parent,
        leader,
        0 if kind is Kind.ROOT else birth_lo,  # the root began before it could write
        min((t for t in (birth_child, birth_parent) if t), default=ALWAYS),
        must_end,
        gone_hi or ALWAYS,
        death_lo or ALWAYS,
        zombie_hi or gone_hi or ALWAYS,
        exec_lo or ALWAYS,
        (exec_hi or ALWAYS) if exec_lo else ALWAYS,
        sid,
        pgid,
        sids,
        pgids,
        heir,
    )


_NAMES = [name for name, _ in LIFE_FIELDS]
_TID, _DEATH_LO, _GONE_HI = _NAMES.index("tid"), _NAMES.index("death_lo"), _NAMES.index("gone_hi")
_EXEC_LO, _EXEC_HI = _NAMES.index("exec_lo"), _NAMES.index("exec_hi")
_LEADER, _PARENT = _NAMES.index("leader"), _NAMES.index("parent")


def read_log(path: Path) -> StormLog:
    """Read the log of a storm that has ended."""
    with path.open("rb") as file:  # most of the file is a hole: read the part in use
        magic, life_size, offset, capacity, taken, stop_ns = _HEAD.unpack(file.read(_HEAD.size))
        if magic != _MAGIC or life_size != _LIFE.size:
            raise ValueError(f"{path} is no log of this storm")
        file.seek(offset)
        raw = list(_LIFE.iter_unpack(file.read(min(taken, capacity) * life_size)))
    lives = (_life(fields, raw[fields[_LEADER]], raw[fields[_PARENT]]) for fields in raw)
    return StormLog(tuple(lives), stop_ns or ALWAYS)
