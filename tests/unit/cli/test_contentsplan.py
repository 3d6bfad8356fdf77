# SPDX-License-Identifier: Apache-2.0
"""The plan of a folder that CRIU wrote: its contents, and what is said of them."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from agent.model import Completeness
from agent.record import replace
from agent.restart.contents import hostfacts
from agent.restart.rebuild import preflight
from exporters import registry
from tests.support import commandline, criuimages, smalldumps

Run = Callable[..., commandline.Ran]


@pytest.fixture
def here(tmp_path: Path) -> Run:
    """Run ckptree in a folder."""
    return partial(commandline.here, cwd=tmp_path)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    """Return a folder that CRIU wrote."""
    return criuimages.written("container", tmp_path / "dump")


def test_plan_of_a_dump_names_the_contents_that_a_restart_would_refuse(here: Run, dump: Path) -> None:
    """No plan is printed then, in no form; JSON has the objects."""
    plain, as_json = here("plan", "criu:dump"), here("plan", "criu:dump", "--json")
    said = json.loads(as_json.stdout)

    assert (plain.returncode, as_json.returncode, plain.stdout) == (7, 7, b"")
    assert b"task 2 (3): file 1: /tmp/sample/sample: No such file" in plain.stderr
    assert list(said) == ["format", "version", "pidns", "contents"]
    assert list(said["contents"][0]) == ["tag", "pid", "kind", "id", "rule", "text"]
    assert len(said["contents"]) == sum(b"task " in line for line in plain.stderr.splitlines())
    for form in ("dot", "svg"):
        drawn = here("plan", "criu:dump", "-f", form)
        assert (drawn.returncode, drawn.stdout, drawn.stderr) == (7, b"", plain.stderr)


def test_plan_of_a_dump_says_how_many_objects_of_its_contents_were_examined(
    here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That goes to standard error, and the plan to standard output."""
    able = hostfacts.this_host(pidns=True)._replace(bounding=-1, granted=-1, effective=-1)
    monkeypatch.setattr(hostfacts, "this_host", lambda **_: able)
    smalldumps.put("plain", tmp_path / "small")
    plain, as_json = here("plan", "criu:small"), here("plan", "criu:small", "--json")

    assert (plain.returncode, as_json.returncode) == (0, 0), plain.stderr
    assert plain.stdout.startswith(b"plan for ")
    assert json.loads(as_json.stdout)["contents"] == []
    assert plain.stderr == as_json.stderr
    assert b"ckptree: criu:small: the contents were examined on this host: 1 process, 5 files (open, " in plain.stderr
    assert plain.stderr.endswith(b" MiB of memory; a restart refuses none of it\n")


def test_plan_of_a_folder_says_where_it_examines_no_contents_and_why(here: Run, dump: Path) -> None:
    """For other pids, and of a folder that has the tree alone, the tree alone is planned."""
    here("convert", "criu:dump", "images", "-f", "criu")
    any_pids, alone = here("plan", "criu:dump", "--no-pids"), here("plan", "criu:images")

    assert (any_pids.returncode, alone.returncode) == (0, 0)
    assert any_pids.stdout.startswith(b"plan for ")
    assert any_pids.stderr.endswith(
        b"no contents were examined: with --no-pids the tree alone is planned, for contents need their pids\n"
    )
    assert b"ckptree: criu:images: no contents were examined: it holds the tree alone" in alone.stderr


def test_the_folder_of_a_dump_that_failed_is_no_image(here: Run, dump: Path) -> None:
    """CRIU writes the inventory last; the tree may be there before, and can be shown."""
    (dump / "inventory.img").unlink()
    said = b"inventory.img: the folder has no such file, and other files of a dump: criu writes it after all others"
    codes = {"check": 8, "plan": 8, "restart": 125, "show": 0}

    for verb, code in codes.items():
        ran = here(verb, "criu:dump")
        assert (ran.returncode, said in ran.stdout + ran.stderr) == (code, True), (verb, ran)
    assert here("restart", "criu:dump", "--detach").returncode == 8
    assert here("plan", "criu:dump", "--no-pids").returncode == 0


