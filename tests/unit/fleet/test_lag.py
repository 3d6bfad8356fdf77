# SPDX-License-Identifier: Apache-2.0
"""The distance of a stand-by from its host, as pulses and what is held make it."""

from typing import Any

import pytest

from agent.fleet import lag
from agent.fleet.holder import Held
from agent.fleet.lag import Behind, Lag
from agent.fleet.tapemessages import Pulse
from agent.recorder.foldertail import CopyPlace

S = 1_000_000_000
SEGMENT = b"s" * 16


def held(order: int, time_ns: int = 0, numbering: str = "boot ring") -> Held:
    """Return what is held up to a record."""
    return Held(order, time_ns, numbering, "file", "")


def pulse(at_ns: int, following: int | None, segment: bytes = SEGMENT) -> Pulse:
    """Return a pulse."""
    return Pulse(at_ns, CopyPlace(segment, 100), following)


def test_before_the_first_word_nothing_is_known() -> None:
    """Neither how far it is behind, nor since when the host is silent."""
    found = Lag()
    found.have(held(5), SEGMENT)

    assert found.behind(10.0) == Behind(None, None, None)


def test_records_are_counted_and_the_oldest_has_an_age() -> None:
    """The last record that is held was at 7 s; the first of the ten that are missing came later."""
    found = Lag()
    found.have(held(90, 7 * S), SEGMENT)
    found.hear(pulse(9 * S, 100), 50.0)

    assert found.behind(50.5) == Behind(10, 2.0, 0.5)


def test_a_host_that_was_quiet_for_long_makes_no_record_old() -> None:
    """A word at 99 s said that there was nothing more then."""
    found = Lag()
    found.have(held(90, 7 * S), SEGMENT)
    found.hear(pulse(99 * S, 90), 50.0)
    assert found.behind(50.0) == Behind(0, 0.0, 0.0)
    found.hear(pulse(100 * S, 91), 51.0)

    assert found.behind(51.0) == Behind(1, 1.0, 0.0)


def test_a_word_counts_once_all_that_it_tells_of_has_come() -> None:
    """Words wait in their order."""
    found = Lag()
    found.have(held(80, 1 * S), SEGMENT)
    for second, following in ((10, 90), (11, 95), (12, 100)):
        found.hear(pulse(second * S, following), float(second))
    found.have(held(95, 2 * S), SEGMENT)

    assert found.behind(12.0) == Behind(5, 1.0, 0.0)


@pytest.mark.parametrize("said", [pulse(S, None), pulse(S, 100, b"o" * 16)])
def test_numbers_of_another_segment_or_of_no_daemon_are_not_compared(said: Pulse) -> None:
    """They may be those of another boot."""
    found = Lag()
    found.have(held(90), SEGMENT)
    found.hear(said, 1.0)

    assert found.behind(3.0) == Behind(None, None, 2.0)


def test_a_new_numbering_forgets_the_words_of_the_old_one() -> None:
    """Else a small number would count as far behind."""
    found = Lag()
    found.have(held(90, 0, "boot old"), SEGMENT)
    found.hear(pulse(5 * S, 100), 1.0)
    found.have(held(3, 6 * S, "boot new"), b"n" * 16)
    found.hear(pulse(8 * S, 5, b"n" * 16), 2.0)

    assert found.behind(2.0) == Behind(2, 2.0, 0.0)
    assert found.told(2.0)["have"] == 2


def told(**changes: Any) -> dict[str, Any]:
    """Return what a stand-by says, with some changes."""
    counts = dict.fromkeys(("bytes", "segments", "gaps", "left_out"), 0)
    return {"host": "new", "of": "old", "root": "1", "error": "", **counts, **Lag().told(0.0), **changes}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "has nothing yet"),
        (
            {"have": 7, "behind_records": 3, "behind_s": 0.25, "silent_s": 0.5},
            "has #7, behind 0.2 s, 3 records",
        ),
        (
            {"have": 7, "silent_s": 61.0, "gap": "a gap"},
            "has #7, how far behind is not known, the host is silent for 61 s, a gap",
        ),
        (
            {"have": 7, "behind_records": 0, "behind_s": 0.0, "silent_s": 5.0, "relay_ended": True},
            "has #7, behind 0.0 s, 0 records, the host's relay ended in order, 5 s ago",
        ),
        (
            {"have": 7, "behind_records": 0, "behind_s": 0.0},
            "has #7, behind 0.0 s, 0 records, the host was not heard yet",
        ),
    ],
)
def test_the_state_has_words(changes: dict[str, Any], line: str) -> None:
    """Silence counts from three seconds on."""
    assert lag.in_words(lag.checked(told(**changes))) == line


@pytest.mark.parametrize(
    "changes",
    [
        *({"have": "7"}, {"host": None}, {"behind_s": "x"}, {"gap": 5}, {"bytes": None}, {"have": 10**40}),
        *({"silent_s": 10**40}, {"silent_s": float("nan")}, {"behind_s": float("-inf")}, {"bytes": True}),
    ],
)
def test_what_is_no_state_is_refused(changes: dict[str, Any]) -> None:
    """Anybody who may answer for a service of NATS may say anything."""
    with pytest.raises(ValueError, match=next(iter(changes))):
        lag.checked(told(**changes))
