# SPDX-License-Identifier: Apache-2.0
"""The tree of a folder of CRIU images: one that CRIU wrote, and one that ckptree wrote."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import FormatError
from agent.model import CKPT_PID_ROOT, OUTSIDE, Shares, Snapshot, TaskState, WaitStatus
from exporters import registry
from exporters.checking import criucheck
from exporters.criu import criuschema, criutree, imagefile, imagefolder
from tests.support import criuimages
from tests.support.builders import a_family, a_snapshot, a_task, snapshots
from tests.support.examples import examples, patient


def made(message: str, **fields: Any) -> Any:
    """Return a message of CRIU."""
    return criuschema.messages()[message](**fields)


def core(task_state: int = criuschema.ALIVE, exit_code: int = 0, comm: bytes = b"bash", **fields: Any) -> bytes:
    """Return the core of a process."""
    process = made(
        "task_core_entry",
        task_state=task_state,
        exit_code=exit_code,
        personality=0,
        flags=0,
        blk_sigset=0,
        comm=comm,
    )
    return imagefile.image("core", [made("core_entry", mtype=1, tc=process, **fields)])


def tree(*rows: tuple[int, int, int, int, tuple[int, ...]]) -> bytes:
    """Return pstree.img of these processes: pid, ppid, pgid, sid, threads."""
    names = ("pid", "ppid", "pgid", "sid", "threads")
    return imagefile.image("pstree", [made("pstree_entry", **dict(zip(names, row, strict=True))) for row in rows])


def folder(*rows: tuple[int, int, int, int, tuple[int, ...]], **files: bytes) -> criuimages.Files:
    """Return a folder of these processes, each with a plain core, and of these files."""
    cores = {f"core-{row[0]}.img": core() for row in rows}
    return criuimages.Files(
        {"pstree.img": tree(*rows), **cores, **{f"{name}.img": data for name, data in files.items()}}
    )


def numbers(snapshot: Snapshot) -> list[tuple[int, int, int, int, int]]:
    """Return pid, parent, thread group, group and session of each task; special tags as they are."""

    def number(tag: int) -> int:
        return snapshot.number(tag) or tag  # type: ignore[arg-type]

    return [(number(t.pid), number(t.ppid), number(t.tgid), number(t.pgid), number(t.sid)) for t in snapshot.tasks]


def names(findings: list[Any]) -> list[str]:
    """Return the rules that were broken."""
    return [each.name for each in findings]


def test_the_tree_of_a_dump_is_read() -> None:
    """The dump has a thread, a stopped child, a child with status 3, a dead session leader, and an orphan of it."""
    snapshot = criutree.load(criuimages.dump("container"))

    assert snapshot.mode == "container"
    assert snapshot.header.machine == "x86_64"
    assert numbers(snapshot) == [
        (1, 0, 1, 1, 1),
        (3, 1, 3, 3, 1),
        (4, 1, 4, 1, 1),
        (5, 1, 5, 5, 5),
        (6, 1, 6, 5, 5),
        (2, 0, 1, 1, 1),
    ]
    assert [(task.comm, task.state, task.exit_code) for task in snapshot.tasks] == [
        (b"sample", TaskState.RUNNING, None),
        (b"stopped", TaskState.STOPPED, None),
        (b"sample", TaskState.ZOMBIE, 3 << 8),
        (b"sample", TaskState.ZOMBIE, 0),
        (b"orphan", TaskState.RUNNING, None),
        (b"worker", TaskState.RUNNING, None),
    ]
    assert [task.subreaper for task in snapshot.tasks] == [True, False, None, None, False, True]
    assert (snapshot.tasks[0].uid, snapshot.tasks[0].gid) == (0, 0)
    assert {task.birth for task in snapshot.tasks} == {None}


def test_a_session_of_its_own_is_a_subtree() -> None:
    """Only the init of a namespace is the root of a container."""
    snapshot = criutree.load(criuimages.dump("subtree"))

    assert snapshot.mode == "subtree"
    assert numbers(snapshot)[0] == (4, 0, 4, 4, 4)


@pytest.mark.parametrize("name", ["container", "subtree"])
def test_a_dump_is_sound(name: str) -> None:
    """All files are read, and the tree is one that a kernel can have."""
    files = criuimages.dump(name)

    assert criutree.is_dump(files)
    assert criucheck.check_folder(files) == []


def test_a_session_from_outside_is_that_which_the_root_inherited() -> None:
    """A job of a shell has the shell's session, and a group of its own or the shell's."""
    own = criutree.load(folder((20, 0, 20, 9, (20,)), (21, 20, 9, 9, (21,))))
    first = criutree.load(folder((20, 0, 19, 9, (20,))))

    assert [task.sid for task in own.tasks] == [CKPT_PID_ROOT] * 2
    assert numbers(own)[1][3] == CKPT_PID_ROOT
    assert [pid.numbers for pid in own.pids] == [(20,), (21,)]
    assert [pid.numbers for pid in first.pids] == [(20,), (19,)]


def test_a_namespace_entered_without_setsid_has_no_session() -> None:
    """Its init has the number 0 for session and group."""
    snapshot = criutree.load(folder((1, 0, 0, 0, (1,)), (2, 1, 0, 0, (2,))))

    assert {(task.pgid, task.sid) for task in snapshot.tasks} == {(OUTSIDE, OUTSIDE)}


def test_what_processes_share_has_one_id() -> None:
    """CRIU gives each object an id, whether shared or not."""

    def ids(vm: int, files: int, fs: int) -> Any:
        return made("task_kobj_ids_entry", vm_id=vm, files_id=files, fs_id=fs, sighand_id=9)

    snapshot = criutree.load(
        folder(
            *((pid, pid - 1, 1, 1, (pid,)) for pid in (1, 2, 3)),
            **{"core-1": core(ids=ids(1, 2, 3)), "ids-2": imagefile.image("ids", [ids(2, 2, 4)])},
        )
    )

    assert [task.shares for task in snapshot.tasks] == [Shares(files=1), Shares(files=1), None]


def test_ids_of_a_user_namespace_are_those_outside() -> None:
    """An id that is not mapped is not known."""
    ids = made("task_kobj_ids_entry", vm_id=1, files_id=1, fs_id=1, sighand_id=1, user_ns_id=10)
    fields = ("uid", "gid", "euid", "egid", "suid", "sgid", "fsuid", "fsgid", "secbits")
    creds = made("creds_entry", **dict.fromkeys(fields, 5) | {"gid": 2000})
    extent = made("uid_gid_extent", first=0, lower_first=100_000, count=1000)
    users = made("userns_entry", uid_map=[extent], gid_map=[extent])
    (task,) = criutree.load(
        folder(
            (1, 0, 1, 1, (1,)),
            **{
                "core-1": core(ids=ids),
                "creds-1": imagefile.image("creds", [creds]),
                "userns-10": imagefile.image("userns", [users]),
            },
        )
    ).tasks

    assert (task.uid, task.gid) == (100_005, None)


def test_a_dead_leader_of_living_threads_is_called_so() -> None:
    """ckptree writes them; CRIU refuses to dump them."""
    files = folder((1, 0, 1, 1, (1, 2)), **{"core-1": core(criuschema.DEAD, 256)})
    thread = made("thread_core_entry", futex_rla=0, futex_rla_len=0)
    files.data["core-2.img"] = imagefile.image("core", [made("core_entry", mtype=1, thread_core=thread)])
    leader, other = criutree.load(files).tasks

    assert (leader.state, leader.exit_code) == (TaskState.DEAD_LEADER, 256)
    assert (other.state, other.exit_signal, other.comm) == (TaskState.RUNNING, -1, None)


@settings(patient, max_examples=examples(60))
@given(snapshots())
def test_a_folder_that_ckptree_wrote_is_read(snapshot: Snapshot) -> None:
    """It has the same processes, parents, groups and sessions, as far as CRIU's numbers tell them."""
    written = registry.dump(snapshot, "criu").data
    assert isinstance(written, dict)
    files = criuimages.Files(written)
    before = criutree.tree_entries(files)
    again = registry.dump(criutree.load(files), "criu").data
    assert isinstance(again, dict)
    after = criutree.tree_entries(criuimages.Files(again))

    assert not criutree.is_dump(files)
    assert {entry.pid: (entry.ppid, set(entry.threads)) for entry in after} == {
        entry.pid: (entry.ppid, set(entry.threads)) for entry in before
    }


