# SPDX-License-Identifier: Apache-2.0
"""The daemon's log: priorities for the journal only, and a bound on repeated messages."""

import os
import select
from collections.abc import Iterator

import pytest

from agent.daemon.journal import Journal, Limiter, Priority, is_journal, lines


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Yield the two ends of a pipe."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def stream_of(fd: int) -> str:
    """Return systemd's name of a descriptor."""
    found = os.fstat(fd)
    return f"{found.st_dev}:{found.st_ino}"


def test_each_line_for_the_journal_has_its_priority() -> None:
    """The journal reads line by line."""
    assert lines(Priority.ERROR, "a\n  b", prefixed=True) == [b"<3>a\n", b"<3>  b\n"]
    assert lines(Priority.INFO, "a", prefixed=False) == [b"a\n"]


def test_no_line_is_longer_than_a_pipe_takes_at_once() -> None:
    """A part of a line would run into the next line."""
    for prefixed in (True, False):
        (line,) = lines(Priority.WARNING, "x" * 9000, prefixed=prefixed)
        assert (len(line), line[-1:]) == (select.PIPE_BUF, b"\n")


def test_only_the_descriptor_that_the_journal_named_is_its(pipe: tuple[int, int]) -> None:
    """Standard error may be another file since."""
    _, writer = pipe

    assert is_journal(writer, {"JOURNAL_STREAM": stream_of(writer)})
    assert not is_journal(writer, {"JOURNAL_STREAM": "8:1"})
    assert not is_journal(writer, {})
    assert not is_journal(10_000, {"JOURNAL_STREAM": stream_of(writer)})


def test_a_log_has_prefixes_where_the_journal_reads_it(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A log for people has none."""
    reader, writer = pipe
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    Journal(writer).error("one")
    monkeypatch.setenv("JOURNAL_STREAM", stream_of(writer))
    journal = Journal(writer)
    journal.error("two")
    journal.warning("three")
    journal.notice("four")
    journal.info("five")

    assert os.read(reader, 1000).splitlines() == [
        b"ckptree: one",
        b"<3>ckptree: two",
        b"<4>ckptree: three",
        b"<5>ckptree: four",
        b"<6>ckptree: five",
    ]


def test_a_warning_that_comes_again_is_counted() -> None:
    """The next line that is written has the count of the others."""
    limiter = Limiter(60.0)
    told = [limiter.admit("a", now) for now in (0.0, 1.0, 59.9, 60.0, 61.0)]

    assert told == ["a", None, None, "a (and 2 more like it since)", None]
    assert limiter.admit("b", 61.0) == "b"


def test_what_does_not_come_again_is_told_all_the_same() -> None:
    """It is told once. A message that came once has no count."""
    limiter = Limiter(60.0)
    for now in (0.0, 1.0, 2.0):
        limiter.admit("a", now)
    limiter.admit("b", 3.0)

    assert limiter.due(59.0) == []
    assert limiter.due(100.0) == ["a (and 2 more like it since)"]
    assert limiter.due(100.0) == []
    assert limiter.due(220.0) == []
    assert limiter.admit("a", 221.0) == "a"


def test_a_warning_that_goes_on_to_come_is_written_ever_more_seldom() -> None:
    """A storm of a day is some thirty lines, not one a minute. Each line counts those before it; quiet is forgotten."""
    limiter = Limiter(60.0)
    written = []
    for now in range(1, 86400, 2):
        written += [(now, line) for line in (limiter.admit("a", now), *limiter.due(now)) if line is not None]

    assert [now for now, _ in written[:5]] == [1, 61, 181, 421, 901]
    assert [line for _, line in written[:3]] == [
        "a",
        "a (and 29 more like it since)",
        "a (and 59 more like it since)",
    ]
    assert len(written) == 28
    assert len(limiter.due(90_000.0)) == 1
    assert limiter.due(200_000.0) == []
    assert limiter.admit("a", 200_000.0) == "a"


def test_different_warnings_do_not_fill_the_memory() -> None:
    """The oldest message is forgotten first."""
    limiter = Limiter(60.0)
    for number in range(101):
        assert limiter.admit(str(number), 0.0) is not None

    assert limiter.admit("0", 1.0) == "0"
    assert limiter.admit("50", 1.0) is None


def test_a_reader_that_has_stopped_stops_nobody(pipe: tuple[int, int]) -> None:
    """Lines without room are counted."""
    reader, writer = pipe
    journal = Journal(writer)
    for _ in range(2000):
        journal.info("x" * 100)

    assert journal.dropped > 0
    whole = os.read(reader, 1 << 20)
    assert whole.count(b"\n") + journal.dropped == 2000
    journal.info("again")
    assert os.read(reader, 1000) == b"ckptree: again\n"


def test_a_warning_is_written_once_and_its_count_later(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is monotonic."""
    reader, writer = pipe
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    journal = Journal(writer)
    journal.warning("lost")
    journal.warning("lost")
    journal.tend()
    now = 60.0
    journal.tend()

    assert os.read(reader, 1000) == b"ckptree: lost\nckptree: lost (and 1 more like it since)\n"
