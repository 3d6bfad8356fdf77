# SPDX-License-Identifier: Apache-2.0
"""The command line: exit codes and streams. No test here needs BPF."""

import json
import os
import pty
import stat
import subprocess
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from agent.cli.app import commands
from agent.model import Tag
from exporters import registry
from tests.support.commandline import ckptree, here

NO_PID = str(2**22 + 1)  # larger than any pid can be
SUSPECT = "source procfs: read task by task while they ran"


@pytest.fixture
def root() -> Iterator[str]:
    """Yield the pid of a sleeping process as a root."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield str(process.pid)
        process.kill()


@pytest.fixture
def image(tmp_path: Path, root: str) -> Path:
    """Return a file with a snapshot."""
    path = tmp_path / "tree.ckpt"
    here("snapshot", root, "--source", "procfs", "-o", path)
    return path


def test_a_snapshot_from_proc_is_written_and_called_incomplete(tmp_path: Path, root: str) -> None:
    """The exit code is 6; the file exists and has the reason."""
    path = tmp_path / "tree.ckpt"
    ran = ckptree("snapshot", root, "--source", "procfs", "-o", path)

    assert (ran.returncode, ran.stdout) == (6, b"")
    assert ran.stderr.decode().startswith(f"ckptree: incomplete: {SUSPECT}")
    written = registry.load(path.read_bytes())
    assert (written.number(Tag(1)), written.completeness.complete) == (int(root), False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["tree.ckpt"]


def test_allow_incomplete_makes_it_0_and_still_says_so(root: str) -> None:
    """Data goes to stdout, messages to stderr."""
    ran = here("snapshot", root, "--source", "procfs", "--allow-incomplete")

    assert ran.returncode == 0
    assert registry.load(ran.stdout).number(Tag(1)) == int(root)
    assert SUSPECT in ran.stderr.decode()


@pytest.mark.parametrize("options", [("-f", "json"), ("--json",), ("-f", "json", "-o", "-")])
def test_json_goes_to_stdout_and_nothing_else_does(root: str, options: tuple[str, ...]) -> None:
    """Another program reads it."""
    ran = here("snapshot", root, "--source", "procfs", *options)
    document = json.loads(ran.stdout)

    assert (ran.returncode, document["format"], document["mode"]) == (6, "ckptree", "subtree")
    assert document["pids"][0]["numbers"] == [int(root)]


def test_details_are_added_on_request_alone(root: str) -> None:
    """A command line can hold a secret."""
    plain = json.loads(here("snapshot", root, "--source", "procfs", "--json").stdout)
    asked = json.loads(here("snapshot", root, "--source", "procfs", "--json", "--with-argv").stdout)

    assert [plain["tasks"][0][key] for key in ("argv", "cwd", "env")] == [None, None, None]
    assert asked["tasks"][0]["argv"] == ["sleep", "1000"]
    assert asked["tasks"][0]["cwd"] == os.fspath(Path.cwd())


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("no-such-verb",),
        ("snapshot",),
        ("snapshot", "1", "2"),
        ("snapshot", "1", "--no-such-option"),
        ("snapshot", "1", "-f", "yaml"),
        ("snapshot", "1", "--dialect", "v24"),
        ("snapshot", "1", "--mode", "all"),
        ("snapshot", "1", "--source", "guess"),
        ("snapshot", "1", "--timeout", "0"),
        ("snapshot", "1", "--timeout", "soon"),
        ("snapshot", "1", "--source", "bpf", "--socket", "/no/such/socket"),
        ("snapshot", "1", "--source", "procfs", "-o", ""),
        ("daemon", "--no-such-option"),
        ("daemon", "--config", "/no/such/file"),
        ("show",),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    """The exit code is 2, and there is no data."""
    ran = here(*arguments)

    assert (ran.returncode, ran.stdout) == (2, b"")
    assert b"Traceback" not in ran.stderr


def test_a_verb_like_an_unknown_one_is_named_once() -> None:
    """Both click and typer would name it."""
    ran = here("shwo")

    assert (ran.returncode, ran.stdout) == (2, b"")
    assert ran.stderr.endswith(b"Error: No such command 'shwo'. Did you mean 'show'?\n")


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "",
        "1.5",
        "0x10",
        "1 2",
        "-1",
        "pidns:",
        "pidns:x",
        "pidns:[",
        "pidns:[1",
        "[1]",
        "pidns:1:2",
        "user:1",
        "٣",
    ],
)
def test_a_root_of_no_known_kind_is_a_usage_error(text: str) -> None:
    """The error comes before any request."""
    ran = here("snapshot", "--source", "procfs", "--", text)

    assert (ran.returncode, ran.stdout) == (2, b"")
    assert f"ROOT {text!r}" in ran.stderr.decode()


def test_the_version_is_that_of_the_package() -> None:
    """The version is the installed one."""
    ran = here("--version")

    assert (ran.returncode, ran.stdout.decode()) == (0, f"ckptree {version('ckptree')}\n")


@pytest.mark.parametrize(
    ("text", "shown"),
    [(NO_PID, NO_PID), ("0", "pid 0"), ("pidns:1", "pid:[1]"), ("pidns:[1]", "pid:[1]"), ("pid:[1]", "pid:[1]")],
)
def test_a_root_that_nobody_has_is_no_such_root(tmp_path: Path, text: str, shown: str) -> None:
    """The exit code is 4, and there is no file."""
    ran = here("snapshot", text, "--source", "procfs", "-o", tmp_path / "tree.ckpt")

    assert (ran.returncode, ran.stdout) == (4, b"")
    assert shown.encode() in ran.stderr
    assert os.listdir(tmp_path) == []


def test_a_number_too_long_to_be_one_is_an_error_of_ours() -> None:
    """Python refuses to convert such a number, which must not show."""
    ran = here("snapshot", "9" * 5000, "--source", "procfs")

    assert ran.returncode == 2


def test_a_thread_is_no_root() -> None:
    """The message names its process."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait, args=(60,))
    thread.start()  # returns when the thread runs: its native_id is known
    try:
        ran = here("snapshot", str(thread.native_id), "--source", "procfs")
    finally:
        done.set()
        thread.join()

    assert ran.returncode == 4
    assert f"pid {thread.native_id} is a thread, not a process: its process is {os.getpid()}" in ran.stderr.decode()


