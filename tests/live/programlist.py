# SPDX-License-Identifier: Apache-2.0
"""The real programs that are dumped and restarted: their commands, and what they must have done."""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.live.dumps import NEWER
from tests.live.realprograms import OWN_TERMINALS, RealProgram, Words, number_in, words_told
from tests.live.serverprograms import SERVERS
from tests.support import suitepackages

CHAOS: Final = 3.7


_CLOCKS: Final = """
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


def _judge_clocks(folder: Path) -> None:
    words = words_told(folder)
    state = 0.5
    for _ in range(int(words[0])):
        state = CHAOS * state * (1 - state)
    assert float(words[4]) == state, "its number is not that of so many rounds"
    assert int(words[3]) == 0, f"CLOCK_MONOTONIC went back {words[3]} times"
    assert -2 < time.time() - float(words[5]) < 30, "time() tells another time"


_PIPELINE: Final = "i=0; while :; do echo $((i++)); sleep 0.02; done | while read x; do echo $x >> told; done"


def _judge_pipeline(folder: Path) -> None:
    found = words_told(folder)
    assert found == [str(number) for number in range(len(found))], "lines are missing or doubled"


_WRITER: Final = """
import os, sqlite3, time
base = sqlite3.connect("base")
base.execute("create table lines(number integer primary key, square integer)")
number = 0
while True:
    with base:
        base.execute("insert into lines values(?, ?)", (number, number * number))
    number += 1
    with open("part", "w") as file:
        file.write(str(number))
    os.rename("part", "number")
    time.sleep(0.01)
"""
_WITH_WAL: Final = _WRITER.replace(
    'base.execute("create', 'base.execute("pragma journal_mode=wal"); base.execute("create', 1
)


def _judge_rows(folder: Path) -> None:
    """Each row is there once. Nobody looks before the end: a reader would undo the change that was under way."""
    with sqlite3.connect(folder / "base") as base:
        rows = base.execute("select number, square from lines order by number").fetchall()
        sound = base.execute("pragma integrity_check").fetchone()
    assert rows == [(number, number * number) for number in range(len(rows))], "rows are missing or wrong"
    assert sound == ("ok",), sound


_POOL: Final = """
import multiprocessing, os, time
def square(number):
    time.sleep(0.005)
    return number * number
with multiprocessing.Pool(2) as pool:
    turn = 0
    while True:
        assert pool.map(square, range(8)) == [number * number for number in range(8)]
        turn += 1
        with open("part", "w") as file:
            file.write(str(turn))
        os.rename("part", "number")
"""
_SOURCES: Final = 12


def _make(folder: Path) -> Words:
    for index in range(_SOURCES):
        functions = "".join(f"int f{index}_{n}(int x) {{ return x * {n} + {index}; }}\n" for n in range(300))
        (folder / f"f{index}.c").write_text(f"int f{index}(int x) {{ return x + {index}; }}\n{functions}")
    declared = "".join(f"int f{index}(int);\n" for index in range(_SOURCES))
    called = "".join(f"sum = f{index}(sum);" for index in range(_SOURCES))
    (folder / "main.c").write_text(f"{declared}int main(void) {{ int sum = 0; {called} return sum; }}\n")
    objects = " ".join(f"f{index}.o" for index in range(_SOURCES))
    (folder / "Makefile").write_text(
        f"all: made\n\ttouch done\nmade: main.o {objects}\n\tgcc -o $@ $^\n%.o: %.c\n\tgcc -O2 -c -o $@ $<\n"
    )
    return ["make", "-j2"]


def _made(folder: Path) -> int:
    """Return the number of objects, and more than all of them once make has ended."""
    return len(list(folder.glob("f*.o"))) + 2 * _SOURCES * (folder / "done").exists()


def _judge_made(folder: Path) -> None:
    assert subprocess.run([folder / "made"], check=False).returncode == sum(range(_SOURCES))


_NODE: Final = """
const fs = require("fs");
let number = 0;
function step() {
    fs.writeFile("part", String(++number), () => fs.rename("part", "number", () => setTimeout(step, 10)));
}
step();
"""

_RANK: Final = """
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	int rank, size, sum;

	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	for (int turn = 1;; turn++) {
		int mine = turn * (rank + 1);

		MPI_Allreduce(&mine, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
		if (sum != turn * size * (size + 1) / 2)
			abort();
		if (!rank) {
			FILE *file = fopen("part", "w");

			fprintf(file, "%d", turn);
			fclose(file);
			rename("part", "number");
		}
		usleep(2000);
	}
}
"""


def _ranks(folder: Path) -> Words:
    """Compile the program of the ranks; its files of the session are in the folder, too."""
    place = suitepackages.mpi()
    (folder / "rank.c").write_text(_RANK)
    own = ("-I", place / "include", place / "lib" / "libmpi.so.40", f"-Wl,-rpath={place / 'lib'}")
    subprocess.run(["gcc", "-O2", "-o", folder / "rank", folder / "rank.c", *own], check=True)
    words = ("env", f"OPAL_PREFIX={place}", f"TMPDIR={folder}", place / "bin" / "mpirun", "--allow-run-as-root")
    return [*words, "--map-by", ":oversubscribe", "-n", "2", folder / "rank"]


def _python(source: str) -> Callable[[Path], Words]:
    return lambda _: [sys.executable, "-c", source]


def _numbered(folder: Path) -> int:
    return number_in(folder / "number")


PROGRAMS: Final = {
    "Python, 3 threads": RealProgram(
        _python(_CLOCKS),
        lambda folder: min((int(word) for word in words_told(folder)[:3]), default=0),
        judge=_judge_clocks,
    ),
    "bash pipeline": RealProgram(
        lambda _: ["/bin/bash", "-c", _PIPELINE],
        lambda folder: len(words_told(folder)),
        judge=_judge_pipeline,
    ),
    "sqlite, WAL": RealProgram(_python(_WITH_WAL), _numbered, judge=_judge_rows, options=("--file-locks",)),
    "sqlite, journal": RealProgram(_python(_WRITER), _numbered, judge=_judge_rows, options=("--file-locks",)),
    "multiprocessing": RealProgram(_python(_POOL), _numbered, begun=5, further=10),
    "make": RealProgram(_make, _made, judge=_judge_made, begun=1, further=_SOURCES, ends=True),
    "MPI, 2 ranks": RealProgram(
        _ranks,
        _numbered,
        options=("--tcp-established", "--network-lock", "skip"),
        restart=("--tcp-established",),
        within=OWN_TERMINALS,
        suite=NEWER,
    ),
    "node": RealProgram(
        lambda _: [suitepackages.node(), "-e", _NODE],
        _numbered,
        begun=10,
        env={"UV_USE_IO_URING": "0"},  # CRIU dumps no io_uring
    ),
    **SERVERS,
}
"""Each program by its name."""
