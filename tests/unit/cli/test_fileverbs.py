# SPDX-License-Identifier: Apache-2.0
"""The verbs on files: output, files, and exit codes."""

import json
import os
import pwd
import resource
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from agent.cli import namedfile
from agent.model import Completeness
from agent.proc import users
from agent.proc.host import boot_id
from exporters import registry
from exporters.image import checkpoint
from tests.support import commandline, criuimages
from tests.support.builders import a_family, a_snapshot
from tests.support.images import GOLDEN, a_record, patched, with_records

Run = Callable[..., commandline.Ran]
TOP = Path(__file__).parents[3]


@pytest.fixture
def here(tmp_path: Path) -> Run:
    """Run ckptree in a folder with golden.ckpt, family.ckpt and bad.ckpt."""
    (tmp_path / "golden.ckpt").write_bytes(GOLDEN)
    (tmp_path / "family.ckpt").write_bytes(checkpoint.dumps(a_family()))
    (tmp_path / "bad.ckpt").write_bytes(patched(GOLDEN, 475, "<i", 3))
    return partial(commandline.here, cwd=tmp_path)


def test_check_finds_nothing_in_a_sound_image(here: Run) -> None:
    """The exit code is 0, without data on standard output."""
    ran = here("check", "family.ckpt")

    assert (ran.returncode, ran.stdout) == (0, b"")
    assert b"family.ckpt: sound" in ran.stderr


def test_check_says_what_is_wrong_and_where_and_exits_with_8(here: Run) -> None:
    """The findings go to standard output, as text or as JSON, for a file or standard input."""
    plain, as_json = here("check", "bad.ckpt"), here("check", "-", "--json", data=patched(GOLDEN, 475, "<i", 3))

    assert (plain.returncode, as_json.returncode) == (8, 8)
    assert plain.stdout.decode().startswith("error parent-without-task at byte 475 (tags 2, 3): TREE[1].vppid: ")
    assert [(one["name"], one["offset"]) for one in json.loads(as_json.stdout)] == [("parent-without-task", 475)]


READERS = [("show",), ("check",), ("convert",), ("diff", "family.ckpt"), ("plan",), ("restart",)]
ENDLESS = {"a device": "/dev/zero", "standard input": "-", "a file": "large"}


def reading(arguments: tuple[str, ...], how: str, folder: Path, size: int) -> tuple[str, ...]:
    """Return the words that have a verb read a file without an end, or of this size."""
    (folder / "family.ckpt").write_bytes(checkpoint.dumps(a_family()))
    with (folder / "large").open("wb") as large:
        large.truncate(size)
    return (*arguments, ENDLESS[how], *(["out"] if arguments == ("convert",) else []))


def refusal(how: str, bound: str) -> str:
    """Return the message on such a file."""
    said = "standard input" if how == "standard input" else ENDLESS[how]
    return f"ckptree: {said}: has more than {bound}, which is the most that is read of it\n"


@pytest.mark.parametrize("arguments", READERS)
@pytest.mark.parametrize("how", ENDLESS)
def test_a_file_without_an_end_is_refused_with_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], how: str
) -> None:
    """The bound is a smaller one here, which is met sooner."""
    monkeypatch.setattr(namedfile, "MOST_BYTES", 1 << 20)
    words = reading(arguments, how, tmp_path, (1 << 20) + 1)
    with Path("/dev/zero").open("rb") as zeros:
        ran = commandline.here(*words, cwd=tmp_path, streams={0: zeros.fileno()})

    assert (ran.returncode, ran.stderr.decode()) == (8, refusal(how, "1048576 bytes (1 MiB)"))


@pytest.mark.parametrize(
    ("arguments", "how"),
    [*((verb, "a device") for verb in READERS), (("show",), "a file"), (("show",), "standard input")],
)
def test_the_bound_of_a_file_fits_a_gigabyte_of_memory(tmp_path: Path, arguments: tuple[str, ...], how: str) -> None:
    """A limit of the memory must not end the program before the bound does."""
    words = reading(arguments, how, tmp_path, namedfile.MOST_BYTES + 1)
    with Path("/dev/zero").open("rb") as zeros:
        ran = commandline.ckptree(
            *words,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(TOP)},
            stdin=zeros,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30)),
        )

    assert (ran.returncode, ran.stderr.decode()) == (8, refusal(how, f"{namedfile.MOST_BYTES} bytes (256 MiB)"))