def test_a_dump_that_may_have_failed_in_the_end_is_warned_of(here: Run, tmp_path: Path) -> None:
    """CRIU writes its statistics last, here or elsewhere; a complete tree.ckpt shows that the hook succeeded."""
    smalldumps.put("plain", tmp_path / "small")
    (tmp_path / "small" / "stats-dump").unlink()
    tree = tmp_path / "small" / "tree.ckpt"
    for complete, doubt in ((None, True), (False, True), (True, False)):
        if complete is not None:
            found = registry.load(here("convert", "criu:small", "-").stdout)
            done = Completeness("sweep") if complete else Completeness("no", reasons=("events were lost",))
            tree.write_bytes(registry.image(replace(found, completeness=done), "ckpt"))
        for verb in ("check", "plan"):
            ran = here(verb, "criu:small")
            assert (b"stats-dump: the folder has no such file" in ran.stdout + ran.stderr) is doubt, (verb, ran)
        tree.unlink(missing_ok=True)


@pytest.mark.parametrize("verb", ["plan", "restart"])
def test_a_dump_without_the_hook_is_warned_of(here: Run, dump: Path, verb: str) -> None:
    """As any other tree that is incomplete is."""
    assert b"dump has no tree.ckpt, as `ckptree hook criu` leaves one" in here(verb, "criu:dump").stderr
    assert verb != "plan" or b"dump has no tree.ckpt" in here(verb, "criu:dump", "--no-pids").stderr


def test_plan_of_a_dump_refuses_pids_that_others_have(
    here: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the code that a restart with --detach has. In a pid namespace of its own the tree has all numbers."""
    able = hostfacts.this_host(pidns=True)._replace(bounding=-1, granted=-1, effective=-1)
    monkeypatch.setattr(hostfacts, "this_host", lambda **_: able)
    monkeypatch.setattr(preflight, "_holder", lambda *_: "python3")
    smalldumps.put("plain", tmp_path / "small")
    taken = here("plan", "criu:small", "--no-pidns")

    assert (taken.returncode, taken.stdout) == (5, b"")
    assert b"the number 10 is taken by python3" in taken.stderr
    assert here("plan", "criu:small").returncode == 0


@pytest.mark.parametrize("verb", ["plan", "restart"])
def test_an_option_about_contents_is_no_fault_of_a_folder_that_has_none(here: Run, dump: Path, verb: str) -> None:
    """The fault of the folder is told first, also before the terminal's absence."""
    here("convert", "criu:dump", "images", "-f", "criu")
    (dump.parent / "empty").mkdir()
    empty = here(verb, "criu:empty", "--shell-job")
    assert (empty.returncode, b"pstree.img: the folder has no such file" in empty.stderr) == (
        8 if verb == "plan" else 125,
        True,
    )
    alone = here(verb, "criu:images", "--shell-job").stderr
    assert b"holds the tree alone, as `ckptree convert -f criu` writes it" in alone
    assert verb == "plan" or b"`ckptree convert criu:images tree.ckpt`" in alone
    assert b"terminal" not in empty.stderr + alone


def test_options_about_contents_say_why_no_contents_are_planned(here: Run, dump: Path) -> None:
    """--no-pids is the reason here."""
    ran = here("plan", f"criu:{dump.name}", "--no-pids", "--tcp-close")

    assert (ran.returncode, b"leave out --no-pids" in ran.stderr) == (2, True)


def test_an_image_of_criu_is_named_by_its_folder(here: Run, dump: Path) -> None:
    """One file is a part of a snapshot at most."""
    for name in ("pstree.img", "inventory.img", "stats-dump"):
        ran = here("show", dump / name)
        assert (ran.returncode, f"name their folder, criu:{dump}" in ran.stderr.decode()) == (8, True), name


def test_a_folder_of_a_pre_dump_is_called_so(here: Run, dump: Path) -> None:
    """It has memory, and no tree."""
    (dump / "pstree.img").unlink()
    criuimages.changed(dump, "inventory.img", lambda each: setattr(each, "pre_dump_mode", 1))
    ran = here("plan", "criu:dump")

    assert (ran.returncode, b"criu pre-dump wrote it" in ran.stderr) == (8, True)


@pytest.mark.parametrize("options", [["--verify", "none"], ["--verify", "none", "--shell-job"]])
def test_a_key_that_is_missing_is_wrong_usage_with_contents_too(here: Run, dump: Path, options: list[str]) -> None:
    """Contents on this host are refused where a signature is asked for; the key is looked for before."""
    ran = here("restart", f"criu:{dump.name}", *options)

    assert (ran.returncode, b"none: there is no such key file" in ran.stderr) == (2, True)
