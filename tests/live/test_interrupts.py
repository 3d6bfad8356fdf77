# SPDX-License-Identifier: Apache-2.0
"""Signals that end what loads BPF, at any moment: no traceback, and nothing left."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.interrupted import DELAYS_S, begun


@pytest.mark.parametrize("verb", ["daemon", "snapshot", "doctor"])
def test_an_interrupt_while_bpf_is_loaded_is_no_traceback(tmp_path: Path, verb: str) -> None:
    """As of a terminal: the helper that compiles hears it too. A daemon that is ready ends in order, with 0."""
    arguments = {
        "daemon": ("daemon", "--socket", tmp_path / "socket"),
        "snapshot": ("snapshot", str(os.getpid()), "--source", "bpf", "-o", tmp_path / "image"),
        "doctor": ("doctor", "--socket", tmp_path / "socket"),
    }[verb]
    for delay in (*DELAYS_S[::3], 0.3, 0.5, 0.8):
        with begun(*arguments) as process:
            time.sleep(delay)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            _, said = process.communicate(timeout=60)

        assert b"Traceback" not in said
        assert process.returncode in (0, 130), said
        if process.returncode == 130:
            assert b"ckptree" not in said
    assert not (tmp_path / "socket").exists()
