# SPDX-License-Identifier: Apache-2.0
"""The comparison of a standing tree with /proc, on a procfs of files."""

import os
from pathlib import Path

import pytest

from agent.model import Snapshot
from agent.restart.planning.search import make_plan
from agent.restart.rebuild import taskanswers
from agent.restart.rebuild.verify import Standing, verify, verify_active
from tests.support.builders import a_snapshot, a_task, born

GUARD = 4000
FIRST = 5000
NAMESPACE = "pid:[4026540000]"
FIELDS = "S {ppid} {pgid} {sid} 0 -1 0 " + "0 " * 28 + "{signal} " + "0 " * 14


def tree() -> Snapshot:
    """Return a container's root with a child that leads a session, that one's child, and a child in the root's group."""
    rows = [
        a_task(1, 0, pgid=1, sid=1),
        a_task(2, 1, pgid=2, sid=2, birth=born(1, 2, sid=1, pgid=1)),
        a_task(3, 2, pgid=2, sid=2, birth=born(2, 3, sid=2, pgid=2)),
        a_task(4, 1, pgid=1, sid=1, birth=born(1, 4, sid=1, pgid=1)),
    ]
    return a_snapshot([(row.pid,) for row in rows], rows, mode="container")


@pytest.fixture
def standing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Standing:
    """Return that tree as it stands in a procfs of files."""
    monkeypatch.setattr(taskanswers, "PROC", os.fspath(tmp_path))
    snapshot = tree()
    plan = make_plan(snapshot)
    numbers = [actor.numbers for actor in plan.actors]
    pids = [FIRST + number for (number,) in numbers]
    of_tag = {actor.tag: index for index, actor in enumerate(plan.actors)}
    for index, task in zip(plan.tasks, snapshot.tasks, strict=True):
        parent = pids[of_tag[task.ppid]] if task.ppid else GUARD
        lines = {
            "Name": "a",
            "State": "S (sleeping)",
            "Tgid": pids[index],
            "Ngid": 0,
            "Pid": pids[index],
            "PPid": parent,
            "NStgid": f"{pids[index]}\t{numbers[index][0]}",
            "NSpid": f"{pids[index]}\t{numbers[index][0]}",
            "NSpgid": f"{pids[of_tag[task.pgid]]}\t{numbers[of_tag[task.pgid]][0]}",
            "NSsid": f"{pids[of_tag[task.sid]]}\t{numbers[of_tag[task.sid]][0]}",
            "Kthread": 0,
        }
        folder = tmp_path / str(pids[index])
        (folder / "ns").mkdir(parents=True)
        (folder / "status").write_text("".join(f"{name}:\t{value}\n" for name, value in lines.items()))
        (folder / "stat").write_text(
            f"{pids[index]} (a) {FIELDS.format(ppid=parent, pgid=0, sid=0, signal=task.exit_signal)}\n"
        )
        for name in ("pid", "pid_for_children"):
            (folder / "ns" / name).symlink_to(NAMESPACE)
    return Standing(snapshot, plan, pids, numbers, GUARD)


def change(pid: int, before: str, after: str, file: str = "status") -> None:
    """Change a text in a file of a process."""
    path = Path(taskanswers.PROC, str(pid), file)
    text = path.read_text()
    assert text.count(before) == 1, text
    path.write_text(text.replace(before, after))