def test_a_container_that_is_none_is_refused(tmp_path: Path, root: str) -> None:
    """The exit code is 7, and nothing is written."""
    ran = here("snapshot", root, "--source", "procfs", "--mode", "container", "-o", tmp_path / "tree.ckpt")

    assert (ran.returncode, ran.stdout) == (7, b"")
    assert f"{root} (sleep) is not the init of a container's pid namespace" in ran.stderr.decode()
    assert os.listdir(tmp_path) == []


def test_an_image_is_not_written_to_a_terminal(root: str) -> None:
    """The exit code is 2, before anything is captured."""
    ours, theirs = pty.openpty()
    try:
        ran = here("snapshot", root, "--source", "procfs", streams={1: theirs})
        as_json = here("snapshot", root, "--source", "procfs", "-f", "json", streams={1: theirs})
        shown = os.read(ours, 10)
    finally:
        os.close(ours)
        os.close(theirs)

    assert (ran.returncode, as_json.returncode) == (2, 6)
    assert b"name a file with -o, or choose -f json" in ran.stderr
    assert shown.startswith(b"{")


@pytest.mark.parametrize("where", ["missing/tree.ckpt", "."])
def test_where_nothing_can_be_written_is_a_failure(tmp_path: Path, root: str, where: str) -> None:
    """The exit code is 1, and no part of a file remains."""
    ran = here("snapshot", root, "--source", "procfs", "-o", tmp_path / where)

    assert (ran.returncode, ran.stdout) == (1, b"")
    assert f"cannot write {tmp_path / where}" in ran.stderr.decode()
    assert os.listdir(tmp_path) == []


