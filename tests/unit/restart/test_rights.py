# SPDX-License-Identifier: Apache-2.0
"""The processes that can be started again with their rights, and the reasons of refusals."""

import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from agent.errors import RefusedError
from agent.model import Capabilities, ProcessDetails, Surroundings, Task, TaskState, WaitStatus
from agent.proc.statfile import program_file
from agent.restart.planning.search import make_plan
from agent.restart.rebuild import programpath
from agent.restart.rebuild.commands import endings, own_arguments
from agent.restart.rebuild.rights import Host, doubts, obstacles, recorded, this_host
from agent.restart.rebuild.userids import UserIds
from tests.support.builders import a_snapshot, a_task

FULL = (1 << 41) - 1
NOBODY, ADMIN, RAW = 65534, 1 << 21, 1 << 13
ANY = Host((range(1 << 32),), (range(1 << 32),), None, FULL, no_new_privs=False)
OWN = Host((range(1000, 1001),), (range(1000, 1001),), frozenset({1000}), FULL, no_new_privs=False)
AS_ROOT = ProcessDetails(
    exe=b"/bin/sh",
    uids=(0,) * 4,
    gids=(0,) * 4,
    groups=(0,),
    caps=Capabilities(0, FULL, FULL, FULL, 0),
    no_new_privs=False,
    umask=0o22,
    execed=True,
)
AS_NOBODY = AS_ROOT._replace(uids=(NOBODY,) * 4, gids=(NOBODY,) * 4, caps=Capabilities(0, 0, 0, FULL, 0))


def a_process(details: ProcessDetails | None = AS_ROOT, tag: int = 1, parent: int = 0, **more: Any) -> Task:
    """Return a process that has run a shell."""
    fields: dict[str, Any] = {"argv": (b"-sh",), "cwd": b"/", "env": (b"A=1",), "details": details, **more}
    return a_task(tag, parent, **fields)


def complaints(details: ProcessDetails, host: Host = ANY) -> str:
    """Return all obstacles in one text."""
    return "; ".join(obstacles(a_process(details), host))


@pytest.mark.parametrize(
    "details",
    [
        AS_ROOT,
        AS_NOBODY,
        AS_ROOT._replace(caps=Capabilities(0, RAW, RAW, RAW, 0)),
        AS_ROOT._replace(caps=Capabilities(0, RAW, RAW, FULL, 0), no_new_privs=True),
        AS_NOBODY._replace(caps=Capabilities(RAW, RAW, RAW, RAW, RAW), no_new_privs=True),
    ],
    ids=["root", "nobody", "bounded root", "root without new privileges", "ambient"],
)
def test_what_exec_leaves_as_it_is_can_be_started_again(details: ProcessDetails) -> None:
    """Path, arguments, environment, folder and rights are the recorded ones, and so is a name that differs from the
    file's.
    """
    task = a_process(details)

    assert complaints(details) == ""
    program = recorded(task, ANY)
    assert program[:4] == (b"/bin/sh", (b"-sh",), (b"A=1",), b"/")
    assert program.rights is not None
    assert (program.rights.caps, program.rights.groups) == (details.caps, (0,))


@pytest.mark.parametrize(
    ("details", "complaint"),
    [
        (
            AS_ROOT._replace(caps=Capabilities(0, RAW, RAW, FULL, 0)),
            "permitted capabilities are CAP_NET_RAW, by capset(), securebits or its file, and exec would",
        ),
        (AS_ROOT._replace(caps=Capabilities(0, FULL, 0, FULL, 0)), "effective capabilities are none, by"),
        (AS_NOBODY._replace(caps=Capabilities(0, RAW, RAW, FULL, 0)), "exec would take away CAP_NET_RAW"),
        (AS_ROOT._replace(uids=(0, 1, 0, 1)), "exec makes the last three the same"),
        (AS_ROOT._replace(uids=(1, 0, 0, 0), no_new_privs=True), "real and effective ids differ"),
        (AS_ROOT._replace(exe=None), "not told: program"),
        (
            AS_ROOT._replace(exe=None, deleted_exe=b"/srv/x"),
            "its program was deleted, or its path leads elsewhere: /srv/x",
        ),
        (AS_ROOT._replace(exe=b"/no/such"), "there is no program /no/such here"),
        (AS_ROOT._replace(exe=b"/etc/passwd"), "/etc/passwd may not be executed"),
        (AS_ROOT._replace(caps=None, umask=None), "not told: capabilities, umask"),
        (AS_ROOT._replace(execed=None), "not told: exec"),
    ],
)
def test_what_cannot_be_the_same_again_is_told(details: ProcessDetails, complaint: str) -> None:
    """The message has the rights that it would get."""
    assert complaint in complaints(details)