def test_diff_of_equals_is_0_and_of_others_is_1(here: Run, tmp_path: Path) -> None:
    """Tasks are matched by their numbers; another format or dialect is no difference."""
    assert here("convert", "family.ckpt", "family.json", "-f", "json").returncode == 0
    assert here("convert", "family.ckpt", "v23.ckpt", "--dialect", "v23").returncode == 0
    same, like, other = (here("diff", "family.ckpt", b) for b in ("family.json", "v23.ckpt", "golden.ckpt"))

    assert (same.returncode, like.returncode, other.returncode) == (0, 0, 1)
    assert other.stdout
    assert json.loads(here("diff", "family.ckpt", "golden.ckpt", "--json").stdout)["equal"] is False
    assert here("diff", "-", "-").returncode == 2
    assert (tmp_path / "v23.ckpt").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("through", ["json", "msgpack"])
@pytest.mark.parametrize("dialect", ["seed", "v23"])
def test_convert_there_and_back_is_the_same_bytes(here: Run, through: str, dialect: str) -> None:
    """The dialect is kept."""
    image = checkpoint.dumps(replace(a_family(), dialect=dialect), dialect)  # type: ignore[arg-type]  # both are dialects
    there = here("convert", "-", "-", "-f", through, data=image)
    back = here("convert", "-", "-", "-f", "json" if through == "msgpack" else "msgpack", data=there.stdout)

    assert registry.image(registry.load(back.stdout)) == image
    assert there.stdout != image


def test_convert_reports_the_foreign_records_that_it_leaves_out(here: Run) -> None:
    """Type and length go to standard error."""
    ran = here("convert", "-", "-", data=with_records(a_record(4711, b"abcd")))

    assert ran.returncode == 0
    assert b"1 record of type 4711, 12 bytes, is not known here and left out" in ran.stderr


def test_records_of_one_type_take_one_line_and_those_of_many_types_a_few(here: Run) -> None:
    """A small file may have hundreds of thousands of them."""
    alike = here("convert", "-", "-", data=with_records(a_record(4711, b"abcd") * 50_000 + a_record(4712, b"")))
    many = here("convert", "-", "-", data=with_records(b"".join(a_record(5000 + n, b"") for n in range(500)) * 2))

    assert alike.stderr.splitlines()[:2] == [
        b"ckptree: standard input: 50000 records of type 4711, 600000 bytes, are not known here and left out",
        b"ckptree: standard input: 1 record of type 4712, 8 bytes, is not known here and left out",
    ]
    assert len(many.stderr.splitlines()) == 11
    assert b"980 records of 490 other types, 7840 bytes, are not known here and left out" in many.stderr


def test_convert_to_a_folder_says_what_criu_has_no_word_for(here: Run, tmp_path: Path) -> None:
    """A folder is refused where a stream is named."""
    ran = here("convert", "family.ckpt", "images", "-f", "criu")

    assert (ran.returncode, ran.stdout) == (0, b"")
    assert (tmp_path / "images/pstree.img").is_file()
    assert b"ckptree: criu: " in ran.stderr
    assert here("convert", "family.ckpt", "-", "-f", "criu").returncode == 2


@pytest.mark.parametrize("verb", ["show", "check", "plan", "restart"])
def test_a_folder_is_no_snapshot_and_one_of_criu_images_is_called_so(here: Run, tmp_path: Path, verb: str) -> None:
    """A file and a folder are named in different ways."""
    here("convert", "family.ckpt", "images", "-f", "criu")
    (tmp_path / "folder").mkdir()
    images, folder = here(verb, "images"), here(verb, "folder")

    assert (images.returncode, folder.returncode) == (1, 1)
    assert images.stderr == b"ckptree: cannot read images: it is a folder of CRIU images: name it as criu:images\n"
    assert folder.stderr == (
        b"ckptree: cannot read folder: it is a folder, and a snapshot is a file; "
        b"a folder of CRIU images is named criu:folder\n"
    )


@pytest.mark.parametrize("words", [("show", "s3:b/x"), ("convert", "family.ckpt", "nats:b/x"), ("check", "nat://b/x")])
def test_an_address_with_a_mistake_is_no_name_of_a_file(here: Run, tmp_path: Path, words: tuple[str, ...]) -> None:
    """Nothing of that name is read or written; the message has the form of an address."""
    ran = here(*words)

    assert (ran.returncode, ran.stdout) == (2, b"")
    assert b": no address of a store: expected " in ran.stderr
    assert len(list(tmp_path.iterdir())) == 3


@pytest.fixture
def dump(here: Run, tmp_path: Path) -> Path:
    """Return a folder that CRIU wrote."""
    return criuimages.written("container", tmp_path / "dump")


