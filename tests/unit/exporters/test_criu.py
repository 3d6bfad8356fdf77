# SPDX-License-Identifier: Apache-2.0
"""The folder of CRIU images: CRIU's own crit reads it and shows the snapshot's tree."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings

from agent.errors import HostError
from agent.model import CKPT_PID_ROOT, Completeness, Snapshot, Task, TaskState
from exporters import registry, store
from exporters.criu import criuformat, criuschema, imagefile
from tests.support.builders import a_bare_task, a_crowd, a_family, a_snapshot, a_task, snapshots
from tests.support.examples import examples, patient

SYSTEM_PYTHON = "/usr/bin/python3"  # the Python of crit, which has pycriu
# Both use the system's packages.
SYSTEM = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

Pycriu = tuple[dict[str, int], dict[str, Any], dict[str, int]]
# pycriu's magic numbers and messages, as JSON: {name: number}, {message: {field number: [name, label, type]}}.
ASK_PYCRIU = """
import importlib, json, pkgutil
from pycriu import images
from pycriu.images import core_pb2, magic
from google.protobuf.descriptor import FieldDescriptor as FD
labels = {FD.LABEL_REQUIRED: "required", FD.LABEL_OPTIONAL: "optional", FD.LABEL_REPEATED: "repeated"}
types = {getattr(FD, name): name[5:].lower() for name in dir(FD) if name.startswith("TYPE_")}
found = {}
for module in pkgutil.iter_modules(images.__path__):
    if module.name.endswith("_pb2"):
        messages = importlib.import_module("pycriu.images." + module.name).DESCRIPTOR.message_types_by_name
        for name, message in messages.items():
            found[name] = {
                f.number: [f.name, labels[f.label], f.message_type.name if f.message_type else types[f.type]]
                for f in message.fields
            }