def test_a_program_that_has_capabilities_of_its_own_is_told(tmp_path: Path) -> None:
    """setcap gives them to a file."""
    program = tmp_path / "ping"
    shutil.copy("/bin/true", program)
    try:
        os.setxattr(program, "security.capability", struct.pack("<5I", 0x02000001, RAW, 0, 0, 0))
    except PermissionError:
        pytest.skip("only root gives capabilities to a file")

    assert f"{program} has capabilities of its own, which exec would add" in complaints(
        AS_ROOT._replace(exe=os.fsencode(program))
    )


@pytest.mark.parametrize(
    ("details", "host", "complaint"),
    [
        (AS_NOBODY, OWN, "user 65534 cannot be had here; group 65534 cannot be had here; groups 0 cannot"),
        (AS_ROOT, ANY._replace(bounding=FULL & ~RAW), "CAP_NET_RAW cannot be had here"),
        (AS_ROOT, ANY._replace(no_new_privs=True), "no_new_privs is in force here"),
        (AS_ROOT._replace(groups=(5,)), ANY._replace(gids=(range(1),)), "groups 5 cannot be had here"),
    ],
)
def test_what_this_host_cannot_give_is_told(details: ProcessDetails, host: Host, complaint: str) -> None:
    """A user namespace has few ids."""
    assert complaint in complaints(details, host)


def test_an_ordinary_user_starts_his_own_again_without_setting_groups() -> None:
    """The kernel would refuse the call, and the groups are set already."""
    ids = (1000,) * 4
    task = a_process(AS_NOBODY._replace(uids=ids, gids=ids, groups=(1000,)))

    assert list(obstacles(task, OWN)) == []
    rights = recorded(task, OWN).rights
    assert rights is not None
    assert rights.groups is None


def test_a_program_that_sets_ids_is_refused_unless_it_had_them(tmp_path: Path) -> None:
    """exec gives the ids of the file's owner."""
    file = tmp_path / "tool"
    file.write_text("")
    file.chmod(0o4755)
    owner = os.getuid()
    other = AS_NOBODY._replace(exe=os.fsencode(file))

    assert f"would make it user {owner}" in complaints(other)
    assert complaints(other._replace(no_new_privs=True)) == ""


def change(file: Path) -> None:
    """Change the inode of a file, and nothing else, until its time of change shows that: a clock tick may take 10 ms."""
    before = file.stat().st_ctime_ns
    while file.stat().st_ctime_ns == before:
        os.utime(file, ns=(1, 1))


REPLACED = [
    ("other content", "which had 7 bytes, and this has 8"),
    ("other time", "which had another time of change"),
    ("content under the old size and time", "which had another time of change of its inode"),
    ("copy", "which had another inode"),
    ("nothing", ""),
]


@pytest.mark.parametrize(("done", "complaint"), REPLACED)
def test_a_program_that_was_replaced_since_the_capture_is_told(tmp_path: Path, done: str, complaint: str) -> None:
    """In the same boot a file is the same or another; on another boot a copy is accepted, and another file gives a
    doubt.
    """
    file, other = tmp_path / "tool", tmp_path / "other"
    for path in (file, other):
        path.write_text("#!/bin\n")
        path.chmod(0o755)
        os.utime(path, ns=(1, 1))
    task = a_process(AS_ROOT._replace(exe=os.fsencode(file), exe_file=program_file(file.stat())))
    if done == "other content":
        file.write_text("#!/bin2\n")
    elif done == "other time":
        os.utime(file, ns=(2, 2))
    elif done == "content under the old size and time":
        file.write_text("#!/BIN\n")
        change(file)
    elif done == "copy":
        other.rename(file)
    here = ANY._replace(boot_id="b")
    refused = [f"{file} is another file than the program that it ran, {complaint}"] if complaint else []

    assert list(obstacles(task, here, "b")) == refused
    assert list(doubts(task, here, "b")) == []
    assert list(obstacles(task, here, "a")) == list(obstacles(task, here)) == []
    told = complaint.replace("which", "that") if "inode" not in complaint else ""
    warned = [f"{file} is not the file that ran there, or was changed: {told}"] if told else []
    assert list(doubts(task, here, "a")) == warned


