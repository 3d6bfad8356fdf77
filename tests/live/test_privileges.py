# SPDX-License-Identifier: Apache-2.0
"""Privileges of a daemon in root's foreground: it keeps none, and no program that it executes gets any."""

import subprocess
import sys
from pathlib import Path

from agent.protocol.client import Client
from tests.live.restartverb import TOP

_SECURE_BITS = 27  # PR_GET_SECUREBITS
_DROPPED = f"""
import ctypes, os, subprocess
from agent.daemon import privileges
privileges.drop()
print(ctypes.CDLL(None).prctl({_SECURE_BITS}, 0, 0, 0, 0))
print(subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout)
"""
_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def lines(status: str) -> dict[str, str]:
    """The keys of a status file."""
    return {key: value.strip() for key, _, value in (line.partition(":") for line in status.splitlines())}


def test_a_daemon_that_is_ready_has_no_capability_and_can_have_none(client: Client) -> None:
    """No bounding set, and no_new_privs."""
    status = lines(Path(f"/proc/{client.status()['pid']}/status").read_text())

    assert {status[name].strip("0") for name in _SETS} == {""}
    assert status["NoNewPrivs"] == "1"


def test_what_it_executes_as_root_has_none_either() -> None:
    """An exec by user id 0 gives back what the bounding set holds, where securebits do not say otherwise."""
    ran = subprocess.run([sys.executable, "-c", _DROPPED], cwd=TOP, capture_output=True, text=True, check=True)
    bits, _, status = ran.stdout.partition("\n")

    assert {lines(status)[name].strip("0") for name in _SETS} == {""}
    assert int(bits) == 0b1110_1111


def test_who_may_not_change_the_bounding_set_ends_without_rights_all_the_same() -> None:
    """In a container, say: with no_new_privs an exec by root gives nothing back."""
    words = ["setpriv", "--bounding-set=-setpcap", sys.executable, "-c", _DROPPED]
    ran = subprocess.run(words, cwd=TOP, capture_output=True, text=True, check=True)
    status = lines(ran.stdout.partition("\n")[2])

    assert {status[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {""}
    assert status["NoNewPrivs"] == "1"
