# SPDX-License-Identifier: Apache-2.0
"""When the daemon's loop says that all is well."""

from types import SimpleNamespace
from typing import Any

import pytest

from agent.daemon.main import Daemon, Patience, check_access, check_sight
from agent.errors import HostError


def test_the_watchdog_is_fed_when_the_ring_is_empty_or_was_read_from() -> None:
    """A record that is never finished, at the head of a ring that fills, is no life."""
    fed: list[int] = []
    ring = SimpleNamespace(pending=0, position=0)
    daemon = Daemon.__new__(Daemon)
    vars(daemon).update(
        _manager=SimpleNamespace(feed=lambda: fed.append(ring.position)),
        _progress=-1,
        watch=SimpleNamespace(probes=SimpleNamespace(ring=ring)),
    )
    for pending, position in ((0, 100), (0, 100), (80, 200), (80, 200), (160, 200), (160, 280), (0, 280)):
        ring.pending, ring.position = pending, position
        daemon._feed()

    assert fed == [100, 100, 200, 280, 280]


def test_more_time_is_asked_for_while_programs_are_compiled_and_not_for_ever() -> None:
    """A helper that hangs is the service manager's to judge."""
    told: list[tuple[str, ...]] = []
    manager: Any = SimpleNamespace(notify=lambda *lines: told.append(lines))
    patience = Patience(manager)
    for _ in range(100):
        patience.wait()

    assert told == [("EXTEND_TIMEOUT_USEC=30000000", "STATUS=compiling BPF programs")] * 60


def test_a_daemon_that_may_not_use_what_is_loaded_is_not_ready() -> None:
    """Where it would fail at the first question; what an administrator can do is named."""

    def refused() -> int:
        raise PermissionError(1, "BPF_OBJ_GET_INFO_BY_FD: Operation not permitted")

    check_access(lambda: 0)
    with pytest.raises(HostError, match=r"CAP_BPF.*BPF_OBJ_GET_INFO_BY_FD.*unprivileged_bpf_disabled=0"):
        check_access(refused)


def test_a_daemon_that_sees_nobody_is_not_ready() -> None:
    """It is itself somebody."""
    check_sight(1)
    with pytest.raises(HostError, match="shows no task at all"):
        check_sight(0)