def test_the_root_of_a_family_comes_back() -> None:
    """Its groups and sessions, too."""
    written = registry.dump(a_family(), "criu").data
    assert isinstance(written, dict)
    (kept,) = [numbers(criutree.load(criuimages.Files(written)))]

    assert [row[:2] for row in kept if row[0] == row[2]] == [(4711, 0), (4712, 4711), (4720, 4712), (4722, 4711)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no entry"),
        ([(0, 0, 1, 1, ())], "pid is 0"),
        ([(1 << 22, 0, 1, 1, ())], "pid is 4194304"),
        ([(1, 0, 1 << 22, 1, ())], "pgid is 4194304"),
        ([(1, 2, 1, 1, ())], "the first entry is the root"),
        ([(1, 0, 1, 1, ()), (2, 3, 1, 1, ())], "ppid is 3, and no entry before it"),
        ([(1, 0, 1, 1, ()), (2, 0, 1, 1, ())], "ppid is 0, and no entry before it"),
        ([(1, 0, 1, 1, ()), (1, 1, 1, 1, ())], "pid 1 is already that of another task"),
        ([(1, 0, 1, 1, (1, 2)), (2, 1, 1, 1, ())], "pid 2 is already that of another task"),
        ([(1, 0, 1, 1, (1, 1 << 22))], "thread is 4194304"),
        ([(1, 0, 1, 1, (1, 2, 2))], "two of its threads"),
        ([(5, 0, 5, 5, (5, 6)), (7, 6, 7, 7, ())], "ppid is 6, and no entry"),
    ],
)
def test_entries_that_make_no_tree_are_refused(rows: list[Any], message: str) -> None:
    """The error names the file, the process and the byte."""
    with pytest.raises(FormatError, match=message) as raised:
        criutree.load(folder(*rows))

    assert raised.value.path.startswith("pstree.img")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("pstree.img", None, "pstree.img: the folder has no such file, .*: did the dump fail[?] See dump.log"),
        ("core-4.img", None, "core-4.img: the folder has no such file"),
        ("core-3.img", core(comm=b"x", task_state=9), "core-3.img: tc.task_state: is 9"),
        ("core-2.img", core(), "core-2.img: the entry lacks thread_core, and 2 is a thread"),
        ("ids-1.img", b"", "ids-1.img at byte 0"),
    ],
)
def test_a_file_that_the_tree_needs_is_missed(name: str, data: bytes | None, message: str) -> None:
    """`check` finds it, too."""
    files = criuimages.dump("container")
    del files.data[name]
    if data is not None:
        files.data[name] = data
    with pytest.raises(FormatError, match=message):
        criutree.load(files)

    assert "criu-image" in names(criucheck.check_folder(files))