march = core_pb2.core_entry.DESCRIPTOR.enum_types_by_name["march"].values_by_name
print(json.dumps([magic.by_name, found, {name: value.number for name, value in march.items()}]))
"""


@pytest.fixture(scope="session")
def crit() -> Callable[..., str]:
    """Run CRIU's tool for images: arguments in, standard output back."""
    program = shutil.which("crit")
    if program is None:
        assert os.geteuid(), "crit is missing, which `make setup` installs for root (Debian: criu)"
        pytest.skip("no crit here (Debian: criu)")

    def run(*arguments: str | Path) -> str:
        ran = subprocess.run(
            [str(program), *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            env=SYSTEM,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        return ran.stdout

    return run


class Shown(NamedTuple):
    """A process as crit shows it.

    Attributes:
        comm: with four spaces before it for each generation.
    """

    pid: int
    pgid: int
    sid: int
    comm: str


def written(snapshot: Snapshot, folder: Path) -> Path:
    """Return the folder of a snapshot."""
    shutil.rmtree(folder, ignore_errors=True)
    store.write(folder, registry.dump(snapshot, "criu").data)
    return folder


def decoded(crit: Callable[..., str], path: Path) -> list[dict[str, Any]]:
    """Return the entries of an image, as crit decodes them."""
    entries: list[dict[str, Any]] = json.loads(crit("decode", "-i", path))["entries"]
    return entries


def shown(crit: Callable[..., str], folder: Path) -> list[Shown]:
    """Return the lines of ``crit x DIR ps``."""
    head, *lines = crit("x", folder, "ps").splitlines()
    assert head.split() == ["PID", "PGID", "SID", "COMM"]
    return [Shown(int(line[:7]), int(line[7:14]), int(line[14:21]), line[24:]) for line in lines]


def processes(snapshot: Snapshot) -> list[dict[str, Any]]:
    """Return the tree in CRIU's words: a process for each thread group, numbers of the root's namespace, 0 for none."""
    tasks = {task.pid: task for task in snapshot.tasks}
    found: dict[int, dict[str, Any]] = {}
    for task in snapshot.tasks:
        pid, parent = snapshot.number(task.tgid), tasks.get(task.ppid)
        if pid not in found:
            found[pid] = {
                "pid": pid,
                "ppid": snapshot.number(parent.tgid) if parent else 0,
                "pgid": snapshot.number(task.pgid),
                "sid": snapshot.number(task.sid),
                "threads": [pid],
            }
        if task.pid != task.tgid:
            found[pid]["threads"].append(snapshot.number(task.pid))
    return list(found.values())


def entries_of(data: bytes) -> list[dict[str, Any]]:
    """Return the entries of pstree.img, without crit: framing by hand, messages by the library."""
    made, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "little")
        entry = criuschema.messages()["pstree_entry"].FromString(data[at + 4 : at + 4 + length])
        made.append({field.name: value for field, value in entry.ListFields()})
        made[-1]["threads"] = list(made[-1]["threads"])
        at += 4 + length
    return made


def notes_on(*tasks: Task, **fields: Any) -> tuple[str, ...]:
    """Return the notes on a root and these tasks, each with a pid of its own."""
    root = a_task(1, 0, comm=b"root")
    snapshot = a_snapshot([(100 + n,) for n in range(5)], (root, *tasks), **fields)
    return registry.dump(snapshot, "criu").notes


def test_crit_shows_the_tree(crit: Callable[..., str], tmp_path: Path) -> None:
    """Numbers, names and children come in the order of the snapshot."""
    assert shown(crit, written(a_family(), tmp_path / "images")) == [
        (4711, 4711, 4711, "bash"),
        (4712, 4712, 4711, "    make"),
        (4720, 4720, 4720, "        init"),
        (4722, 4690, 4711, "    cc"),
    ]


def test_crit_decodes_every_number_of_the_tree(crit: Callable[..., str], tmp_path: Path) -> None:
    """This includes parents and threads."""
    folder = written(a_family(), tmp_path / "images")
    keys = ("pid", "ppid", "pgid", "sid", "threads")

    assert [tuple(entry[key] for key in keys) for entry in decoded(crit, folder / "pstree.img")] == [
        (4711, 0, 4711, 4711, [4711]),
        (4712, 4711, 4712, 4711, [4712, 4713, 4714]),
        (4720, 4712, 4720, 4720, [4720]),
        (4722, 4711, 4690, 4711, [4722]),
    ]


@settings(patient, max_examples=examples(12))
@given(snapshots())
def test_crit_shows_any_tree(
    crit: Callable[..., str], tmp_path_factory: pytest.TempPathFactory, snapshot: Snapshot
) -> None:
    """Trees have ids from outside, threads as parents, and names that are not UTF-8."""
    folder = written(snapshot, tmp_path_factory.getbasetemp() / "any")
    expected = processes(snapshot)
    # A name may contain a line break, so the processes are counted by their numbers.
    listed = crit("x", folder, "ps")

    assert decoded(crit, folder / "pstree.img") == expected
    assert all(f"{each['pid']:7}{each['pgid']:7}{each['sid']:7}   " in listed for each in expected)


@patient
@given(snapshots())
def test_every_parent_stands_before_its_children_and_every_number_has_its_file(snapshot: Snapshot) -> None:
    """crit needs that order and those files; only one process has no parent."""
    files = registry.dump(snapshot, "criu").data
    assert isinstance(files, dict)
    entries = entries_of(files["pstree.img"])
    pids = [entry["pid"] for entry in entries]

    assert entries == processes(snapshot)
    assert [entry["ppid"] for entry in entries].count(0) == 1
    assert all(entry["ppid"] in pids[:place] for place, entry in enumerate(entries) if place)
    assert set(files) == {"pstree.img"} | {f"core-{tid}.img" for entry in entries for tid in entry["threads"]}


def test_a_crowd_is_shown_whole(crit: Callable[..., str], tmp_path: Path) -> None:
    """Many of its processes are in groups whose leader is gone."""
    listed = shown(crit, written(a_crowd(600, 400), tmp_path / "images"))

    assert [each.pid for each in listed] == list(range(1000, 1600))
    assert [each.pgid for each in listed[:400]] == list(range(1600, 2000))


def test_the_state_of_a_process_is_that_of_criu(crit: Callable[..., str], tmp_path: Path) -> None:
    """The folder has CRIU's state numbers, wait(2)'s exit codes, and the other facts of a process."""
    tasks = [
        a_task(1, 0, comm=b"root", subreaper=True),
        a_task(2, 1, state=TaskState.STOPPED),
        a_task(3, 1, state=TaskState.ZOMBIE, exit_code=9),
        a_task(4, 1, state=TaskState.DEAD_LEADER, exit_code=3 << 8),
        a_task(5, 1, tgid=4, comm=b"survivor"),
    ]
    folder = written(a_snapshot([(number,) for number in range(10, 15)], tasks), tmp_path / "images")
    cores = [decoded(crit, folder / f"core-{pid}.img")[0] for pid in range(10, 15)]
    known = [(core["tc"]["task_state"], core["tc"]["exit_code"], core["tc"]["child_subreaper"]) for core in cores[:4]]

    assert known == [(1, 0, True), (3, 0, False), (2, 9, False), (2, 3 << 8, False)]
    assert {core["mtype"] for core in cores} == {"X86_64"}
    assert cores[4]["thread_core"]["comm"] == "survivor"
    assert "tc" not in cores[4]


@pytest.mark.slow
def test_what_crit_decodes_it_encodes_to_the_same_bytes(crit: Callable[..., str], tmp_path: Path) -> None:
    """So crit knows every byte of the files."""
    folder = written(a_family(), tmp_path / "images")
    for path in sorted(folder.iterdir()):
        crit("decode", "-i", path, "-o", tmp_path / "json")
        crit("encode", "-i", tmp_path / "json", "-o", tmp_path / "again")

        assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_a_name_that_is_no_utf_8_is_shown_escaped(crit: Callable[..., str], tmp_path: Path) -> None:
    """crit would fail on it. A name in UTF-8 stays as it is, backslashes too."""
    tasks = [a_task(1, 0, comm=b"a\xffb"), a_task(2, 1, comm="grün\\".encode())]
    folder = written(a_snapshot([(10,), (11,)], tasks), tmp_path / "images")

    assert [each.comm for each in shown(crit, folder)] == ["a\\xffb", "    grün\\"]
    assert "\\xHH, for 10" in "\n".join(registry.dump(a_snapshot([(10,), (11,)], tasks), "criu").notes)


@pytest.fixture(scope="session")
def pycriu(crit: Callable[..., str]) -> Pycriu:
    """Return pycriu's magic numbers, its messages, and machines."""
    ran = subprocess.run([SYSTEM_PYTHON, "-c", ASK_PYCRIU], env=SYSTEM, capture_output=True, text=True, check=True)
    magic, fields, machines = json.loads(ran.stdout)
    return magic, fields, machines


def test_magic_numbers_and_machines_are_those_that_pycriu_has(pycriu: Pycriu) -> None:
    """A kind is named there as its files are, but for some."""
    magic, _, machines = pycriu
    others = {
        "signal-s": "SIGNAL", "signal-p": "SIGNAL", "sigacts": "SIGACT", "filelocks": "FILE_LOCKS", "memfd": "MEMFD_INODE",
        "ipcns-var": "IPC_VAR", "mountpoints": "MNTS", "pagemap-shmem": "PAGEMAP", "eventfd": "EVENTFD_FILE",
        "eventpoll": "EVENTPOLL_FILE", "inotify": "INOTIFY_FILE", "fanotify": "FANOTIFY_FILE", "tty": "TTY_FILES",
        "netlinksk": "NETLINK_SK", "bpfmap-file": "BPFMAP_FILE",
    }  # fmt: skip
    newer = {"apparmor", "pidfd"}  # than the pycriu of Debian 12

    assert (magic["IMG_COMMON"], magic["IMG_SERVICE"]) == (imagefile.COMMON, imagefile.SERVICE)
    for stem, kind in imagefile.KINDS.items():
        name = others.get(stem, stem.upper().replace("-", "_"))
        assert magic.get(name, kind.magic if stem in newer else None) == kind.magic, stem
    assert {name.lower(): machines[name] for name in ("X86_64", "AARCH64")} == criuschema.MACHINES
    assert machines["UNKNOWN"] == criuschema.UNKNOWN_MACHINE


def test_fields_are_those_that_pycriu_has(pycriu: Pycriu) -> None:
    """Strings are bytes here, and enumerations numbers, which are encoded alike. A pycriu may be older than a field."""
    alike = {"string": "bytes", "enum": "uint32"}
    renamed = {("pagemap_entry", 2), ("user_desc_t", 10)}
    for message in criuschema.MESSAGES.keys() & pycriu[1].keys():
        theirs = pycriu[1][message]
        for field in criuschema.fields(message):
            if str(field.number) in theirs:
                name, label, kind = theirs[str(field.number)]
                assert (label, alike.get(kind, kind)) == (field.label, field.type), (message, field)
                assert name == field.name or (message, field.number) in renamed
            else:
                assert field.label != "required", (message, field)


def test_every_field_that_pycriu_requires_is_there(pycriu: Pycriu) -> None:
    """CRIU rejects a message without it."""
    for message in criuschema.MESSAGES.keys() & pycriu[1].keys():
        required = {int(number) for number, (_, label, _) in pycriu[1][message].items() if label == "required"}

        assert required <= {field.number for field in criuschema.fields(message)}, message


def test_the_bytes_of_a_tree_of_one() -> None:
    """The bytes are the magic of all images, the magic of this one, the length, then tag and value of each field."""
    files = registry.dump(a_snapshot([(12835,)]), "criu").data

    assert files == {
        "pstree.img": bytes.fromhex("19435654 30302750 0e000000 08a364 1000 18a364 20a364 28a364"),
        "core-12835.img": bytes.fromhex(
            "19435654 47380555 17000000 0801 1a13 0801 1000 1800 2000 2800 3204 62617368 900100"
        ),
    }


def test_what_every_snapshot_has_and_criu_has_not_is_noted() -> None:
    """The first note says that nothing can be restored from the files; a tree of one task has no other notes."""
    bare = Snapshot(
        "subtree", 0, a_snapshot().pids, (a_task(1, 0, start_ns=None, uid=None, gid=None, exit_signal=None),)
    )
    notes = registry.dump(a_snapshot(tasks=bare.tasks), "criu").notes

    assert len(notes) == 2
    assert "nothing that criu could restore" in notes[0]
    assert notes[1].startswith("left out: when, and on which host")


def test_what_a_family_has_and_criu_has_not_is_noted() -> None:
    """The notes are on levels, ghosts, births, ancestors, and the lists of the snapshot."""
    notes = "\n".join(registry.dump(a_family(), "criu").notes)

    assert "which namespaces they are in, are left out, for 4720\n" in notes
    assert "no pid without a task, but as a session or group of others: 4690\n" in notes
    assert "how, by whom and in which order they were born, start times, exit signals, user and group ids" in notes
    assert "arguments, working folders and environments" in notes
    assert "ancestors that are gone, through which births run (1)" in notes
    assert "which sessions and groups from outside there are: 4000, 4001" in notes
    assert "which tasks had entered from outside: 5000 sh" in notes


@pytest.mark.parametrize(
    ("tasks", "note"),
    [
        ([a_task(2, 1, sid=CKPT_PID_ROOT)], "a session from outside the tree; it is 0, for 101"),
        ([a_task(2, 1, pgid=CKPT_PID_ROOT)], "a group from outside the tree; it is 0, for 101"),
        ([a_task(2, 1, tgid=3), a_task(4, 1, tgid=3)], "the name of its first thread: 102"),
        ([a_task(2, 0, tgid=1), a_task(3, 2)], "a thread that is not its process's leader, for 102"),
        ([a_task(2, 1, state=None)], "alive is written, for 101"),
        ([a_task(2, 1, comm=None)], "an empty one is written, for 101"),
        ([a_task(2, 0, tgid=1, state=TaskState.ZOMBIE, exit_code=0)], "they are left out for the threads 101"),
        ([a_task(2, 1, child_namespace=0)], "into another pid namespace than its parent's, for 101"),
    ],
    ids=["session", "group", "leader", "parent", "state", "name", "thread", "namespace"],
)
def test_what_is_said_in_another_way_is_noted_with_whom_it_is_about(tasks: list[Task], note: str) -> None:
    """The note comes once, and only for the tasks concerned."""
    assert sum(note in each for each in notes_on(*tasks)) == 1
    assert not any(note.partition("10")[0] in each for each in notes_on())


def test_a_note_names_the_first_few() -> None:
    """A list of thousands of numbers would not be read."""
    notes = registry.dump(a_crowd(10, 8), "criu").notes

    assert any(note.endswith(": 1010, 1011, 1012, 1013, 1014, 1015 and 2 more") for note in notes)


def test_an_incomplete_snapshot_is_noted_with_its_reasons() -> None:
    """The files look like those of a complete snapshot."""
    notes = notes_on(completeness=Completeness("no", reasons=("a number is unknown",)))

    assert "these files do not say that the snapshot is incomplete: a number is unknown" in notes
    assert any("incomplete: it is not verified" in note for note in notes_on(completeness=Completeness("no")))


def test_an_unknown_machine_is_none_of_crius() -> None:
    """A bare image has no machine."""
    snapshot = Snapshot("subtree", 0, a_snapshot().pids, (a_bare_task(1, 0, 1, 1, 1, 0),))
    files = registry.dump(snapshot, "criu").data

    assert isinstance(files, dict)
    assert files["core-100.img"][12:].startswith(bytes([8, criuschema.UNKNOWN_MACHINE]))


def test_without_the_protobuf_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """ckptree does not depend on it; the other formats work without it."""
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    monkeypatch.setattr(criuformat, "messages", criuschema.messages.__wrapped__)  # messages are not cached
    with pytest.raises(HostError, match=r"package `protobuf`, .*: `pip install 'ckptree\[criu\]'`, or Debian's"):
        registry.dump(a_family(), "criu")

    assert registry.load(registry.image(a_family())) == a_family()


def test_a_folder_of_crius_is_no_file_that_can_be_read() -> None:
    """It holds less than a snapshot, so it can be written but not read."""
    found = registry.find("criu")

    assert (found.directory, found.text, found.reader) == (True, False, None)
    assert "criu" not in registry.LOSSLESS