def test_a_failed_snapshot_leaves_the_file_of_before(image: Path) -> None:
    """The old file is not truncated first."""
    before = image.read_bytes()
    ran = here("snapshot", NO_PID, "--source", "procfs", "-o", image)

    assert ran.returncode == 4
    assert image.read_bytes() == before


def test_show_reads_a_file_or_standard_input_in_any_format(image: Path, root: str) -> None:
    """The content of a file tells its format."""
    drawn = here("show", image)
    document = here("show", image, "--json")
    again = here("show", "-", data=document.stdout)

    assert (drawn.returncode, document.returncode, again.returncode) == (0, 0, 0)
    assert f"\n{root} sleep".encode() in drawn.stdout
    assert again.stdout == drawn.stdout
    assert here("show", "-", data=image.read_bytes()).stdout == drawn.stdout


def test_show_is_plain_ascii_where_the_output_is(image: Path) -> None:
    """An example is a log."""
    ran = ckptree("show", image, env={**os.environ, "PYTHONIOENCODING": "ascii"})

    assert ran.returncode == 0
    assert ran.stdout.isascii()


@pytest.mark.parametrize("data", [b"", b"\0" * 64, b"root:x:0:0::/root:/bin/sh\n", b"{}", b"{", b"[]", b"\xff" * 9])
def test_what_is_no_image_is_a_bad_image(data: bytes) -> None:
    """The exit code is 8, with one line and no traceback."""
    ran = here("show", "-", data=data)

    assert (ran.returncode, ran.stdout) == (8, b"")
    assert ran.stderr.startswith(b"ckptree: ")
    assert ran.stderr.count(b"\n") == 1


def test_half_an_image_is_a_bad_image(image: Path) -> None:
    """This holds for a cut at any place."""
    data = image.read_bytes()
    for cut in (8, 100, len(data) // 2, len(data) - 1):
        assert here("show", "-", data=data[:cut]).returncode == 8


def test_a_file_that_cannot_be_read_is_a_failure(tmp_path: Path) -> None:
    """The exit code is 1, because the contents are unknown."""
    for path in (tmp_path / "missing", tmp_path):
        ran = here("show", path)
        assert (ran.returncode, ran.stdout) == (1, b"")
        assert f"cannot read {path}" in ran.stderr.decode()


def test_a_reader_that_has_had_enough_is_no_traceback(image: Path) -> None:
    """An example is ``ckptree show FILE | head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ran = ckptree("show", image, stdout=writer)
    finally:
        os.close(writer)

    assert b"Traceback" not in ran.stderr


def test_a_verb_by_itself_is_as_among_all() -> None:
    """The others' modules and options are left out, for they take time; what is no verb is answered by all."""
    every = commands()

    for name in every.commands:
        alone = commands(name)
        assert name in alone.commands
        assert [option.to_info_dict() for option in alone.commands[name].params] == [
            option.to_info_dict() for option in every.commands[name].params
        ]
    assert [*commands("restart").commands] == ["restart"]
    assert [*commands("restar").commands] == [*every.commands]


def test_help_is_data() -> None:
    """It goes to stdout with exit code 0, for each verb."""
    for arguments in (["--help"], ["-h"], ["snapshot", "-h"], ["daemon", "-h"], ["show", "-h"], ["status", "-h"]):
        ran = here(*arguments)
        assert (ran.returncode, ran.stderr) == (0, b"")
        assert ran.stdout.lower().startswith(b"usage: ckptree")


def test_the_help_of_each_verb_describes_each_argument_and_option() -> None:
    """The words are those of the code, whatever library prints them."""
    group = commands()
    assert isinstance(group, click.Group)
    for name, verb in group.commands.items():
        shown = " ".join(verb.get_help(click.Context(verb, info_name=name)).split())
        for parameter in verb.params:
            text = getattr(parameter, "help", None)
            assert text, f"{name}: {parameter.name} is not described"
            assert " ".join(text.split()) in shown, f"{name}: {parameter.name} is described, but not shown"
