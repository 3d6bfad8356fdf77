# SPDX-License-Identifier: Apache-2.0
"""The plan of a folder that CRIU wrote: its contents, and what is said of them."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from agent.restart.contents import hostfacts
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
    assert len(said["contents"]) == len(plain.stderr.splitlines())
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
    assert b"ckptree: criu:small: the contents were examined on this host: 1 process, " in plain.stderr
    assert plain.stderr.endswith(b" MiB of memory; a restart refuses none of it\n")


def test_plan_of_a_folder_says_where_it_examines_no_contents_and_why(here: Run, dump: Path) -> None:
    """For other pids, and of a folder that has the tree alone, the tree alone is planned."""
    any_pids = here("plan", "criu:dump", "--no-pids")
    (dump / "inventory.img").unlink()
    alone = here("plan", "criu:dump")

    assert (any_pids.returncode, alone.returncode) == (0, 0)
    assert any_pids.stdout.startswith(b"plan for ")
    assert any_pids.stderr.endswith(
        b"no contents were examined: with --no-pids the tree alone is planned, for contents need their pids\n"
    )
    assert b"ckptree: criu:dump: no contents were examined: it has the tree alone" in alone.stderr
