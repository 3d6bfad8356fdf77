# SPDX-License-Identifier: Apache-2.0
"""The facts of a recording: its runs, its gaps, an instant of it, and what a replay of that instant yields.

A *run* is one numbering of records: one loaded kernel side. The numbers begin anew where the kernel side is loaded anew: at
each boot, and after an end of the daemon that left no kernel side behind. So an instant is a run and a number in it.
"""

from dataclasses import dataclass

from agent.record import NamedTuple
from agent.table.processtable import ProcessTable
from agent.table.stream import Stream


class Instant(NamedTuple):
    """A point between two records: all records of the run with smaller numbers have happened, and no other.

    Attributes:
        run: index in `Recording.runs`.
        order: the number of the first record that has not happened.
        time_ns: CLOCK_REALTIME of the last record that has happened, ns.
        boottime_ns: the same by CLOCK_BOOTTIME of that boot, ns. Where gaps without records are at the number, it tells on
            which side of them the instant is; 0: behind them.
        uncertain_ns: bound of the error of both, ns.
        missing: a sentence, where records of before it are missing: then all of this is of the last one that is there.
    """

    run: int
    order: int
    time_ns: int
    boottime_ns: int
    uncertain_ns: int
    missing: str = ""


class Gap(NamedTuple):
    """A part of a run, or between two runs, of which the recording has no records.

    Attributes:
        run: index of the run in which it begins.
        first: the first number that is missing.
        next_run: index of the run in which the recording goes on; that of the last run + 1 where it does not.
        next: the number with which it goes on there.
        from_ns, until_ns: CLOCK_REALTIME of the last record before it and of the first state behind it, ns.
        why: a phrase: ``the writer fell behind``, ``no daemon ran``, ``a block is damaged``, ``a segment is missing``.
    """

    run: int
    first: int
    next_run: int
    next: int
    from_ns: int
    until_ns: int
    why: str


class ClockStep(NamedTuple):
    """A step of a clock, or a suspend of the host.

    Attributes:
        run: index of the run.
        order: the number before which it was found.
        boottime_ns: CLOCK_BOOTTIME at which it was found, ns.
        realtime_by_ns: ns by which CLOCK_REALTIME was set forward; negative: back.
        asleep_ns: ns for which the host was suspended.
    """

    run: int
    order: int
    boottime_ns: int
    realtime_by_ns: int
    asleep_ns: int


class NumberRun(NamedTuple):
    """A numbering of records, as far as the recording has it.

    Attributes:
        boot_id: of the boot.
        ring: the kernel's name of the ring, unique within a boot.
        first, last: the first and the last instant of which the state is known.
        ended: True where the daemon ended in order; False: it goes on, or it was broken off.
    """

    boot_id: str
    ring: str
    first: Instant
    last: Instant
    ended: bool


@dataclass(frozen=True, slots=True)
class Replayed:
    """The state at an instant.

    Attributes:
        instant: the one that was asked for.
        table, stream: as the daemon had them then. `stream.lost` counts since the daemon began.
        is_in_doubt: True where a loss had not been repaired yet.
        reasons: sentences on whatever of the recording around the instant is missing or damaged; empty: nothing is.
    """

    instant: Instant
    table: ProcessTable
    stream: Stream
    is_in_doubt: bool
    reasons: tuple[str, ...]