def test_a_tree_that_stands_as_in_its_image_has_no_difference(standing: Standing) -> None:
    """All tasks have the numbers, parents, groups, sessions and namespaces of the image."""
    assert verify(standing) == []
    assert verify_active(standing, stopped=False) == []


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ("\nTgid:\t5003", "\nTgid:\t5004", "is in the thread group 5004 instead of 5003"),
        ("\nPPid:\t5002", "\nPPid:\t5001", "has the parent 5001 instead of 5002"),
        ("\nPPid:\t5002", "\nPPid:\t50020", "has the parent 50020 instead of 5002"),
        ("\nNSpid:\t5003\t3", "\nNSpid:\t5003\t4", "has the numbers 4 instead of 3"),
        ("\nNSpid:\t5003\t3", "\nNSpid:\t5003\t33", "has the numbers 33 instead of 3"),
        ("\nNSpid:\t5003\t3", "\nNSpid:\t5003\t9\t3", "is 1 namespaces deep instead of 0"),
        ("\nNSpgid:\t5002\t2", "\nNSpgid:\t5003\t3", "has the group 3 instead of 2"),
        ("\nNSpgid:\t5002\t2", "\nNSpgid:\t5002\t21", "has the group 21 instead of 2"),
        ("\nNSsid:\t5002\t2", "\nNSsid:\t5001\t1", "has the session 1 instead of 2"),
        ("\nNSsid:\t5002\t2", "\nNSsid:\t0\t0", "has the session 0 instead of 2"),
    ],
)
def test_a_number_that_differs_is_told(standing: Standing, before: str, after: str, told: str) -> None:
    """One number of one task differs, also by a digit behind the right ones."""
    change(5003, before, after)
    assert [line.partition(": ")[2].partition(" (tag")[0] for line in verify(standing)] == [told]


def test_an_exit_signal_that_differs_is_told(standing: Standing) -> None:
    """The exit signal is in another file than the numbers, and is compared where all of these are right."""
    path = Path(taskanswers.PROC, "5003", "stat")
    path.write_text(path.read_text().replace(" 17 ", " 10 "))
    assert [line.partition(": ")[2] for line in verify(standing)] == ["has the exit signal SIGUSR1 instead of SIGCHLD"]


def lead_into(pid: int, namespace: str) -> None:
    """Have the link to the pid namespace of a process lead elsewhere."""
    link = Path(taskanswers.PROC, str(pid), "ns", "pid")
    link.unlink()
    link.symlink_to(namespace)


def test_a_task_in_another_namespace_is_told(standing: Standing) -> None:
    """A session's leader has the right numbers, and its namespace is that of no other task."""
    lead_into(5002, "pid:[4026540001]")
    assert ["is not in the namespace of" in line for line in verify(standing)] == [True]


def test_a_task_in_a_session_that_has_no_number_there_is_looked_at(standing: Standing) -> None:
    """A status that shows no number of the session in the task's namespace proves none."""
    lead_into(5003, "pid:[4026540001]")
    change(5003, "\nNSsid:\t5002\t2", "\nNSsid:\t5002\t0")
    change(5003, "\nNSpgid:\t5002\t2", "\nNSpgid:\t5002\t0")
    told = verify(standing)
    assert ["session" in told[1], "is not in the namespace of" in told[2], len(told)] == [True, True, 3]


def test_a_member_whose_leader_cannot_be_looked_at_is_looked_at(standing: Standing) -> None:
    """Of two members of such a session, one is in another namespace."""
    Path(taskanswers.PROC, "5001", "ns", "pid").unlink()
    lead_into(5004, "pid:[4026540001]")
    assert ["is not in the namespace of" in line for line in verify(standing)] == [True]


def test_a_task_that_is_gone_is_told(standing: Standing) -> None:
    """Without its files, no answer counts as the right one."""
    for file in ("status", "stat"):
        Path(taskanswers.PROC, "5003", file).unlink()
    assert "there is no such task" in " ".join(verify(standing))
    assert any("there is no such task" in line for line in verify_active(standing, stopped=False))


def test_a_state_that_differs_is_told(standing: Standing) -> None:
    """A living task of the image is a zombie."""
    change(5003, "(a) S", "(a) Z", "stat")
    assert ["is in state Z" in line for line in verify_active(standing, stopped=False)] == [True]


def test_a_link_that_cannot_be_read_is_told_and_is_no_difference(
    standing: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller lacks CAP_SYS_PTRACE, say, and the task has closed its memory."""
    monkeypatch.setattr("agent.restart.rebuild.verify._SETTLING", 0.05)
    link = Path(taskanswers.PROC, str(standing.pids[1]), "ns", "pid_for_children")
    link.unlink()
    link.touch()
    told: list[str] = []

    assert verify_active(standing, stopped=False, unread=told.append) == []
    assert told == ["task 2 (2): its pid namespaces are not compared, for they cannot be read here"]
