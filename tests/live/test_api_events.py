# SPDX-License-Identifier: Apache-2.0
"""A snapshot and the events that follow it, against a later snapshot of the same tree."""

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from agent.model import Snapshot
from agent.protocol.client import Client, Event
from exporters import registry

# Processes that fork, leave their parents, their sessions and groups, have threads, exec and end; the survivors stay.
RESTLESS = """
import ctypes, os, random, signal, sys, threading, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans stay in the tree
signal.signal(signal.SIGCHLD, signal.SIG_DFL)

def be(chance, depth):
    for _ in range(12):
        match chance.randrange(7):
            case 0 | 1 | 2 if depth < 4:
                if os.fork() == 0:
                    be(random.Random(chance.random()), depth + 1)
            case 3 if os.getsid(0) != os.getpid() and depth:
                try:
                    os.setsid()
                except PermissionError:
                    pass
            case 4:
                try:
                    os.setpgid(0, 0)
                except PermissionError:
                    pass
            case 5:
                threading.Thread(target=time.sleep, args=(0.001,)).start()
            case 6 if depth:
                break
    if depth and chance.random() < 0.5:
        os._exit(0)
    if depth and chance.random() < 0.3:
        os.execvp("sleep", ["sleep", "1000"])
    while depth:
        signal.pause()

print(flush=True)
sys.stdin.readline()
be(random.Random(int(sys.argv[1])), 0)
while True:  # what has ended is waited for until nothing ends any more
    time.sleep(0.3)
    if os.waitpid(-1, os.WNOHANG) == (0, 0):
        break
    while os.waitpid(-1, os.WNOHANG)[0]:
        pass
print(flush=True)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    signal.pause()
"""


class Row(NamedTuple):
    """A process, by numbers."""

    start_ns: int
    parent: int
    pgid: int
    sid: int


def rows_of(snapshot: Snapshot) -> dict[int, Row]:
    """The living processes of a snapshot; the root's own ids are from outside."""
    number = snapshot.number
    return {
        number(task.pid): Row(task.start_ns or 0, number(task.ppid), number(task.pgid), number(task.sid))
        for task in snapshot.tasks
        if task.pid == task.tgid and task.state is not None and task.exit_code is None
    }


def follow(rows: dict[int, Row], event: Event) -> None:
    """One event applied."""
    task, said = event.task, event.details
    assert task is not None, event
    match event.kind:
        case "birth" if task.tid == task.pid:
            rows[task.pid] = Row(task.start_ns, said["parent"], said["pgid"], said["sid"])
        case "death" if said["group_dead"]:
            rows.pop(task.pid, None)
        case "reparent" if task.pid in rows:
            rows[task.pid] = rows[task.pid]._replace(parent=said["parent"])
        case "setsid" | "setpgid" if task.pid in rows:
            rows[task.pid] = rows[task.pid]._replace(pgid=said["pgid"], sid=said["sid"])
        case "exec" if said["old_tid"] != task.tid:
            rows.update(
                {pid: row._replace(parent=task.tid) for pid, row in rows.items() if row.parent == said["old_tid"]}
            )


@pytest.mark.parametrize("seed", [1, 2])
def test_a_snapshot_and_the_events_from_there_on_are_the_next_snapshot(daemon_socket: Path, seed: int) -> None:
    """Every living process, with parent, group and session."""
    command = [sys.executable, "-c", RESTLESS, str(seed)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process,
        Client(daemon_socket) as hearing,
        Client(daemon_socket) as asking,
    ):
        assert process.stdin
        assert process.stdout
        try:
            process.stdout.readline()
            with hearing.subscribe(str(process.pid)) as events:
                assert events.snapshot is not None
                rows = rows_of(registry.load(events.snapshot.data))
                process.stdin.write(b"\n")
                process.stdin.flush()
                process.stdout.readline()
                after = asking.snapshot(str(process.pid), mode="subtree")
                count = 0
                while (event := events.next_within(0.2)) is not None:
                    if event.order < after.order:
                        follow(rows, event)
                        count += 1
        finally:
            while below := psutil.Process(process.pid).children(recursive=True):  # no process leaves a subreaper's tree
                for each in below:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        each.kill()
                time.sleep(0.01)
            process.kill()

    now = rows_of(registry.load(after.data))
    outside = {process.pid}  # its session and group are the root's own
    assert count > 20
    assert len(now) > 3
    assert {pid: row for pid, row in rows.items() if pid not in outside} == {
        pid: row for pid, row in now.items() if pid not in outside
    }


# Another thread forks a child, which waits; this one moves it into a group of its own, and only then the child execs.
MOVING = """
import os, sys, threading
ready, go = os.pipe(), os.pipe()

def fork():
    if os.fork() == 0:
        os.write(ready[1], str(os.getpid()).encode())
        os.read(go[0], 1)
        os.execlp("sleep", "sleep", "60")
    threading.Event().wait()

print(flush=True)
sys.stdin.readline()
threading.Thread(target=fork, daemon=True).start()
child = int(os.read(ready[0], 20))
os.setpgid(child, child)
os.write(go[1], b"x")
print(child, flush=True)
sys.stdin.readline()
os.kill(child, 9)
os._exit(0)
"""


def test_a_group_that_another_thread_than_the_childs_parent_made_is_told_by_its_own_record(daemon_socket: Path) -> None:
    """Between birth and exec, and not as assumed: the hook finds the children of all threads."""
    with subprocess.Popen([sys.executable, "-c", MOVING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        with Client(daemon_socket) as client, client.subscribe(str(process.pid)) as events:
            process.stdin.write(b"\n")
            process.stdin.flush()
            child = int(process.stdout.readline())
            told: list[Event] = []
            while "exec" not in [event.kind for event in told]:
                event = events.next_within(10)
                assert event is not None
                if event.task is not None and event.task.pid == child:
                    told.append(event)
        process.stdin.write(b"\n")
        process.stdin.flush()

    assert [event.kind for event in told] == ["birth", "setpgid", "exec"]
    assert told[1].details == {"pgid": child, "sid": told[0].details["sid"]}