def test_every_verb_that_reads_a_file_reads_a_folder_of_criu_images(here: Run, dump: Path) -> None:
    """The tree is that of the images."""
    shown = here("show", "criu:dump")

    assert (shown.returncode, shown.stderr) == (0, b"")
    assert "container of 1 " in shown.stdout.decode()
    assert "6 orphan" in shown.stdout.decode()
    assert len(json.loads(here("show", "criu:dump", "--json").stdout)["tasks"]) == 6
    assert here("check", "criu:dump").stderr == b"ckptree: criu:dump: sound\n"
    assert here("convert", "criu:dump", "dump.ckpt").returncode == 0
    assert here("diff", "criu:dump", "dump.ckpt").returncode == 0
    assert here("diff", "family.ckpt", "criu:dump").returncode == 1


def test_a_folder_that_ckptree_wrote_is_read_too(here: Run) -> None:
    """It has the tree alone, and `check` says so."""
    here("convert", "family.ckpt", "images", "-f", "criu")
    ran, checked = here("show", "criu:images"), here("check", "criu:images")

    assert (ran.returncode, ran.stderr) == (0, b"")
    assert "4712 make" in ran.stdout.decode()
    assert b"criu:images: it holds the tree alone" in checked.stderr


def test_the_tree_beside_the_images_is_the_tree(here: Run, dump: Path) -> None:
    """It has births and start times, which CRIU does not write; `check` compares both."""
    (dump / "tree.ckpt").write_bytes(checkpoint.dumps(a_family()))
    shown, checked = here("show", "criu:dump"), here("check", "criu:dump", "--json")

    assert "4712 make" in shown.stdout.decode()
    assert checked.returncode == 8
    assert {each["name"] for each in json.loads(checked.stdout)} == {"criu-tree"}


def test_a_folder_whose_images_are_damaged_is_refused_by_the_name_of_the_file(here: Run, dump: Path) -> None:
    """`check` lists what is wrong, and where."""
    (dump / "core-3.img").write_bytes((dump / "core-3.img").read_bytes()[:-1])
    shown, checked = here("show", "criu:dump"), here("check", "criu:dump")

    assert (shown.returncode, checked.returncode) == (8, 8)
    assert shown.stderr.startswith(b"ckptree: dump/core-3.img: core_entry at byte 8: an entry of ")
    assert checked.stdout.startswith(b"error criu-image at byte 8: core-3.img: core_entry: an entry of ")
    assert here("show", "criu:none").stderr == b"ckptree: cannot read criu:none: there is no such folder\n"
    assert here("check", "criu:family.ckpt").stderr == b"ckptree: cannot read criu:family.ckpt: it is no folder\n"
    assert here("show", "criu:").stderr == b"ckptree: criu: names no folder: write criu:DIR\n"
    assert here("show", "criu:").returncode == 1


def test_plan_tells_what_criu_would_do_with_a_tree(here: Run, dump: Path) -> None:
    """Exit code 7 where it would refuse, hang or be wrong; the findings are data."""
    fine = here("plan", "criu:dump", "--for", "criu")
    criuimages.written("subtree", dump)
    wrong, as_json = here("plan", "criu:dump", "--for", "criu"), here("plan", "criu:dump", "--for=criu", "--json")

    assert (fine.returncode, fine.stdout) == (0, b"CRIU 4.2 restores this tree as it is\n")
    assert (wrong.returncode, as_json.returncode) == (7, 7)
    assert wrong.stdout.startswith(b"wrong: task 5 (10): process 10: 4 had adopted it as a subreaper; CRIU ")
    assert wrong.stderr == b"ckptree: CRIU 4.2 does not bring this tree back as it was: 1 task wrong\n"
    (found,) = json.loads(as_json.stdout)
    assert list(found) == ["tag", "pid", "kind", "id", "rule", "text", "outcome"]
    assert (found["pid"], found["rule"], found["outcome"]) == (10, "orphan-outside", "wrong")


@pytest.mark.parametrize("option", ["-f svg", "-f dot", "--no-pids", "--no-pidns"])
def test_a_forecast_for_criu_has_no_plan_to_draw_or_to_change(here: Run, option: str) -> None:
    """Options of a plan of ckptree's own are refused."""
    assert here("plan", "family.ckpt", "--for", "criu", *option.split()).returncode == 2


