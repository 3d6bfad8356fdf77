# SPDX-License-Identifier: Apache-2.0
"""TIME as text: the meaning of each spelling, at any hour in any time zone, and invalid spellings."""

from datetime import UTC, datetime, time, timedelta, timezone
from time import tzset
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import UsageError
from agent.recorder.instant import MOST_NS, NS_PER_S, ClockTime, RecordNumber, parse, written
from tests.support.examples import patient

BERLIN = ZoneInfo("Europe/Berlin")
ZONES = st.sampled_from(
    [UTC, BERLIN, ZoneInfo("America/St_Johns"), ZoneInfo("Pacific/Apia"), timezone(timedelta(hours=-11))]
)
TIMES = st.integers(0, MOST_NS)


def at(text: str) -> int:
    """Return the CLOCK_REALTIME of an ISO time with an offset, ns."""
    return int(datetime.fromisoformat(text).timestamp()) * NS_PER_S


NOW = at("2026-01-31T12:00:00+00:00")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("#0", RecordNumber(0)),
        ("#184467", RecordNumber(184467)),
        (f"#{2**64 - 1}", RecordNumber(2**64 - 1)),
        ("-0s", ClockTime(NOW)),
        ("-30s", ClockTime(NOW - 30 * NS_PER_S)),
        ("-0.25s", ClockTime(NOW - NS_PER_S // 4)),
        ("-90m", ClockTime(NOW - 5400 * NS_PER_S)),
        ("-1.5h", ClockTime(NOW - 5400 * NS_PER_S)),
        ("-2d", ClockTime(NOW - 172800 * NS_PER_S)),
        ("2026-01-31T03:12:07.250", ClockTime(at("2026-01-31T03:12:07+01:00") + NS_PER_S // 4)),
        ("2026-01-31 03:12:07,25", ClockTime(at("2026-01-31T03:12:07+01:00") + NS_PER_S // 4)),
        ("2026-01-31T03:12", ClockTime(at("2026-01-31T03:12:00+01:00"))),
        ("2026-07-31T03:12:07", ClockTime(at("2026-07-31T03:12:07+02:00"))),
        ("2026-01-31T03:12:07.000000001Z", ClockTime(at("2026-01-31T03:12:07+00:00") + 1)),
        ("2026-01-31T03:12:07-0330", ClockTime(at("2026-01-31T03:12:07-03:30"))),
        ("2026-01-31T03:12:07+05:45", ClockTime(at("2026-01-31T03:12:07+05:45"))),
        ("2026-01-31T03:12:07+09", ClockTime(at("2026-01-31T03:12:07+09:00"))),
        ("03:12:07", ClockTime(at("2026-01-31T03:12:07+01:00"))),
        ("13:00", ClockTime(at("2026-01-31T13:00:00+01:00"))),
        ("13:00:00.000000001", ClockTime(at("2026-01-30T13:00:00+01:00") + 1)),
        ("23:59", ClockTime(at("2026-01-30T23:59:00+01:00"))),
    ],
)
def test_each_spelling_has_one_meaning(text: str, meant: RecordNumber | ClockTime) -> None:
    """It is noon in Greenwich, and one o'clock in Berlin."""
    assert parse(text, NOW, zone=BERLIN) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected 2026-01-31T03:12:07.250"),
        ("now", "'#NUMBER'"),
        ("30s", "-30s"),
        ("-30", "s, m, h or d ago"),
        ("-30w", "s, m, h or d ago"),
        ("- 30s", "s, m, h or d ago"),
        ("#", "'#NUMBER'"),
        ("#-1", "'#NUMBER'"),
        ("#0x10", "'#NUMBER'"),
        (f"#{2**64}", "at most 18446744073709551615"),
        ("2026-01-31", "expected 2026"),
        ("2026-02-30T00:00:00", "day"),
        ("2026-01-31T24:00:00", "hour must be in 0..23"),
        ("2026-01-31T00:00:60", "second must be in 0..59"),
        ("2026-01-31T00:00:00.", "expected 2026"),
        ("2026-01-31T00:00:00.1234567890", "expected 2026"),
        ("2026-01-31T00:00:00+24:00", "no offset is +24:00"),
        ("2026-01-31T00:00:00 CET", "expected 2026"),
        ("24:00:00", "hour must be in 0..23"),
        ("3:12:07", "expected 2026"),
        ("٠٣:12:07", "expected 2026"),
        ("-100000d", "before 1970"),
        ("1969-12-31T23:59:59Z", "before 1970"),
        ("2263-01-01T00:00:00Z", "after 2262"),
        ("0001-01-01T00:00:00", "skip it"),
        ("0001-01-01T00:00:00+12:00", "before 1970"),
        ("2026-03-29T02:30:00", "skip it: give an offset"),
        ("2026-10-25T02:30:00.5", "twice: 2026-10-25T02:30:00.5+02:00 or 2026-10-25T02:30:00.5+01:00"),
        ("x" * 5000, "x..."),
    ],
)
def test_an_invalid_spelling_is_refused_with_what_is_right(text: str, said: str) -> None:
    """Berlin has no half past two on one Sunday of March, and two of October."""
    with pytest.raises(UsageError) as caught:
        parse(text, NOW, zone=BERLIN)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 400


@given(TIMES, ZONES)
@patient
def test_a_time_that_is_written_is_read_as_itself(time_ns: int, zone: timezone) -> None:
    """With the offset that `written` gives, no zone's clocks are ambiguous; an offset with seconds is none of ours."""
    text = written(time_ns, zone)
    if text[-3] == ":" or text.endswith("Z"):
        assert parse(text, NOW, zone=BERLIN) == ClockTime(time_ns)
    assert parse(str(ClockTime(time_ns)), NOW, zone=zone) == ClockTime(time_ns)


@given(st.integers(at("1971-01-01T00:00:00+00:00"), at("2200-01-01T00:00:00+00:00")), ZONES, st.times())
@patient
def test_a_time_of_day_is_the_last_one_up_to_the_end(end_ns: int, zone: timezone, clock: time) -> None:
    """Local clocks show it then, and do not show it again before the end."""
    found = parse(f"{clock:%H:%M:%S.%f}", MOST_NS, end_ns, zone)
    assert isinstance(found, ClockTime)
    time_ns = found.realtime_ns
    assert end_ns - 3 * 86400 * NS_PER_S < time_ns <= end_ns
    assert shown(time_ns, zone) == clock
    for later_ns in range(time_ns + 900 * NS_PER_S, end_ns + 1, 900 * NS_PER_S):  # no zone moves by less
        assert shown(later_ns, zone) != clock


def shown(time_ns: int, zone: timezone) -> time:
    """Return what the clocks of a zone show, to the microsecond."""
    seconds, rest = divmod(time_ns, NS_PER_S)
    return (datetime.fromtimestamp(seconds, zone) + timedelta(microseconds=rest // 1000)).time()


@given(TIMES, TIMES)
@patient
def test_a_time_of_day_is_never_later_than_now(now_ns: int, last_ns: int) -> None:
    """The recording of a host whose clock is ahead ends after this host's now."""
    found = [parse("00:00", now_ns, last_ns, UTC)] if min(now_ns, last_ns) >= 86400 * NS_PER_S else []
    assert all(each.realtime_ns <= min(now_ns, last_ns) for each in found if isinstance(each, ClockTime))


@given(st.text(st.sampled_from("0123456789-:.,T Z+#smhd"), max_size=40))
@patient
def test_any_text_has_a_meaning_or_is_refused(text: str) -> None:
    """No text makes another error, and no error is silent about its text."""
    said = ""
    try:
        found = parse(text, NOW, zone=BERLIN)
    except UsageError as error:
        said = str(error)
    if said:
        assert said.startswith(f"TIME {text!r}: ")
    else:
        assert isinstance(found, RecordNumber) or 0 <= found.realtime_ns <= MOST_NS


def test_without_a_zone_the_systems_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recording is read where its reader is."""
    try:
        monkeypatch.setenv("TZ", "America/New_York")
        tzset()
        assert parse("2026-01-31T03:12:07", NOW) == ClockTime(at("2026-01-31T03:12:07-05:00"))
        assert parse("03:12:07", NOW) == ClockTime(at("2026-01-31T03:12:07-05:00"))
        assert written(NOW, None) == "2026-01-31T07:00:00-05:00"
    finally:
        monkeypatch.undo()
        tzset()
