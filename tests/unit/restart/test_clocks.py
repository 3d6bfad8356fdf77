# SPDX-License-Identifier: Apache-2.0
"""The clocks of a tree whose dump was made on a host with later ones."""

import ctypes
import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.errors import HostError
from agent.restart.contents import clocks
from agent.restart.contents.hostfacts import CAP_SYS_ADMIN, CAP_SYS_TIME, HostFacts
from agent.restart.rebuild import timenamespace
from agent.restart.rebuild.timenamespace import NO_OFFSETS, ClockOffsets

S = 10**9
ALL = 1 << CAP_SYS_ADMIN | 1 << CAP_SYS_TIME


def images(monotonic: int, boottime: int) -> Any:
    """Return images of these times, in seconds."""
    times = {"monotonic": monotonic, "boottime": boottime}
    return SimpleNamespace(
        clocks=SimpleNamespace(**{name: SimpleNamespace(tv_sec=each, tv_nsec=5) for name, each in times.items()})
    )


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every clock of this host tell 1000 s."""
    monkeypatch.setattr(clocks.time, "clock_gettime_ns", lambda _: 1000 * S)  # type: ignore[attr-defined]


def test_a_clock_that_is_behind_is_set_forward_and_no_other() -> None:
    """Each clock is compared with its own time."""
    assert clocks.lag(images(3000, 900)) == (ClockOffsets(2000 * S + 5, 0), None)
    assert clocks.lag(images(900, 999)) == (NO_OFFSETS, None)


def test_images_that_tell_no_time_change_no_clock() -> None:
    """CRIU writes none on a kernel without time namespaces."""
    assert clocks.lag(SimpleNamespace(clocks=None)) == (NO_OFFSETS, None)  # type: ignore[arg-type]


def test_a_time_that_no_clock_has_is_refused() -> None:
    """The kernel would not take it for an offset."""
    offsets, fault = clocks.lag(images(1 << 60, 0))

    assert offsets == NO_OFFSETS
    assert fault is not None
    assert "dump again" in str(fault)


def test_a_caller_that_cannot_make_a_time_namespace_is_told(tmp_path: Path) -> None:
    """Neither one of the two rights is enough, nor both on a kernel without such namespaces."""
    offsets = ClockOffsets(2000 * S, 0)
    (tmp_path / "self").mkdir()
    without = clocks.fault(offsets, HostFacts("", frozenset(), ALL), tmp_path)
    (tmp_path / "self" / timenamespace.OFFSETS).touch()
    found = [clocks.fault(offsets, HostFacts("", frozenset(), mask), tmp_path) for mask in (0, 1 << CAP_SYS_ADMIN)]

    assert "2000 s behind" in str(without)
    assert "this kernel has no time namespaces" in str(without)
    assert all("takes CAP_SYS_ADMIN and CAP_SYS_TIME" in str(each) for each in found)
    assert clocks.fault(offsets, HostFacts("", frozenset(), ALL), tmp_path) is None
    assert clocks.fault(NO_OFFSETS, HostFacts("", frozenset(), 0), tmp_path) is None


def test_offsets_are_added_to_those_of_the_callers_namespace() -> None:
    """The kernel counts from the initial namespace; its nanoseconds are never negative."""
    own = "monotonic  -10  999999999\nboottime    7  0\n"

    assert timenamespace.sums(own, ClockOffsets(1, 3 * S)) == "monotonic -9 0\nboottime 10 0\n"


def test_the_time_of_a_clock_is_that_which_the_tree_sees() -> None:
    """The clock of the day is the same everywhere."""
    offsets = ClockOffsets(5, 7)

    assert [clocks.now(clock, offsets) - 1000 * S for clock in (0, 1, 7, 8, 9)] == [0, 5, 7, 0, 7]


def test_a_time_namespace_that_the_kernel_refuses_is_told_by_its_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message is of the child, which makes the namespace."""

    class Refusing:
        """A library whose unshare() fails."""

        def unshare(self, _flags: int) -> int:
            """Fail as for a caller without rights."""
            ctypes.set_errno(errno.EPERM)
            return -1

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Refusing())
    with pytest.raises(HostError) as refused:
        timenamespace.spawned(Path("/bin/true"), ["true"], {}, None, ClockOffsets(1, 1))

    assert str(refused.value) == ("no time namespace for the tree: unshare(CLONE_NEWTIME): Operation not permitted")
