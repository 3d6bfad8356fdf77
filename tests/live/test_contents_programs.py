# SPDX-License-Identifier: Apache-2.0
"""Servers and builders that run on after a dump by CRIU and a restart: judged by what they then do."""

import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.live.dumps import dump, eventually, program, restarted
from tests.support.suitepackages import dumped, node


def _said(path: Path, request: bytes) -> bytes:
    """Return what a server answers to one request over a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(os.fspath(path))
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def _answers(path: Path, request: bytes) -> bool:
    try:
        return bool(_said(path, request))
    except OSError:
        return False


@contextmanager
def _short_folder() -> Iterator[Path]:
    """Yield a folder whose path leaves room in the address of a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="ck") as name:
        yield Path(name)


def _number(path: Path) -> int:
    return int(path.read_text() or 0) if path.exists() else 0


WRITER = """
import sqlite3, time
base = sqlite3.connect("base")
base.execute("create table lines(number integer primary key, square integer)")
number = 0
while True:
    with base:
        base.execute("insert into lines values(?, ?)", (number, number * number))
    number += 1
    with open("number", "w") as file:
        file.write(str(number))
    time.sleep(0.01)
"""


def test_a_writer_of_sqlite_goes_on_without_a_gap(tmp_path: Path, daemon_socket: Path) -> None:
    """Each row is there once, whether it was written before or after.

    Nobody looks into the base between dump and restart, since a reader would undo the change that was under way.
    """
    with program([sys.executable, "-c", WRITER], tmp_path) as pid:
        eventually(lambda: _number(tmp_path / "number") > 20, "rows are written")
        images = dump(pid, tmp_path / "images", daemon_socket, "--file-locks")
    before = _number(tmp_path / "number")
    with restarted(images):
        eventually(lambda: _number(tmp_path / "number") > before + 20, "rows are written")
    with sqlite3.connect(tmp_path / "base") as base:
        rows = base.execute("select number, square from lines order by number").fetchall()
        sound = base.execute("pragma integrity_check").fetchone()

    assert rows == [(number, number * number) for number in range(len(rows))]
    assert sound == ("ok",)


POOL = """
import multiprocessing, time
def square(number):
    time.sleep(0.005)
    return number * number
with multiprocessing.Pool(2) as pool:
    turn = 0
    while True:
        assert pool.map(square, range(8)) == [number * number for number in range(8)]
        turn += 1
        with open("turns", "w") as file:
            file.write(str(turn))
"""


def test_a_multiprocessing_pool_works_on(tmp_path: Path, daemon_socket: Path) -> None:
    """Its semaphores are shared memory of files that are deleted."""
    with program([sys.executable, "-c", POOL], tmp_path) as pid:
        eventually(lambda: _number(tmp_path / "turns") > 5, "the pool works")
        images = dump(pid, tmp_path / "images", daemon_socket)
    before = _number(tmp_path / "turns")
    with restarted(images):
        eventually(lambda: _number(tmp_path / "turns") > before + 10, "the pool works on")


def test_a_parallel_build_is_finished_with_the_right_result(tmp_path: Path, daemon_socket: Path) -> None:
    """Compilers, their temporary files, and make's own pipe."""
    count = 12
    for index in range(count):
        functions = "".join(f"int f{index}_{n}(int x) {{ return x * {n} + {index}; }}\n" for n in range(300))
        (tmp_path / f"f{index}.c").write_text(f"int f{index}(int x) {{ return x + {index}; }}\n{functions}")
    declared = "".join(f"int f{index}(int);\n" for index in range(count))
    called = "".join(f"sum = f{index}(sum);" for index in range(count))
    (tmp_path / "main.c").write_text(f"{declared}int main(void) {{ int sum = 0; {called} return sum; }}\n")
    objects = " ".join(f"f{index}.o" for index in range(count))
    (tmp_path / "Makefile").write_text(
        f"all: made\n\ttouch done\nmade: main.o {objects}\n\tgcc -o $@ $^\n%.o: %.c\n\tgcc -O2 -c -o $@ $<\n"
    )
    with program(["make", "-j2"], tmp_path) as pid:
        eventually(lambda: len(list(tmp_path.glob("f*.o"))) > 1, "objects appear")
        images = dump(pid, tmp_path / "images", daemon_socket)
    assert not (tmp_path / "made").exists()
    with restarted(images, ended=True) as _:
        eventually((tmp_path / "done").exists, "make is done")

    assert subprocess.run([tmp_path / "made"], check=False).returncode == sum(range(count))


REDIS = b"*2\r\n$4\r\nINCR\r\n$3\r\nkey\r\n"


