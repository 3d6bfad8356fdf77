# SPDX-License-Identifier: Apache-2.0
"""The unit that runs the daemon: that systemd takes it, and that its hardening leaves the daemon what it needs."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.config import Config
from agent.errors import HostError, UsageError

UNIT = Path(__file__).parents[1] / "systemd" / "ckptree.service"


@pytest.fixture
def service() -> configparser.SectionProxy:
    """The unit's [Service] section."""
    unit = configparser.ConfigParser(interpolation=None, delimiters=("=",), comment_prefixes=("#", ";"))
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have cases
    unit.read(UNIT)
    return unit["Service"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    """No unknown key, no value it would ignore. The program need not be installed where this runs."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("ExecStart=/opt/ckptree/bin/ckptree", f"ExecStart={shutil.which('true')}"))
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )

    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_every_key_is_said_once() -> None:
    """configparser refuses a section with the same key twice, where systemd would let the last one win."""
    keys = [line.partition("=")[0] for line in UNIT.read_text().splitlines() if "=" in line and line[0] != "#"]

    assert sorted(set(keys)) == sorted(keys)


def test_the_daemon_says_when_it_is_ready(service: configparser.SectionProxy) -> None:
    """Whoever is ordered after it may ask at once."""
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "main")
    assert service["ExecStart"] == "/opt/ckptree/bin/ckptree daemon"


def test_the_socket_lies_in_the_runtime_directory(service: configparser.SectionProxy) -> None:
    """systemd makes the directory that the default socket is in; the rest of /run cannot be written."""
    assert Path("/run") / service["RuntimeDirectory"] == Config().socket.parent


def test_a_start_that_cannot_succeed_is_not_repeated(service: configparser.SectionProxy) -> None:
    """A wrong configuration and a host that cannot are exit codes of their own."""
    assert {UsageError.exit_code, HostError.exit_code} == {int(c) for c in service["RestartPreventExitStatus"].split()}


def test_four_capabilities_are_left(service: configparser.SectionProxy) -> None:
    """Loading and attaching, the helper's mount, and reading what is closed to others."""
    assert {"CAP_BPF", "CAP_PERFMON", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH"} == set(
        service["CapabilityBoundingSet"].split()
    )


def test_the_call_filter_lets_the_loader_work(service: configparser.SectionProxy) -> None:
    """bpf(2) and perf_event_open(2) are in none of the groups that services usually get."""
    assert {"@system-service", "@mount", "bpf", "perf_event_open"} == set(service["SystemCallFilter"].split())
    assert service["RestrictNamespaces"] == "mnt"


@pytest.mark.parametrize("key", ["ProtectProc", "ProcSubset", "PrivateUsers", "User", "DynamicUser", "PrivatePIDs"])
def test_what_would_blind_the_daemon_is_not_set(service: configparser.SectionProxy, key: str) -> None:
    """Each of these hides the processes that are watched, or takes BPF's rights away."""
    assert key not in service
