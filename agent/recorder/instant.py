# SPDX-License-Identifier: Apache-2.0
"""The syntax of TIME, the name of a point in time of a recording. No clock: the caller says what time it is.

TIME      = date ("T" | " ") clock [offset]      local without an offset
          | clock                                the last one, local
          | "-" digits ["." digits] unit         so long ago; unit: s, m, h or d
          | "#" digits                           just before the record of this number
clock     = hh ":" mm [":" ss [("." | ",") digits]]        at most nine digits
offset    = "Z" | ("+" | "-") hh [[":"] mm]
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Final, TypeAlias

from agent.errors import UsageError
from agent.record import NamedTuple

NS_PER_S: Final = 1_000_000_000
MOST_NS: Final = 2**63 - 1
"""The last CLOCK_REALTIME that an image can hold, ns; of the year 2262."""
_MOST_NUMBER: Final = 2**64 - 1
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_CLOCK: Final = r"(?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:[.,](?P<fraction>\d{1,9}))?)?"
_DATED: Final = re.compile(
    rf"(?P<year>\d{{4}})-(?P<month>\d\d)-(?P<day>\d\d)[T ]{_CLOCK}(?P<offset>Z|[+-]\d\d(?::?\d\d)?)?", re.ASCII
)
_DAILY: Final = re.compile(_CLOCK, re.ASCII)
_AGO: Final = re.compile(r"-(?P<amount>\d{1,12}(?:\.\d{1,9})?)(?P<unit>[smhd])", re.ASCII)
_NUMBER: Final = re.compile(r"#(?P<number>\d{1,20})", re.ASCII)
_EXPECTED: Final = (
    "expected 2026-01-31T03:12:07.250 (local, or with an offset or Z), 03:12:07 or 03:12 (the last one), "
    "-30s (s, m, h or d ago), or '#NUMBER' (of a record)"
)


class RecordNumber(NamedTuple):
    """The instant at which all records below a number are applied, and no others.

    Attributes:
        order: the number.
    """

    order: int

    def __str__(self) -> str:
        return f"#{self.order}"


class ClockTime(NamedTuple):
    """An instant by the clock.

    Attributes:
        realtime_ns: CLOCK_REALTIME, ns.
    """

    realtime_ns: int

    def __str__(self) -> str:
        return written(self.realtime_ns)


Time: TypeAlias = RecordNumber | ClockTime


def parse(text: str, now_ns: int, last_ns: int | None = None, zone: tzinfo | None = None) -> Time:
    """Read a TIME.

    Args:
        text: the TIME.
        now_ns: CLOCK_REALTIME, ns.
        last_ns: the end of the recording, CLOCK_REALTIME, ns: a time of day is the last one up to it; None: now.
        zone: of local times; None: that of the system.

    Raises:
        UsageError: the text is no TIME, or a local time that the zone's clocks skip or show twice.
    """
    if found := _NUMBER.fullmatch(text):
        order = int(found["number"])
        if order > _MOST_NUMBER:
            raise _wrong(text, f"the number of a record is at most {_MOST_NUMBER}")
        return RecordNumber(order)
    if found := _AGO.fullmatch(text):
        whole, _, part = found["amount"].partition(".")
        amount_ns = int(whole) * NS_PER_S + int(part.ljust(9, "0"))
        return _moment(text, now_ns - amount_ns * _UNITS[found["unit"]])
    if found := _DATED.fullmatch(text):
        return _moment(text, _dated(text, found, zone))
    if found := _DAILY.fullmatch(text):
        end_ns = now_ns if last_ns is None else min(now_ns, last_ns)
        return _moment(text, _daily(text, found, end_ns, zone))
    raise _wrong(text, _EXPECTED)


def is_daily(text: str) -> bool:
    """Return True if a TIME is a time of day, without a date."""
    return _DAILY.fullmatch(text) is not None


def said_point(time: Time) -> dict[str, int]:
    """Return a TIME as the daemon's protocol has it."""
    return {"order": time.order} if isinstance(time, RecordNumber) else {"time_ns": time.realtime_ns}


