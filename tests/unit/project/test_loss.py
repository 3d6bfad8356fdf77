# SPDX-License-Identifier: Apache-2.0
"""The judge of losses, on births and readings made by hand, and on a process that is really stopped."""

import mmap
import subprocess
import sys
from pathlib import Path

from tests.bench.loss import Stills, stopped
from tests.bench.ringgauge import LEAST_BYTES, Reading, Span, ToldBirth, misjudged, without_loss, without_room

_ROOMY = 1 << 18
_STILL = Span(1_000, 400_000)


def a_reading(at: int, *, room: int = _ROOMY, lost: int = 0) -> Reading:
    """Return a reading that took from `at` to `at` + 10."""
    return Reading(Span(at, at + 10), room, lost)


# A ring that fills while its reader stands still, and is read from again afterwards.
READINGS = (
    a_reading(0),
    a_reading(2_000),
    a_reading(50_000, room=LEAST_BYTES + 1),
    a_reading(60_000, room=40, lost=3),
    a_reading(390_000, room=0, lost=900),
    a_reading(500_000, lost=950),
    a_reading(600_000, lost=950),
)


def wrong_of(*births: ToldBirth) -> list[str]:
    """Return what the judge finds in these births, of the ring above."""
    return list(misjudged(births, list(without_loss(READINGS)), list(without_room(READINGS, [_STILL]))))


def test_a_birth_in_a_full_ring_is_not_told_as_seen() -> None:
    """From the first reading without room until the reader may go on, whatever other births are told as."""
    assert wrong_of(ToldBirth(Span(60_011, 60_020), observed=True)) == [
        "a birth from 60011 to 60020 is told as seen, when the ring had no room from 60010 to 400000"
    ]
    assert wrong_of(ToldBirth(Span(399_990, 400_000), observed=True))
    assert wrong_of(ToldBirth(Span(60_011, 60_020), observed=False)) == []


def test_a_birth_after_the_reader_goes_on_may_be_seen() -> None:
    """Also one that begins in the full ring, or whose record the next room may have taken."""
    assert wrong_of(ToldBirth(Span(418_316, 418_328), observed=True)) == []
    assert wrong_of(ToldBirth(Span(399_990, 400_001), observed=True)) == []


def test_a_birth_while_the_ring_fills_may_be_seen_or_lost() -> None:
    """The last reading with room is no proof of either."""
    assert (
        wrong_of(ToldBirth(Span(55_000, 55_010), observed=True), ToldBirth(Span(55_000, 55_010), observed=False)) == []
    )


def test_a_birth_between_two_equal_counts_of_losses_is_not_told_as_lost() -> None:
    """Before the ring is full, and again after it."""
    assert wrong_of(ToldBirth(Span(20, 30), observed=False)) == [
        "a birth from 20 to 30 is told as lost, when the kernel side lost nothing from 10 to 50000"
    ]
    assert wrong_of(ToldBirth(Span(500_010, 600_000), observed=False))
    assert wrong_of(ToldBirth(Span(20, 30), observed=True)) == []


def test_a_birth_of_a_creator_that_was_never_known_may_be_lost() -> None:
    """Where nothing told of the creator before it was gone."""
    lost, seen = Span(100_000, 100_010), Span(500_020, 500_030)

    assert wrong_of(ToldBirth(Span(500_040, 500_050), observed=False, creator=lost)) == []
    assert wrong_of(ToldBirth(Span(500_040, 500_050), observed=False, creator=seen))


def test_a_ring_whose_reader_runs_is_never_surely_full() -> None:
    """The reader may make room right after a reading."""
    assert list(without_room(READINGS, [])) == []
    assert list(without_room(READINGS, [Span(60_005, 400_000)])) == [Span(390_010, 400_000)]


_STAMPING = """
import mmap, sys, time
file = open(sys.argv[1], "r+b")
words = memoryview(mmap.mmap(file.fileno(), mmap.PAGESIZE)).cast("Q")
while True:
    stamp = words[0] = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    asked = words[1]
    if asked != words[2]:
        words[3], words[2] = stamp, asked
"""


def test_a_process_makes_no_step_in_the_time_in_which_it_was_stopped(tmp_path: Path) -> None:
    """It stamps the clock without a pause: the last stamp before the stop and the first one after it are outside."""
    file = tmp_path / "words"
    file.write_bytes(bytes(mmap.PAGESIZE))
    stills: Stills = []
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), mmap.PAGESIZE) as mapped, memoryview(mapped) as view:
        words = view.cast("Q")
        with subprocess.Popen([sys.executable, "-c", _STAMPING, file]) as child:
            try:
                for n in range(1, 21):
                    before = words[0]
                    while words[0] == before:
                        assert child.poll() is None
                    with stopped(child.pid, stills):
                        last = words[0]
                        words[1] = n
                    while words[2] != n:
                        assert child.poll() is None
                    since, until = stills[-1]
                    assert last <= since <= until
                    assert not since < words[3] <= until
            finally:
                child.kill()
                words.release()
