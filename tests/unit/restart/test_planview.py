# SPDX-License-Identifier: Apache-2.0
"""A plan in words and as data; and the verb that shows it."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from agent.model import Snapshot, TaskState
from agent.restart import plandrawing, planview
from agent.restart.planning.plan import Plan
from agent.restart.planning.search import make_plan
from exporters.image import checkpoint
from tests.support import commandline
from tests.support.builders import a_daemon, a_family, a_snapshot, a_task
from tests.support.images import GOLDEN, patched

Run = Callable[..., commandline.Ran]


def test_an_init_that_waits_within_its_exit_is_told_of_last() -> None:
    """Then the tasks that it waits for are zombies."""
    rows = [
        a_task(1, 0),
        a_task(2, 1, depth=1, state=TaskState.ZOMBIE, exit_code=3 << 8),
        a_task(3, 1, depth=1, state=TaskState.ZOMBIE, exit_code=9),
    ]
    snapshot = a_snapshot([(100,), (101, 1), (102, 2)], rows)

    assert planview.render(make_plan(snapshot), snapshot).splitlines()[-6:] == [
        "   7 102/2 exits: killed by SIGKILL, after 6",
        "   8 100 waits for the end of 102/2, which stays a zombie, after 7",
        "",
        "leave, 2 steps",
        "   9 101/1 exits: exited 3",
        "  10 100 waits for 101/1 to be within its exit, where numbers of its namespace keep it, after 9",
    ]


def test_a_keeper_stands_beside_the_root() -> None:
    """The init of a namespace is not part of the tree."""
    snapshot = a_snapshot([(100,), (102, 2)], [a_task(1, 0), a_task(2, 1, depth=1)])
    plan = make_plan(snapshot)
    actors = planview.to_document(plan, snapshot)["actors"]

    assert [(actor["name"], actor["role"], actor["parent"]) for actor in actors] == [
        ("reaper 1", "reaper", None),
        ("keeper 1", "keeper", 0),
        ("100", "task", 0),
        ("102/2", "task", 2),
    ]
    assert (
        "keeper 1: init of a pid namespace whose own was none of the tree, born of reaper 1"
        in planview.render(plan, snapshot).splitlines()
    )


def test_a_plan_in_words(daemon: Snapshot, plan: Plan) -> None:
    """The text has the actors with their reasons, then every step."""
    assert planview.render(plan, daemon).splitlines() == [
        "plan for container of 1, in a pid namespace of its own: 2 tasks, 1 ghost, 1 helper; 11 steps",
        "",
        "ghost 2: its session has members, born of 1",
        "helper 1: leaves its children to 1, born of ghost 2",
        "",
        "build, 7 steps",
        "   0 1 founds session 1 with setsid()",
        "   1 1 forks ghost 2",
        "   2 ghost 2 founds session 2 with setsid()",
        "   3 ghost 2 forks helper 1",
        "   4 helper 1 forks 3",
        "   5 helper 1 exits",
        "   6 ghost 2 reaps helper 1, after 5",
        "",
        "activate, 2 steps",
        "   7 1 has its turn",
        "   8 3 has its turn, after 7",
        "",
        "leave, 2 steps",
        "   9 ghost 2 exits",
        "  10 1 reaps ghost 2, after 9",
    ]


def test_numbers_of_an_inner_namespace_are_shown_from_the_outermost_inward() -> None:
    """The steps of a namespace, a thread, a group and a zombie are described."""
    family = a_family()
    lines = planview.render(make_plan(family), family)

    assert "4712 makes thread 4713" in lines
    assert "4712 forks 4720/1 into a new pid namespace" in lines
    assert "4722 joins group 4690, after" in lines
    assert "4722 exits: exited 3" in lines
    assert "4711 waits for the end of 4722, which stays a zombie" in lines
    assert "reaper 1: init of the new pid namespace" in lines
    assert "note: squashed: 4000" in lines


def test_exit_signals_are_named_where_they_are_not_sigchld() -> None:
    """Words and drawing name them; also the root's, which no step makes."""
    rows = [a_task(1, 0, exit_signal=12), a_task(2, 1, exit_signal=10), a_task(3, 1, exit_signal=0), a_task(4, 1)]
    snapshot = a_snapshot([(1,), (2,), (3,), (4,)], rows, mode="container")
    plan = make_plan(snapshot)
    lines = planview.render(plan, snapshot).splitlines()
    drawing = plandrawing.dumps(plan, snapshot).decode()

    assert "1: born with exit signal SIGUSR2" in lines
    assert [line.strip() for line in lines if " forks " in line] == [
        "1 1 forks 2 with exit signal SIGUSR1",
        "2 1 forks 3 with no exit signal",
        "3 1 forks 4",
    ]
    assert 'a0 -> a1 [label="1, exit signal SIGUSR1"]' in drawing
    assert 'a0 -> a3 [label="3"]' in drawing


def test_the_document_names_makers_parents_and_why(daemon: Snapshot, plan: Plan) -> None:
    """The document has them for the adopted task, and for the helpers made for it."""
    document = json.loads(json.dumps(planview.to_document(plan, daemon)))
    actors = {one["name"]: one for one in document["actors"]}

    assert (document["format"], document["version"], document["pidns"]) == ("ckptree-plan", 1, True)
    assert list(actors) == ["1", "ghost 2", "helper 1", "3"]
    assert (actors["3"]["maker"], actors["3"]["parent"]) == (actors["helper 1"]["id"], actors["1"]["id"])
    assert (actors["helper 1"]["tag"], actors["helper 1"]["numbers"]) == (None, [])
    assert (actors["ghost 2"]["tag"], actors["ghost 2"]["parent"]) == (3, None)
    assert actors["ghost 2"]["why"] == "its session has members"
    assert document["tasks"] == [actors["1"]["id"], actors["3"]["id"]]