def written(realtime_ns: int, zone: tzinfo | None = UTC) -> str:
    """Return a CLOCK_REALTIME, ns, as a TIME with all digits that it needs.

    Args:
        realtime_ns: the time.
        zone: the offset to write is that of this zone; None: of the system's.
    """
    seconds, rest = divmod(realtime_ns, NS_PER_S)
    at = (_EPOCH + timedelta(seconds=seconds)).astimezone(zone)
    offset = "Z" if zone is UTC else at.isoformat()[19:]
    fraction = f".{rest:09}".rstrip("0") if rest else ""
    return f"{at:%Y-%m-%dT%H:%M:%S}{fraction}{offset}"


def _dated(text: str, found: re.Match[str], zone: tzinfo | None) -> int:
    year, month, day, hour, minute, second = [
        int(found[part] or 0) for part in ("year", "month", "day", "hour", "minute", "second")
    ]
    try:
        naive = datetime(year, month, day, hour, minute, second)  # noqa: DTZ001 - it gets its offset below
    except ValueError as error:
        raise _wrong(text, f"{error}; {_EXPECTED}") from error
    if found["offset"] is not None:
        return _epoch_ns(naive.replace(tzinfo=_offset(text, found["offset"])), found["fraction"])
    known = sorted(set(_local(naive, zone)))
    if not known:
        raise _wrong(text, "the clocks of this time zone skip it: give an offset, as in +02:00, or Z")
    if len(known) > 1:
        both = " or ".join(written(time_ns + _fraction(found["fraction"]), zone) for time_ns in known)
        raise _wrong(text, f"the clocks of this time zone show it twice: {both}")
    return known[0] + _fraction(found["fraction"])


def _daily(text: str, found: re.Match[str], end_ns: int, zone: tzinfo | None) -> int:
    """Return the last time up to `end_ns` at which local clocks show a time of day."""
    fraction = _fraction(found["fraction"])
    day = (_EPOCH + timedelta(seconds=end_ns // NS_PER_S)).astimezone(zone).replace(tzinfo=None)
    try:
        clock = day.replace(
            hour=int(found["hour"]),
            minute=int(found["minute"]),
            second=int(found["second"] or 0),
            microsecond=0,
            fold=0,
        )
    except ValueError as error:
        raise _wrong(text, f"{error}; {_EXPECTED}") from error
    times = [
        time_ns + fraction for back in range(-1, 4) for time_ns in _local(clock - timedelta(days=back), zone)
    ]  # a clock that is put forward skips it on one day; a zone that crosses the date line skips a day
    return max([time_ns for time_ns in times if time_ns <= end_ns], default=-1)


def _local(naive: datetime, zone: tzinfo | None) -> Iterator[int]:
    """Yield the times at which local clocks show this: none where they skip it, two where they are set back."""
    for fold in (0, 1):
        at = naive.replace(fold=fold)
        try:
            aware = at.astimezone() if zone is None else at.replace(tzinfo=zone)
            utc = aware.astimezone(UTC)
            if utc.astimezone(zone).replace(tzinfo=None, fold=0) == naive:
                yield _epoch_ns(utc, None)
        except (OverflowError, ValueError, OSError):  # before the year 1 or after 9999
            return


def _offset(text: str, offset: str) -> timezone:
    if offset == "Z":
        return UTC
    hours, minutes = int(offset[1:3]), int(offset[3:].removeprefix(":") or 0)
    if hours > 23 or minutes > 59:
        raise _wrong(text, f"no offset is {offset}; {_EXPECTED}")
    shift = timedelta(hours=hours, minutes=minutes)
    return timezone(-shift if offset[0] == "-" else shift)


def _epoch_ns(at: datetime, fraction: str | None) -> int:
    since = at - _EPOCH
    return (since.days * 86400 + since.seconds) * NS_PER_S + _fraction(fraction)


def _fraction(digits: str | None) -> int:
    return int((digits or "0").ljust(9, "0"))


def _moment(text: str, realtime_ns: int) -> ClockTime:
    if not 0 <= realtime_ns <= MOST_NS:
        raise _wrong(text, "it is before 1970 or after 2262, where no clock of a recording is")
    return ClockTime(realtime_ns)


def _wrong(text: str, why: str) -> UsageError:
    shown = text if len(text) < 60 else text[:60] + "..."
    return UsageError(f"TIME {shown!r}: {why}")