def test_a_redis_has_its_data_and_serves_new_clients(daemon_socket: Path) -> None:
    """It listens at a Unix socket, and waits with epoll."""
    with _short_folder() as folder:
        path = folder / "socket"
        words = [*dumped("redis-server"), "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder]
        with program([str(word) for word in words], folder) as pid:
            eventually(lambda: _answers(path, b"PING\r\n"), "redis answers")
            assert [_said(path, REDIS) for _ in range(3)] == [b":1\r\n", b":2\r\n", b":3\r\n"]
            images = dump(pid, folder / "images", daemon_socket)
        with restarted(images):
            assert _said(path, REDIS) == b":4\r\n"


def test_nginx_serves_with_all_its_workers(daemon_socket: Path) -> None:
    """A master, two workers that share its listening socket, and a file."""
    with _short_folder() as folder:
        path = folder / "socket"
        (folder / "page").write_text("a page")
        (folder / "conf").write_text(
            f"daemon off; master_process on; worker_processes 2; pid {folder}/pid; error_log {folder}/log; user root;\n"
            f"events {{ worker_connections 64; }}\n"
            f"http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; "
            f"fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n"
            f"server {{ listen unix:{path}; root {folder}; }} }}\n"
        )
        request = b"GET /page HTTP/1.0\r\n\r\n"
        with program([*dumped("nginx"), "-p", str(folder), "-c", str(folder / "conf")], folder) as pid:
            eventually(lambda: _answers(path, request), "nginx answers")
            images = dump(pid, folder / "images", daemon_socket)
        with restarted(images) as ready:
            assert len(ready["tasks"]) == 3
            for _ in range(20):
                assert _said(path, request).endswith(b"\r\n\r\na page")


NODE = """
const fs = require("fs");
let number = 0;
setInterval(() => fs.writeFileSync("number", String(++number)), 10);
"""


def test_a_node_runs_its_timers_and_threads_on(tmp_path: Path, daemon_socket: Path) -> None:
    """An event loop, and the threads that write the file."""
    with program([node(), "-e", NODE], tmp_path, env={"UV_USE_IO_URING": "0"}) as pid:  # CRIU dumps no io_uring
        eventually(lambda: _number(tmp_path / "number") > 10, "it counts")
        images = dump(pid, tmp_path / "images", daemon_socket)
    before = _number(tmp_path / "number")
    with restarted(images):
        eventually(lambda: _number(tmp_path / "number") > before + 20, "it counts on")


APPLICATION = """
calls = 0
def application(environment, begin):
    global calls
    calls += 1
    begin("200 OK", [("Content-Type", "text/plain")])
    return [str(calls).encode()]
"""


def test_gunicorn_counts_on_for_its_clients(daemon_socket: Path) -> None:
    """One worker, so that the count is one."""
    with _short_folder() as folder:
        path = folder / "socket"
        (folder / "counted.py").write_text(APPLICATION)
        words = [sys.executable, "-m", "gunicorn", "-w", "1", "-b", f"unix:{path}", "counted:application"]
        request = b"GET / HTTP/1.0\r\n\r\n"
        with program(words, folder) as pid:
            eventually(lambda: _answers(path, request), "gunicorn answers")
            before = int(_said(path, request).rpartition(b"\r\n\r\n")[2])
            images = dump(pid, folder / "images", daemon_socket)
        with restarted(images):
            assert [int(_said(path, request).rpartition(b"\r\n\r\n")[2]) for _ in range(3)] == [
                before + 1,
                before + 2,
                before + 3,
            ]


def test_a_tmux_with_a_shell_takes_commands(daemon_socket: Path) -> None:
    """The server, its pty, and the shell at the other end of it."""
    with _short_folder() as folder:
        tmux = [*dumped("tmux"), "-S", str(folder / "socket")]
        env = {"PATH": os.environ["PATH"], "TERM": "xterm", "LANG": "C.UTF-8", "HOME": str(folder)}
        with program([*tmux, "-D", "-f", "/dev/null"], folder, env=env) as pid:
            eventually((folder / "socket").exists, "tmux listens")
            run = [*tmux, "new-session", "-d", "-s", "one", "-x", "80", "-y", "24", "/bin/bash", "--norc"]
            eventually(lambda: subprocess.run(run, env=env, check=False).returncode == 0, "there is a session")
            time.sleep(0.5)
            images = dump(pid, folder / "images", daemon_socket)
        with restarted(images):
            subprocess.run(
                [*tmux, "send-keys", "-t", "one", f"echo it runs > {folder}/told", "Enter"], env=env, check=True
            )
            eventually((folder / "told").exists, "the shell has run the command")
            assert (folder / "told").read_text() == "it runs\n"
