# SPDX-License-Identifier: Apache-2.0
"""The rights of a rebuilt tree's tasks: those that hold have none, and a command none that the original had not."""

import os
import signal
from pathlib import Path

import pytest

from agent.model import Capabilities, ProcessDetails, Snapshot, TaskState, WaitStatus
from exporters import registry
from tests.live.restartverb import ran, running, soon
from tests.support.builders import a_snapshot, a_task

_SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_NONE = dict.fromkeys(_SETS, 0) | {"NoNewPrivs": 1}
_KILL, _ADMIN = 1 << 5, 1 << 21


def rights(pid: int | str) -> dict[str, int]:
    """Return capabilities and no_new_privs of a process, from /proc/PID/status."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: int(lines[name], 16) for name in (*_SETS, "NoNewPrivs")}


def image(folder: Path, snapshot: Snapshot) -> Path:
    """Write a snapshot to a file, and return its path."""
    path = folder / "tree.json"
    path.write_bytes(registry.image(snapshot, "json"))
    return path


def tree(*, details: ProcessDetails | None = None) -> Snapshot:
    """An init, a process with a thread, one that is stopped, and one of another user."""
    rows = [
        a_task(1, 0, details=details),
        a_task(2, 1),
        a_task(3, 1, tgid=2, exit_signal=-1),
        a_task(4, 1, state=TaskState.STOPPED),
        a_task(5, 1, uid=65534, gid=65534),
    ]
    return a_snapshot([(1,), (20,), (21,), (22,), (23,)], rows, mode="container")


@pytest.mark.parametrize("here", [False, True], ids=["own namespace", "caller's namespace"])
def test_a_task_that_holds_has_no_right_and_can_gain_none(here: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Its threads neither; and it goes at the first signal, as ever, of whatever user it is."""
    where = ["--no-pidns", "--no-pids"] if here else []
    with running(image(tmp_path, tree()), *where) as (process, ready):
        pids = [task["pid"] for task in ready["tasks"]]

        assert len(pids) == 5
        assert soon(lambda: all(rights(pid) == _NONE for pid in pids)), [rights(pid) for pid in pids]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert soon(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def ids(pid: int) -> tuple[int, int]:
    """Return the user and the group of a task, which is of no other ones; from /proc/PID/status."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    ((user,), (group,)) = (set(map(int, lines[name].split())) for name in ("Uid", "Gid"))
    return user, group


def state(pid: int) -> str:
    """Return the state of a task, as the first letter that /proc/PID/status has for it."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return lines["State"].strip()[0]


@pytest.mark.parametrize("here", [False, True], ids=["own namespace", "caller's namespace"])
def test_a_zombie_is_of_its_user_and_a_leader_that_has_exited_too(here: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Its parent is told so when it waits for it. One of root's is of root."""
    exited, killed = WaitStatus(3 << 8), WaitStatus(signal.SIGTERM)
    rows = [
        a_task(1, 0),
        a_task(2, 1, state=TaskState.ZOMBIE, exit_code=exited, uid=65534, gid=65533),
        a_task(3, 1, state=TaskState.ZOMBIE, exit_code=killed, uid=65534, gid=65533),
        a_task(4, 1, state=TaskState.ZOMBIE, exit_code=exited, uid=0, gid=0),
        a_task(5, 1, state=TaskState.DEAD_LEADER, uid=65534, gid=65533),
        a_task(6, 1, tgid=5, exit_signal=-1, uid=0, gid=0),
    ]
    snapshot = a_snapshot([(1,), (20,), (21,), (22,), (23,), (24,)], rows, mode="container")
    where = ["--no-pidns", "--no-pids"] if here else []
    with running(image(tmp_path, snapshot), *where) as (_, ready):
        pids = [task["pid"] for task in ready["tasks"] if 1 < task["tag"] < 6]

        assert soon(lambda: all(state(pid) == "Z" for pid in pids)), [state(pid) for pid in pids]
        assert [ids(pid) for pid in pids] == [(65534, 65533), (65534, 65533), (0, 0), (65534, 65533)]


def test_a_restorer_that_attaches_may_need_the_callers_rights(tmp_path: Path) -> None:
    """It says so; who belongs to another user has none all the same."""
    with running(image(tmp_path, tree()), "--keep-rights") as (_, ready):
        pids = [task["pid"] for task in ready["tasks"]]

        assert soon(lambda: Path(f"/proc/{pids[4]}/status").read_text().count("65534"))
        assert [rights(pid) for pid in pids[:4]] == [rights("self")] * 4


def told(snapshot: Snapshot, folder: Path, *options: str) -> dict[str, int]:
    """Return the rights of a command that runs in the place of the root."""
    path = folder / "rights"
    run = ran(image(folder, snapshot), "--run", f"cp /proc/self/status {path}", *options)
    assert run.returncode == 0, run.stderr
    lines = dict(line.split(":", 1) for line in path.read_text().splitlines())
    return {name: int(lines[name], 16) for name in (*_SETS, "NoNewPrivs")}


@pytest.mark.parametrize("fixed", [False, True])
def test_a_command_has_no_right_that_the_original_could_not_have_had(fixed: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Nor one that the caller has not."""
    few = Capabilities(0, _KILL, _KILL, _KILL | _ADMIN, 0)
    snapshot = a_snapshot(
        [(1,)], [a_task(1, 0, details=ProcessDetails(caps=few, no_new_privs=fixed))], mode="container"
    )
    found = told(snapshot, tmp_path)

    assert found["CapBnd"] == found["CapPrm"] == found["CapEff"] == rights("self")["CapBnd"] & (_KILL | _ADMIN)
    assert found["NoNewPrivs"] == fixed
    assert told(snapshot, tmp_path, "--keep-rights") == rights("self")


def test_a_command_has_the_callers_rights_where_none_are_recorded(tmp_path: Path) -> None:
    """It is the caller's own program."""
    snapshot = a_snapshot([(1,)], [a_task(1, 0)], mode="container")

    assert told(snapshot, tmp_path) == rights(os.getpid())


def test_a_recorded_program_has_the_recorded_rights_and_no_others(tmp_path: Path) -> None:
    """To keep the caller's is asked for in vain."""
    run = ran(image(tmp_path, tree()), "--run", "argv", "--keep-rights")

    assert run.returncode == 2
    assert "--keep-rights gives tasks the rights of the caller, and --run argv their own" in run.stderr
