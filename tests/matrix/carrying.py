# SPDX-License-Identifier: Apache-2.0
"""Programs that are dumped under one kernel and run on under another; run in the machines.

``python -m tests.matrix.carrying dump KERNEL`` dumps each program, below /carried/KERNEL, and writes /carried to the second
serial line. ``python -m tests.matrix.carrying restart KERNEL...`` restarts those that are there. Both print results as the
steps do.
"""

import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from tests.live.daemons import a_daemon
from tests.live.dumps import dump, eventually, program, restarted
from tests.live.test_contents_programs import WRITER
from tests.matrix.inside import REASON_LENGTH, say

CARRIED: Final = Path("/carried")
LINE: Final = Path("/dev/ttyS1")
_MORE: Final = 20
_CHAOS: Final = 3.7

CLOCKS: Final = """
import os, threading, time
counts, last, back = [0, 0, 0], [0.0] * 3, [0] * 3
def look(index):
    counts[index] += 1
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    back[index] += now < last[index]
    last[index] = now
    time.sleep(0.01)
def run(index):
    while True:
        look(index)
for index in (1, 2):
    threading.Thread(target=run, args=(index,), daemon=True).start()
state = 0.5
while True:
    look(0)
    state = 3.7 * state * (1 - state)
    with open("part", "w") as file:
        print(*counts, sum(back), repr(state), repr(time.time()), file=file)
    os.rename("part", "told")
"""
WITH_WAL: Final = WRITER.replace(
    'base.execute("create', 'base.execute("pragma journal_mode=wal"); base.execute("create', 1
)
LINES: Final = "i=0; while :; do echo $((i++)); sleep 0.02; done | while read x; do echo $x >> told; done"


def _words(folder: Path) -> list[str]:
    told = folder / "told"
    return told.read_text().split() if told.exists() else []


def _clocks(folder: Path) -> int:
    """Return the lowest count of its threads."""
    return min((int(word) for word in _words(folder)[:3]), default=0)


def _judge_clocks(folder: Path) -> None:
    words = _words(folder)
    state = 0.5
    for _ in range(int(words[0])):
        state = _CHAOS * state * (1 - state)
    assert float(words[4]) == state, "its number is not that of so many rounds"
    assert int(words[3]) == 0, f"CLOCK_MONOTONIC went back {words[3]} times"
    assert -2 < time.time() - float(words[5]) < 30, "time() tells another time"


def _judge_lines(folder: Path) -> None:
    found = _words(folder)
    assert found == [str(number) for number in range(len(found))], "lines are missing or doubled"


def _rows(folder: Path) -> int:
    path = folder / "number"
    return int(path.read_text() or 0) if path.exists() else 0


def _judge_rows(folder: Path) -> None:
    with sqlite3.connect(folder / "base") as base:
        rows = base.execute("select number, square from lines order by number").fetchall()
        sound = base.execute("pragma integrity_check").fetchone()
    assert rows == [(number, number * number) for number in range(len(rows))], "rows are missing or wrong"
    assert sound == ("ok",), sound


class Carried(NamedTuple):
    """A program that is carried.

    Attributes:
        command: its words.
        count: returns how far it has come, from its folder.
        judge: raises AssertionError if it has done anything wrong.
        options: of criu.
    """

    command: list[str]
    count: Callable[[Path], int]
    judge: Callable[[Path], None]
    options: tuple[str, ...] = ()


PROGRAMS: Final = {
    "Python, 3 threads": Carried([sys.executable, "-c", CLOCKS], _clocks, _judge_clocks),
    "bash pipeline": Carried(["/bin/bash", "-c", LINES], lambda folder: len(_words(folder)), _judge_lines),
    "sqlite, WAL": Carried([sys.executable, "-c", WITH_WAL], _rows, _judge_rows, ("--file-locks",)),
    "sqlite, journal": Carried([sys.executable, "-c", WRITER], _rows, _judge_rows, ("--file-locks",)),
}


def _folder(kernel: str, name: str) -> Path:
    return CARRIED / kernel / name.replace(",", "").replace(" ", "-")


def _dump(kernel: str, name: str, socket: Path) -> str:
    """Dump a program; return what went wrong."""
    carried, folder = PROGRAMS[name], _folder(kernel, name)
    folder.mkdir(parents=True)
    try:
        with program(carried.command, folder) as pid:
            eventually(lambda: carried.count(folder) > _MORE, "the program has begun")
            dump(pid, folder / "images", socket, *carried.options)
    except AssertionError as error:
        return str(error)
    return ""


def _restart(kernel: str, name: str) -> str:
    """Restart a program, and look at what it then does; return what went wrong."""
    carried, folder = PROGRAMS[name], _folder(kernel, name)
    if not (folder / "images" / "tree.ckpt").exists():
        return "it was not dumped"
    before = carried.count(folder)
    try:
        with restarted(folder / "images") as ready:
            root = Path("/proc", str(ready["tasks"][0]["pid"]), "exe")
            eventually(lambda: carried.count(folder) > before + _MORE or not root.exists(), "the program goes on")
            said = (folder / "out").read_text(errors="replace").splitlines()[-1:]
            assert carried.count(folder) > before + _MORE, f"the program has ended: {' '.join(said)}"
        carried.judge(folder)
    except AssertionError as error:
        return str(error)
    return ""


def main(action: str, kernels: list[str]) -> None:
    """Dump the programs under this kernel, or restart those of other ones."""
    say(kernel=platform.release(), machine=platform.machine(), python=platform.python_version())
    if action == "dump":
        with tempfile.TemporaryDirectory() as place, a_daemon(Path(place)) as daemon:
            for name in PROGRAMS:
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
            for name in PROGRAMS:
                say(step=f"{kernel} {name}", fault=_restart(kernel, name)[-REASON_LENGTH:])
    say(done=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