def test_an_image_that_does_not_tell_the_change_of_an_inode_is_compared_without(tmp_path: Path) -> None:
    """Earlier versions wrote such images."""
    file = tmp_path / "tool"
    file.write_text("#!/bin\n")
    file.chmod(0o755)
    os.utime(file, ns=(1, 1))
    was = program_file(file.stat())._replace(changed_ns=None)
    change(file)
    task = a_process(AS_ROOT._replace(exe=os.fsencode(file), exe_file=was))

    assert list(obstacles(task, ANY._replace(boot_id="b"), "b")) == []


AS_STRANGER = AS_ROOT._replace(uids=(61001,) * 4, gids=(61001,) * 4, groups=(), caps=Capabilities(0, 0, 0, FULL, 0))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
@pytest.mark.parametrize(
    "more",
    [
        {"uids": (61001, 0, 0, 0), "gids": (0,) * 4, "caps": AS_ROOT.caps},
        {"caps": Capabilities(RAW, RAW, RAW, FULL, RAW)},
        {"groups": (0,)},
        {"gids": (0,) * 4},
        {},
    ],
    ids=["effective root", "ambient", "groups", "group", "nothing"],
)
def test_the_user_of_a_task_with_more_rights_cannot_lead_it_to_another_program(
    folder_of: Path, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task executes the file that was checked; where that would change its name, it is refused."""
    details = AS_STRANGER._replace(exe=os.fsencode(folder_of), **more)
    monkeypatch.setattr(programpath, "named_by_file", lambda: True)
    assert recorded(a_process(details), ANY).opened

    monkeypatch.setattr(programpath, "named_by_file", lambda: False)
    if more:
        with pytest.raises(
            RefusedError, match=f"other users may write to {folder_of.parent}, and the process had more"
        ):
            recorded(a_process(details), ANY)
    else:
        assert not recorded(a_process(details), ANY).opened


def test_a_folder_that_another_has_taken_the_place_of_since_the_capture_is_told(tmp_path: Path) -> None:
    """In another boot, or by an image that does not tell the folder, it is the one that is there."""
    folder = tmp_path / "folder"
    folder.mkdir()
    status = folder.stat()
    was = status.st_dev, status.st_ino
    host = ANY._replace(boot_id="b")
    task = a_process(AS_ROOT._replace(cwd_id=was), cwd=os.fsencode(folder))
    assert list(obstacles(task, host, "b")) == []
    assert recorded(task, host, "b").cwd_id == was

    folder.rename(tmp_path / "moved")
    folder.mkdir()
    assert list(obstacles(task, host, "b")) == [f"{folder} is another folder than the one that it was in"]
    assert recorded(task, host, "b").cwd_id == was
    for other, boot in ((task, "a"), (a_process(cwd=os.fsencode(folder)), "b")):
        assert list(obstacles(other, host, boot)) == []
        assert recorded(other, host, boot).cwd_id == (folder.stat().st_dev, folder.stat().st_ino)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_folder_that_may_be_another_one_is_told(tmp_path: Path) -> None:
    """Its users gain nothing by that where the task has nothing beyond them."""
    folder = tmp_path / "theirs" / "folder"
    folder.mkdir(parents=True)
    os.chown(folder.parent, 61001, 61001)
    said = [f"its folder {folder} may be another one: other users may write to {folder.parent}"]
    for details, expected in (
        (AS_ROOT, said),
        (AS_STRANGER, []),
        (AS_STRANGER._replace(groups=(0,)), said),
        (AS_ROOT._replace(cwd_id=(1, 2)), []),
    ):
        assert list(doubts(a_process(details, cwd=os.fsencode(folder)), ANY._replace(boot_id="b"), "b")) == expected


@pytest.fixture
def folder_of(tmp_path: Path) -> Path:
    """Return a program in a folder of user 61001."""
    file = tmp_path / "theirs" / "tool"
    file.parent.mkdir()
    shutil.copy("/bin/true", file)
    os.chown(file.parent, 61001, 61001)
    return file


def test_what_is_not_certain_of_a_program_is_told_and_it_is_run() -> None:
    """The message names the task."""
    task = a_process(AS_ROOT._replace(env_uncertain="who knows"))
    snapshot = a_snapshot([(10,)], [task])
    programs, said = own_arguments(snapshot, make_plan(snapshot), ANY)

    assert len(programs) == 1
    assert said == ["task 1 (10): its environment: who knows"]


def test_all_who_are_refused_are_named_and_who_only_forked_is_held() -> None:
    """A thread group with a dead leader cannot run again either."""
    tasks = [
        a_process(),
        a_process(AS_ROOT._replace(execed=False, exe=None), 2, 1, argv=None),
        a_process(AS_ROOT._replace(exe=b"/no/such"), 3, 1),
        a_process(None, 4, 1),
        a_process(AS_ROOT, 5, 1, state="dead-leader", exit_code=0),
        a_task(6, 1, tgid=5),
        a_process(AS_ROOT, 7, 1, argv=None),
    ]
    snapshot = a_snapshot([(10 * tag,) for tag in range(1, 8)], tasks)
    with pytest.raises(RefusedError) as caught:
        own_arguments(snapshot, make_plan(snapshot), ANY)
    assert caught.value.leaks == (
        "task 3 (30): there is no program /no/such here",
        "task 4 (40): nothing is known of its program and rights",
        "task 7 (70): not told: arguments",
        "task 5 (50): its main thread has exited, and exec would bring that back",
    )

    snapshot = a_snapshot([(10,), (20,)], tasks[:2])
    plan = make_plan(snapshot)
    programs, held = own_arguments(snapshot, plan, ANY)
    assert list(programs) == [plan.tasks[0]]
    assert held == ["task 2 (20) has only forked, and holds"]


def test_an_image_without_details_is_told_how_to_get_some() -> None:
    """Arguments alone are not enough."""
    snapshot = a_snapshot([(1,)], [a_process(None)])
    with pytest.raises(RefusedError, match="--with-argv"):
        own_arguments(snapshot, make_plan(snapshot), ANY)


def test_this_host_gives_what_its_user_namespace_has(tmp_path: Path) -> None:
    """A caller that may administer has all ids of its user namespace; any other has its own."""
    own = tmp_path / "self"
    own.mkdir()
    (own / "status").write_text(f"Name:\tx\nCapEff:\t{ADMIN:x}\nCapBnd:\t{RAW:x}\nNoNewPrivs:\t1\n")
    (own / "uid_map").write_text("         0       1000          1\n      5 7 2\n")
    (own / "gid_map").write_text("0 0 10\n")

    assert this_host(pidns=True, proc=tmp_path) == Host((range(1), range(5, 7)), (range(10),), None, RAW, True)
    (own / "status").write_text(f"CapEff:\t0\nCapBnd:\t{RAW:x}\nNoNewPrivs:\t0\n")
    mine = os.geteuid()
    found = this_host(pidns=True, proc=tmp_path)
    assert (found.uids, found.bounding) == ((range(mine, mine + 1),), (1 << 64) - 1)
    assert this_host(pidns=False, proc=tmp_path).bounding == RAW


@pytest.mark.parametrize(
    ("apart", "other"),
    [
        (("root",), "another root directory"),
        (("root", "mounts"), "another root directory and other mounts"),
        (("root", "mounts", "user"), "another root directory, other mounts and another user namespace"),
    ],
)
def test_what_ran_with_other_files_or_ids_is_refused_in_plain_words(apart: tuple[str, ...], other: str) -> None:
    """The message has both alternatives."""
    said = complaints(AS_ROOT._replace(surroundings=Surroundings(apart=apart)))

    assert said == f"it ran with {other} than restart has here: run restart where it ran, or another command with --run"


def test_a_task_that_has_exited_takes_the_ids_that_it_can_have_and_others_are_told() -> None:
    """One whose ids are not known keeps the caller's, and so does one that holds: it takes its own later."""
    dead: dict[str, Any] = {"state": TaskState.ZOMBIE, "exit_code": WaitStatus(0)}
    rows = [
        a_task(1, 0),
        a_task(2, 1, uid=NOBODY, gid=7, **dead),
        a_task(3, 1, uid=None, gid=None, **dead),
        a_task(4, 1, uid=NOBODY, gid=7),
    ]
    snapshot = a_snapshot([(1,), (20,), (21,), (22,)], rows, mode="container")
    plan = make_plan(snapshot)
    index = plan.tasks[1]

    assert endings(snapshot, plan, ANY) == ({index: UserIds((NOBODY,) * 4, (7,) * 4)}, {})
    assert endings(snapshot, plan, OWN) == ({}, {index: f"user {NOBODY}, group 7 cannot be had here"})


def test_an_image_that_does_not_say_what_ran_is_refused_with_advice_for_held_trees_too() -> None:
    """Held trees run no program that could be captured."""
    snapshot = a_snapshot([(10,)], [a_process(None)])
    with pytest.raises(RefusedError, match="take the image that it was made from"):
        own_arguments(snapshot, make_plan(snapshot), ANY)