def test_the_document_has_all_steps_with_what_they_wait_for(daemon: Snapshot, plan: Plan) -> None:
    """Steps are in order, and none waits for a later one."""
    steps = planview.to_document(plan, daemon)["steps"]

    assert [step["id"] for step in steps] == list(range(len(plan.steps)))
    assert (steps[0]["op"], steps[0]["phase"], steps[0]["target"]) == ("setsid", "build", None)
    assert all(other < step["id"] for step in steps for other in step["after"])


# ---- the verb ------------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path) -> Run:
    """Return a function that runs ckptree in a folder with daemon.ckpt, family.ckpt, hopeless.ckpt and bad.ckpt."""
    dead = a_task(2, 0, tgid=1, state=TaskState.ZOMBIE, exit_code=0)
    hopeless = a_snapshot([(100,), (101,)], [a_task(1, 0), dead])
    images = {"daemon": a_daemon(), "family": a_family(), "hopeless": hopeless}
    for name, snapshot in images.items():
        (tmp_path / f"{name}.ckpt").write_bytes(checkpoint.dumps(snapshot))
    (tmp_path / "bad.ckpt").write_bytes(patched(GOLDEN, 475, "<i", 3))
    return partial(commandline.here, "plan", cwd=tmp_path)


def test_the_verb_shows_a_plan_in_every_format(here: Run) -> None:
    """--json means -f json."""
    text, dot, svg = (here("daemon.ckpt", "-f", fmt).stdout for fmt in ("text", "dot", "svg"))
    as_json = here("daemon.ckpt", "--json").stdout

    assert text == here("daemon.ckpt").stdout
    assert text.startswith(b"plan for container of 1")
    assert as_json == here("daemon.ckpt", "-f", "json").stdout
    assert json.loads(as_json)["format"] == "ckptree-plan"
    assert dot.startswith(b"digraph plan {")
    assert b"<svg" in svg


def test_json_and_another_format_are_one_too_many(here: Run) -> None:
    """Neither has precedence."""
    ran = here("daemon.ckpt", "--json", "-f", "svg")

    assert (ran.returncode, ran.stdout) == (2, b"")
    assert b"--json is -f json: leave out -f svg" in ran.stderr


def test_standard_input_is_a_file_too(here: Run) -> None:
    """This holds for any format."""
    assert here("-", data=checkpoint.dumps(a_daemon())).stdout == here("daemon.ckpt").stdout


def test_without_a_namespace_of_its_own_a_container_is_planned_too_and_says_what_becomes_of_its_init(here: Run) -> None:
    """A subtree has no init."""
    subtree, container = here("family.ckpt", "--no-pidns"), here("daemon.ckpt", "--no-pidns", "--no-pids")

    assert (subtree.returncode, container.returncode) == (0, 0)
    assert here("daemon.ckpt", "--no-pidns").returncode == 7  # as for restart: the namespace has an init
    assert subtree.stdout.startswith(b"plan for subtree of 4711, in the caller's pid namespace")
    assert container.stdout.startswith(b"plan for container of 1, in the caller's pid namespace")
    assert b"a subreaper instead" in container.stdout
    assert b"a subreaper instead" not in subtree.stdout


def test_what_cannot_be_rebuilt_is_7_with_the_task_and_the_rule(here: Run) -> None:
    """Standard output is empty; with --json it has the reason as an image has it, and standard error is the same."""
    ran, as_json, formatted = (
        here("hopeless.ckpt"),
        here("hopeless.ckpt", "--json"),
        here("hopeless.ckpt", "-f", "json"),
    )
    text = "101 is a dead thread that only its tracer keeps; a limit of ckptree"

    assert (ran.returncode, ran.stdout) == (7, b"")
    assert f"{text} (zombie-thread)".encode() in ran.stderr
    assert (as_json.returncode, as_json.stderr, as_json.stdout) == (7, ran.stderr, formatted.stdout)
    assert json.loads(as_json.stdout) == {
        "format": "ckptree-plan",
        "version": 1,
        "pidns": True,
        "not_rebuildable": [{"tag": 2, "rule": "zombie-thread", "text": text, "proven": False}],
    }


def test_a_bad_image_is_8_and_a_format_that_there_is_not_is_2(here: Run) -> None:
    """The message names the file."""
    bad, usage = here("bad.ckpt"), here("daemon.ckpt", "-f", "yaml")

    assert (bad.returncode, usage.returncode) == (8, 2)
    assert b"bad.ckpt: TREE[1].vppid" in bad.stderr


def test_a_document_is_not_changed_by_what_is_only_for_people() -> None:
    """A snapshot without names has a plan too."""
    bare = replace(a_daemon(), tasks=tuple(task._replace(comm=None) for task in a_daemon().tasks))

    assert [one["comm"] for one in planview.to_document(make_plan(bare), bare)["actors"]] == [
        "",
        "ckptree",
        "ckptree",
        "",
    ]
