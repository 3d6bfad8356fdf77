# SPDX-License-Identifier: Apache-2.0
"""The daemon's socket with clients of other users: what they see, and what they may take."""

import contextlib
import ctypes
import grp
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import psutil

from agent.daemon.server import MAX_CLIENTS_PER_USER
from agent.environment import private_socket
from agent.errors import BusyError, CkptreeError, HostError, NotPermittedError
from agent.protocol.client import Client
from tests.live.apiclients import an_open_folder, as_user, is_live
from tests.live.daemons import PATIENCE_S, Daemon, a_daemon

NOBODY = 65534


def test_a_child_that_goes_on_with_a_connection_from_a_pid_namespace_sees_nothing(
    running: Daemon, sleeper: int
) -> None:
    """The process that connected has ended before the first question, and its namespace with the number is unknown."""

    def asked() -> list[str]:
        client = Client(running.socket)
        reader, writer = os.pipe()
        if os.fork():
            os._exit(0)
        os.close(writer)
        os.read(reader, 1)  # until the process that connected is gone
        said = []
        for question in (lambda: client.snapshot(str(sleeper)), lambda: client.subscribe()):
            for _ in range(20):
                try:
                    question()
                except NotPermittedError as error:
                    said.append(str(error))
                except BusyError:  # on a busy machine the daemon says so
                    time.sleep(0.1)
                    continue
                break
        return said

    reader, writer = os.pipe()
    outer = os.fork()
    if outer == 0:
        try:
            os.setsid()
            assert ctypes.CDLL(None).unshare(0x20000000) == 0  # CLONE_NEWPID
            init = os.fork()
            if init == 0:
                if os.fork() == 0:
                    os.write(writer, json.dumps(asked()).encode())
                    os._exit(0)
                with contextlib.suppress(ChildProcessError):
                    while True:
                        os.wait()
                os._exit(0)
            os.waitpid(init, 0)
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = json.loads(pipe.read())
    os.waitpid(outer, 0)

    assert len(said) == 2
    assert all("connect again" in text for text in said)


def test_another_user_sees_their_own_and_nothing_else(running: Daemon, sleeper: int) -> None:
    """The daemon shows no name, no tree and no event of another user."""

    def script() -> Any:
        with Client(running.socket) as client:
            me = client.snapshot(str(os.getpid()))
            refused = []
            for root in ("1", str(sleeper), str(os.getppid()), "pidns:4026531836"):
                try:
                    client.snapshot(root)
                    refused.append("")
                except CkptreeError as error:
                    refused.append(str(error))
            with Client(running.socket) as other, other.subscribe() as events:
                child = os.fork()
                if child == 0:
                    os._exit(3)
                os.waitpid(child, 0)
                heard: list[tuple[str, int, int]] = []
                while not heard or heard[-1][0] != "death":
                    event = events.next_within(5)
                    assert event is not None
                    assert event.task is not None
                    heard.append((event.kind, event.task.pid, event.task.uid))
            said = json.dumps([client.status(), client.metrics()])
            return [client.hello().sees, me.tasks, refused, [child, heard], said]

    with noise() as names:
        sees, tasks, refused, (child, heard), said = as_user(NOBODY, NOBODY, [], script)

    assert (sees, tasks) == ("own", 1)
    assert all(refused)
    assert [text for text in refused if "sleep" in text or "python" in text] == []
    assert "not permitted" in refused[1]
    assert heard == [["birth", child, NOBODY], ["death", child, NOBODY]]
    assert not [name for name in (*names, "sleep") if name in said]


@contextlib.contextmanager
def noise() -> Iterator[list[str]]:
    """Others live and die meanwhile."""
    script = "while :; do /bin/true; done"
    with subprocess.Popen(["sh", "-c", script]) as process:
        try:
            yield ["/bin/true"]
        finally:
            process.kill()


