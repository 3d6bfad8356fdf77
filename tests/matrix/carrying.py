# SPDX-License-Identifier: Apache-2.0
"""Programs that are dumped under one kernel and run on under another; run in the machines.

``python -m tests.matrix.carrying dump KERNEL`` dumps each program, below /carried/KERNEL, and writes /carried to the second
serial line. ``python -m tests.matrix.carrying restart KERNEL...`` restarts those that are there. Both print results as the
steps do.
"""

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.live.daemons import a_daemon
from tests.live.programlist import PROGRAMS
from tests.live.realprograms import dumped, gone_on, running
from tests.matrix.inside import REASON_LENGTH, say

CARRIED: Final = Path("/carried")
LINE: Final = Path("/dev/ttyS1")
CHOSEN: Final = (
    *("Python, 3 threads", "bash pipeline", "sqlite, WAL", "sqlite, journal", "redis", "nginx", "PostgreSQL"),
)
"""The programs of tests/live/programlist.py that are carried; a machine has no others."""


def _folder(kernel: str, name: str) -> Path:
    return CARRIED / kernel / name.replace(",", "").replace(" ", "-")


def _dump(kernel: str, name: str, socket: Path) -> str:
    """Dump a program; return what went wrong."""
    real, folder = PROGRAMS[name], _folder(kernel, name)
    folder.mkdir(parents=True)
    try:
        with running(real, folder) as pid:
            dumped(real, pid, folder, socket)
    except (AssertionError, OSError) as error:
        return str(error)
    return ""


def _restart(kernel: str, name: str) -> str:
    """Restart a program, and look at what it then does; return what went wrong."""
    folder = _folder(kernel, name)
    if not (folder / "images" / "tree.ckpt").exists():
        return "it was not dumped"
    try:
        with gone_on(PROGRAMS[name], folder):
            pass
    except (AssertionError, OSError) as error:
        return str(error)
    return ""


def main(action: str, kernels: list[str]) -> None:
    """Dump the programs under this kernel, or restart those of other ones."""
    say(kernel=platform.release(), machine=platform.machine(), python=platform.python_version())
    if action == "dump":
        with tempfile.TemporaryDirectory() as place, a_daemon(Path(place)) as daemon:
            for name in CHOSEN:
                fault = _dump(kernels[0], name, daemon.socket)
                say(step=f"dump {name}", fault=fault[-REASON_LENGTH:])
        subprocess.run(["stty", "-F", os.fspath(LINE), "raw", "115200"], check=True)
        with LINE.open("wb") as line:
            command = ["tar", "--create", "--gzip", "--directory", os.fspath(CARRIED), "."]
            line.write(
                subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
            )  # no tar writes to a terminal
    else:
        for kernel in kernels:
            for name in CHOSEN:
                say(step=f"{kernel} {name}", fault=_restart(kernel, name)[-REASON_LENGTH:])
    say(done=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
