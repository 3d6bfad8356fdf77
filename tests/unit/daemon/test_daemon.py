# SPDX-License-Identifier: Apache-2.0
"""The conditions under which the daemon's loop feeds the watchdog and reports READY."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from agent.daemon import main
from agent.daemon.main import Daemon, Patience, check_access, check_sight
from agent.errors import HostError


def test_the_watchdog_is_fed_when_the_ring_is_empty_or_was_read_from() -> None:
    """An unfinished record at the head of a filling ring is no sign of life."""
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
    """The service manager has to end a compiler that hangs."""
    told: list[tuple[str, ...]] = []
    manager: Any = SimpleNamespace(notify=lambda *lines: told.append(lines))
    patience = Patience(manager)
    for _ in range(100):
        patience.wait()

    assert told == [("EXTEND_TIMEOUT_USEC=30000000", "STATUS=compiling BPF programs")] * 60


def test_a_daemon_that_may_not_use_what_is_loaded_is_not_ready() -> None:
    """The first request would fail; the message has the remedy for an administrator."""

    def refused() -> int:
        raise PermissionError(1, "BPF_OBJ_GET_INFO_BY_FD: Operation not permitted")

    check_access(lambda: 0)
    with pytest.raises(HostError, match=r"CAP_BPF.*BPF_OBJ_GET_INFO_BY_FD.*unprivileged_bpf_disabled=0"):
        check_access(refused)


def test_an_error_of_the_compiler_is_printed_without_control_characters() -> None:
    """It may quote a path, or what bcc has said."""
    fails = (
        "import sys, bpf.compiler; from agent.errors import HostError\n"
        "def fail(): raise HostError('bcc said \x1b[2J')\n"
        "bpf.compiler.vmlinux = fail\n"
        "import bpf.loader; bpf.loader.private_mounts = lambda: None\n"
    )
    ran = subprocess.run([sys.executable, "-c", fails + main._COMPILE], check=False, capture_output=True, text=True)

    assert (ran.returncode, ran.stdout, ran.stderr) == (HostError.exit_code, "", "ckptree: bcc said \\x1b[2J\n")


def test_a_daemon_that_sees_nobody_is_not_ready() -> None:
    """The daemon itself is a process."""
    check_sight(1)
    with pytest.raises(HostError, match="shows no task at all"):
        check_sight(0)


@pytest.mark.parametrize(
    ("listens", "lost"), [(True, "; the next daemon has to assume earlier births"), (False, "")], ids=["kept", "alone"]
)
def test_the_second_signal_to_end_ends_at_once_and_says_so(
    monkeypatch: pytest.MonkeyPatch, *, listens: bool, lost: str
) -> None:
    """The table is not handed over, because a job may be in the middle of a change of it."""
    done: list[str] = []
    daemon = Daemon.__new__(Daemon)
    vars(daemon).update(
        _told_to_end=False,
        _manager=SimpleNamespace(listens=listens),
        _unlink=lambda: done.append("unlinked"),
        log=SimpleNamespace(warning=done.append),
    )
    monkeypatch.setattr("os._exit", lambda code: done.append(f"exit {code}"))
    daemon._heed_signal()
    assert done == []
    daemon._heed_signal()

    why = "told to end a second time while it did so: this daemon ends as it is"
    assert done == [why + lost, "unlinked", "exit 0"]