def test_check_finds_what_is_wrong_with_each_file() -> None:
    """All at once, though the tree could be read."""
    files = criuimages.dump("container")
    files.data["files.img"] = files.data["files.img"][:-1]
    files.data["mm-6.img"] = bytes(8)
    del files.data["fs-3.img"]
    pages = next(name for name in files.data if name.startswith("pages-") and len(files.data[name]) > 4096)
    files.data[pages] = files.data[pages][:-1]
    found = criucheck.check_folder(files)

    assert names(found) == ["criu-image", "criu-image", "criu-missing", "criu-pages"]
    assert found[0].path == "files.img: file_entry"
    assert found[0].offset
    assert found[2].path == "fs-3.img"
    assert {each.severity for each in found} == {"error"}


def test_a_page_map_without_pages_is_found() -> None:
    """The pages of a parent or of zeros are in no file."""
    files = criuimages.dump("container")
    del files.data["pages-1.img"]

    assert set(names(criucheck.check_folder(files))) <= {"criu-pages"}


def test_a_tree_that_no_kernel_has_is_found() -> None:
    """The rules are those for any image: here a session leader is in a foreign group."""
    found = criucheck.check_folder(folder((1, 0, 1, 1, (1,)), (2, 1, 1, 2, (2,))))

    assert names(found) == ["session-leader-group"]


