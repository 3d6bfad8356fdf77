# SPDX-License-Identifier: Apache-2.0
"""The constants of the BPF programs that Python has too, outside the records."""

import os
import re
import signal
from pathlib import Path

import pytest

from agent.capture import allowance
from agent.daemon import backoff
from agent.proc import host, procfs, topmost
from agent.restart.rebuild import orphans, verify
from agent.table import objects, pidspace

BPF = Path(__file__).parents[3] / "bpf"
DEFINED = dict(
    re.findall(
        r"^#define (\w+) ([0-9][0-9A-Fa-fx]*)(?:u|ull)?\b",
        "".join(path.read_text() for path in sorted(BPF.glob("*.[ch]"))),
        re.MULTILINE,
    )
)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("ALLOWED_PER_SECOND", [allowance.MOST]),
        ("WAKE_EVERY", [backoff._WAKE_EVERY]),
        ("INITIAL_INUM", [pidspace.INITIAL_INUM, host.PROC_PID_INIT_INO]),
        ("PF_KTHREAD", [procfs._PF_KTHREAD, topmost._PF_KTHREAD]),
        ("PF_IO_WORKER", [procfs._PF_IO_WORKER]),
        ("PF_USER_WORKER", [procfs._PF_USER_WORKER]),
        ("PF_EXITING", [verify._PF_EXITING]),
        ("CLONE_THREAD_BIT", [objects.CLONE_THREAD]),
        ("PR_SET_CHILD_SUBREAPER", [orphans._PR_SET_CHILD_SUBREAPER]),
        ("SIGCHLD_NR", [signal.SIGCHLD]),
        ("SIG_IGN_VALUE", [signal.SIG_IGN]),
        ("WNOWAIT_BIT", [os.WNOWAIT]),
        ("P_PID_NR", [os.P_PID]),
    ],
)
def test_a_constant_of_both_has_one_value(name: str, values: list[int]) -> None:
    """The programs and Python agree on it."""
    assert {int(DEFINED[name], 0)} == {int(each) for each in values}