@pytest.mark.parametrize(("verb", "code"), [("plan", 0), ("plan -f svg", 0), ("check", 0), ("restart --run argv", 7)])
def test_a_snapshot_that_calls_itself_incomplete_is_warned_of(here: Run, tmp_path: Path, verb: str, code: int) -> None:
    """The exit code is the same as of a whole one."""
    doubtful = replace(a_family(), completeness=Completeness("no", reasons=("source procfs", "another")))
    (tmp_path / "doubtful.ckpt").write_bytes(checkpoint.dumps(doubtful))
    name, *options = verb.split()
    ran, whole = here(name, "doubtful.ckpt", *options), here(name, "family.ckpt", *options)
    said = b"ckptree: the image says that it is incomplete: source procfs; another; the tree may never have been so\n"
    if name == "check":
        assert b"warning incomplete at byte" in ran.stdout
    else:
        assert ran.stderr == said + whole.stderr

    assert ran.returncode == whole.returncode == code
    assert b"incomplete" not in whole.stdout + whole.stderr


def test_a_name_that_promises_another_format_is_remarked_on(here: Run, tmp_path: Path) -> None:
    """The remark comes only if no format is given; the content of a file tells its format."""
    unsaid, said, neutral = (
        here("convert", "golden.ckpt", *arguments) for arguments in (("a.json",), ("b.json", "-f", "json"), ("c.bin",))
    )

    assert unsaid.stderr == b"ckptree: a.json gets the format ckpt, whatever it is called: -f json writes json\n"
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "c.bin").read_bytes()
    assert (said.stderr, neutral.stderr) == (b"", b"")


def test_convert_draws(here: Run) -> None:
    """The output is text for graphviz, a picture, or a page."""
    assert here("convert", "family.ckpt", "-", "-f", "dot").stdout.startswith(b"digraph")
    assert b"<svg" in here("convert", "family.ckpt", "-", "-f", "svg").stdout
    assert here("convert", "family.ckpt", "-", "-f", "html").stdout.startswith(b"<!doctype html>")


@pytest.mark.parametrize(
    ("fmt", "named", "nameless"),
    [
        ("html", '"users":{"0":"', '"users":{}'),
        ("dot", "&#10;user ", "&#10;uid 0, gid"),
        ("svg", "&#10;user ", "&#10;uid 0, gid"),
    ],
    ids=["html", "dot", "svg"],
)
def test_drawings_name_the_users_of_this_host_as_show_does(
    here: Run, tmp_path: Path, fmt: str, named: str, nameless: str
) -> None:
    """On another host an id may be another user's."""
    root = pwd.getpwuid(0).pw_name
    known = users.names(boot_id())(0) is not None
    for name, boot, there in (("here", boot_id(), known), ("elsewhere", "0" * 8, False)):
        (tmp_path / f"{name}.ckpt").write_bytes(checkpoint.dumps(a_snapshot(boot_id=boot)))
        drawn = here("convert", f"{name}.ckpt", "-", "-f", fmt).stdout.decode().replace("&#160;", " ")

        assert (f"{named}{root}" in drawn, nameless in drawn) == (there, not there)
        assert (f"user {root}" in here("show", f"{name}.ckpt").stdout.decode()) is there


@pytest.mark.parametrize("verb", [("show",), ("convert", "x.ckpt"), ("diff", "golden.ckpt")])
def test_a_bad_file_is_named(here: Run, tmp_path: Path, verb: tuple[str, ...]) -> None:
    """Several files may be given."""
    (tmp_path / "x.bin").write_bytes(b"nothing")
    arguments = (*verb[:1], "x.bin", *verb[1:])
    ran = here(*arguments)

    assert ran.returncode == 8
    assert b"ckptree: x.bin: file at byte 0" in ran.stderr
    assert not (tmp_path / "x.ckpt").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("convert", "golden.ckpt", "x", "-f", "yaml"),
        ("convert", "golden.ckpt", "x", "--dialect", "v24"),
        ("convert", "golden.ckpt", ""),
        ("convert", "golden.ckpt", "x/"),
        ("convert", "golden.ckpt"),
        ("check",),
        ("diff", "golden.ckpt"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    here: Run, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """The exit code is 2."""
    before = set(os.listdir(tmp_path))
    ran = here(*arguments)

    assert (ran.returncode, ran.stdout) == (2, b"")
    assert set(os.listdir(tmp_path)) == before


def test_links_in_a_circle_are_an_error_of_ours(here: Run, tmp_path: Path) -> None:
    """The error is not pathlib's."""
    (tmp_path / "loop").symlink_to("loop")
    ran = here("convert", "golden.ckpt", "loop")

    assert (ran.returncode, b"Traceback" in ran.stderr) == (1, False)
    assert b"Too many levels of symbolic links" in ran.stderr


def test_a_pipe_without_a_name_is_written_to(here: Run, tmp_path: Path) -> None:
    """/dev/stdout is a link to one."""
    piped = commandline.ckptree(
        "convert", "golden.ckpt", "/dev/stdout", cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(TOP)}
    )

    assert piped.stdout == here("convert", "golden.ckpt", "-").stdout != b""