def with_tree(snapshot: Snapshot) -> criuimages.Files:
    """Return the container's folder with that tree beside the images."""
    files = criuimages.dump("container")
    files.data["tree.ckpt"] = registry.image(snapshot)
    return files


def test_a_tree_beside_the_images_is_compared_with_them() -> None:
    """The images' own tree is equal to them."""
    assert criucheck.check_folder(with_tree(criutree.load(criuimages.dump("container")))) == []


def test_a_difference_between_tree_and_images_is_named_by_task_and_field() -> None:
    """A task that only one of them has is a difference, too."""
    snapshot = criutree.load(criuimages.dump("container"))
    root, stopped, zombie, leader, _orphan, thread = snapshot.tasks
    other = Snapshot(
        mode="container",
        time_ns=0,
        pids=snapshot.pids,
        tasks=(
            root,
            stopped._replace(state=TaskState.RUNNING, pgid=root.pid, comm=b"st\nop"),
            zombie._replace(exit_code=WaitStatus(3 << 8 | 0x80)),  # a core was dumped, which is no difference
            leader._replace(exit_code=WaitStatus(5)),
            thread,
        ),
    )
    found = criucheck.check_folder(with_tree(other))

    assert [(each.name, each.path) for each in found] == [
        ("criu-tree", "tree.ckpt: task 3 (stopped): pgid"),
        ("criu-tree", "tree.ckpt: task 3 (stopped): state"),
        ("criu-tree", "tree.ckpt: task 3 (stopped): comm"),
        ("criu-tree", "tree.ckpt: task 5 (sample): exit_code"),
        ("criu-tree", "tree.ckpt: task 6 (orphan): pid"),
    ]
    assert found[0].message == "is 1 in tree.ckpt, and 3 in the images"
    assert found[2].message == "is st\\nop in tree.ckpt, and stopped in the images"


def test_a_tree_of_another_process_is_found() -> None:
    """Its tasks are not in the images."""
    found = criucheck.check_folder(with_tree(a_snapshot([(7,)], [a_task(1, 0)], mode="subtree")))

    assert {each.name for each in found} == {"criu-tree"}
    assert found[0].message == "task 7 (task-1) is in tree.ckpt, and not in the images"


def test_a_damaged_tree_beside_the_images_is_found() -> None:
    """The images are checked all the same."""
    files = criuimages.dump("container")
    files.data["tree.ckpt"] = b"{}"

    assert names(criucheck.check_folder(files)) == ["criu-tree"]


@settings(patient, max_examples=examples(300))
@given(st.sampled_from(["pstree.img", "core-1.img", "core-2.img", "core-4.img", "ids-3.img"]), st.data())
def test_no_mutation_of_a_folder_does_harm(name: str, data: st.DataObject) -> None:
    """Only the project's own error comes out, and a tree that is read is written as an image."""
    files = criuimages.dump("container")
    mutated = bytearray(files.data[name])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(8, len(mutated) - 1))
        mutated[at] = data.draw(st.integers(0, 255))
    files.data[name] = bytes(mutated)
    found = criucheck.check_folder(files)
    try:
        snapshot = criutree.load(files)
    except FormatError:
        assert "criu-image" in names(found)
    else:
        assert registry.load(registry.image(snapshot)).tasks == snapshot.tasks


def test_a_real_folder_has_a_time(tmp_path: Path) -> None:
    """It is that of pstree.img: CRIU writes none."""
    criuimages.written("subtree", tmp_path)
    snapshot = criutree.load(imagefolder.ImageFolder(tmp_path))

    assert snapshot.time_ns == (tmp_path / "pstree.img").stat().st_mtime_ns