def test_a_tree_with_a_task_of_roots_in_it_is_refused_to_its_user(running: Daemon) -> None:
    """Though the root of the tree is theirs."""
    tree = (  # the child stays root's
        "import os, time\n"
        "if os.fork() == 0: time.sleep(1000)\n"
        "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "print(flush=True); time.sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", tree], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        (child,) = psutil.Process(process.pid).children()

        def script() -> Any:
            with Client(running.socket) as client:
                return client.snapshot(str(process.pid)).tasks

        refused = as_user(NOBODY, NOBODY, [], script)
        child.kill()
        process.kill()

    assert refused[0] == NotPermittedError.__name__
    assert "1 of the 2 tasks of this tree are not yours" in refused[1]


def test_members_of_the_group_see_everything(sleeper: int) -> None:
    """The one that the configuration names; by supplementary groups, of which there may be very many."""
    name, gid = next((group.gr_name, group.gr_gid) for group in grp.getgrall() if group.gr_gid not in (0, NOBODY))
    with an_open_folder() as folder:
        config = folder / "config.toml"
        config.write_text(f'group = "{name}"\n')
        config.chmod(0o644)
        with a_daemon(folder, "--config", config) as daemon:

            def script() -> Any:
                with Client(daemon.socket) as client:
                    return [client.hello().sees, client.snapshot(str(sleeper)).tasks]

            assert as_user(NOBODY, NOBODY, [gid], script) == ["all", 1]
            assert as_user(NOBODY, gid, [], script) == ["all", 1]
            assert as_user(NOBODY, NOBODY, [*range(10000, 10400), gid], script) == ["all", 1]
            assert as_user(NOBODY, NOBODY, [*range(10000, 10400)], script)[0] == NotPermittedError.__name__


def test_members_of_the_group_have_the_private_socket_with_root(sleeper: int) -> None:
    """Another user cannot connect to it."""
    name, gid = next((group.gr_name, group.gr_gid) for group in grp.getgrall() if group.gr_gid not in (0, NOBODY))
    with an_open_folder() as folder, a_daemon(folder, "--group", name) as daemon:
        private = private_socket(daemon.socket)

        def script() -> Any:
            with Client(private) as client:
                return [client.hello().sees, client.snapshot(str(sleeper)).tasks]

        assert (private.stat().st_mode & 0o777, private.stat().st_gid) == (0o660, gid)
        assert as_user(0, 0, [], script) == ["all", 1]
        assert as_user(NOBODY, NOBODY, [gid], script) == ["all", 1]
        refused = as_user(NOBODY, NOBODY, [], script)
        assert refused[0] == HostError.__name__
        assert f"not permitted to connect to {private}" in refused[1]


def test_the_private_socket_gives_no_right_to_a_user_who_got_to_it(running: Daemon, sleeper: int) -> None:
    """The kernel says who connects. An administrator may have changed the file's mode."""
    private = private_socket(running.socket)
    mode = private.stat().st_mode & 0o777
    private.chmod(0o666)

    def script() -> Any:
        with Client(private) as client:
            try:
                client.snapshot(str(sleeper))
            except NotPermittedError:
                return client.hello().sees
        return None

    seen = as_user(NOBODY, NOBODY, [], script)
    private.chmod(mode)

    assert seen == "own"


def test_one_user_does_not_take_all_places(running: Daemon) -> None:
    """The next connection is told why; root still gets in."""

    def script() -> Any:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(running.socket)) for _ in range(MAX_CLIENTS_PER_USER)]
            for client in clients:
                client.hello()
            try:
                stack.enter_context(Client(running.socket)).hello()
            except BusyError as error:
                return str(error)
        return None

    turned_away = as_user(NOBODY, NOBODY, [], script)

    assert f"user {NOBODY} has {MAX_CLIENTS_PER_USER} clients here already" in turned_away
    assert is_live(running)


def test_one_user_does_not_take_all_of_the_daemons_time(running: Daemon) -> None:
    """Requests without end, eight at a time: the daemon's own processor time stays a share."""

    def script() -> Any:
        def ask() -> None:
            end = time.monotonic() + 0.8
            with Client(running.socket, PATIENCE_S) as client:
                while time.monotonic() < end:
                    client.metrics()

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return True

    process = psutil.Process(running.process.pid)
    before, begin = process.cpu_times(), time.monotonic()
    as_user(NOBODY, NOBODY, [], script)
    after, took = process.cpu_times(), time.monotonic() - begin
    share = (after.user + after.system - before.user - before.system) / took

    assert share < 0.3
    assert is_live(running)


def test_each_snapshot_is_a_line_in_the_log(running: Daemon) -> None:
    """Also one whose asker calls itself what it likes."""
    libc = ctypes.CDLL(None)

    def script() -> Any:
        libc.prctl(15, b'x" uid=0\n\x1b[31m', 0, 0, 0)  # PR_SET_NAME
        with Client(running.socket) as client:
            return [client.snapshot(str(os.getpid())).tasks, os.getpid()]

    tasks, pid = as_user(NOBODY, NOBODY, [], script)
    lines = [line for line in running.log.read_text().splitlines() if f" pid={pid} " in line]

    assert tasks == 1
    assert len(lines) == 1
    assert re.fullmatch(
        rf'ckptree: snapshot uid={NOBODY} gid={NOBODY} pid={pid} comm="x\\x22 uid=0\\x0a\\x1b\[31m" root="{pid}" '
        rf'mode="subtree" format="ckpt" tasks=1 result="ok" ms=\d+\.\d+',
        lines[0],
    )
