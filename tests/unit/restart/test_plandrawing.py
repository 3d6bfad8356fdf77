# SPDX-License-Identifier: Apache-2.0
"""A plan as a drawing."""

import re
import subprocess
from collections.abc import Callable
from functools import partial

import pytest

from agent.model import Ancestor, AncestorEvent, Creator, Mode, Snapshot
from agent.picture import svg
from agent.restart import plandrawing
from agent.restart.planning.plan import Plan, Role
from agent.restart.planning.search import make_plan
from exporters.drawing import folding
from tests.support.builders import a_daemon, a_snapshot, a_task, born
from tests.support.scenes import taken_from


def test_the_drawing_has_makers_and_other_parents(daemon: Snapshot, plan: Plan) -> None:
    """A birth is a solid edge; a dashed one leads to the final parent, if it is another."""
    text = plandrawing.dumps(plan, daemon).decode()

    assert [line.split(" [")[0] for line in text.splitlines() if "->" in line] == [
        "a0 -> a1",
        "a1 -> a2",
        "a2 -> a3",
        "a0 -> a3",
    ]
    assert text.count("style=dashed") == 1
    assert re.search(
        r'a1 \[style=dotted, width=[\d.]+, label="ghost 2\\lfounds its session\\lits session has members\\l"\]', text
    )
    assert "\x1b" not in text


def test_children_of_an_actor_stand_in_the_order_of_their_births() -> None:
    """The first is at the top, also where another task will be their parent."""
    for name in ("subreaper_adopts_a_daemon", "owners_in_each_others_groups", "deep_and_broad", "zombies"):
        snapshot = taken_from(name)
        drawing = plandrawing.dumps(make_plan(snapshot), snapshot)
        ran = subprocess.run(["dot", "-Tplain"], input=drawing, capture_output=True, check=True, timeout=60)
        height = {
            name: float(y) for name, y in re.findall(r"^node (a\d+) \S+ (\S+)", ran.stdout.decode(), re.MULTILINE)
        }
        born: dict[str, list[str]] = {}
        for maker, child in re.findall(r'^(a\d+) -> (a\d+) \[label="\d', drawing.decode(), re.MULTILINE):
            born.setdefault(maker, []).append(child)

        assert ran.stderr == b""
        assert [children for children in born.values() if children != sorted(children, key=lambda a: -height[a])] == []


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("zombies", "container"),
        ("child_of_a_thread", "container"),
        ("subreaper_adopts_a_daemon", "container"),
        ("dead_group_leader", "container"),
        ("subtree_of_a_job", "subtree"),
        ("members_of_a_namespace_whose_init_is_no_descendant", "subtree"),
        ("zombies_of_a_namespace_whose_init_is_no_descendant", "subtree"),
    ],
)
def test_the_legend_of_a_plan_explains_every_shape_line_and_colour(name: str, mode: Mode) -> None:
    """No entry is there that the plan does not need."""
    snapshot = taken_from(name, mode)
    made = make_plan(snapshot)
    text = plandrawing.dumps(made, snapshot).decode()
    (legend,) = [line for line in text.splitlines() if line.startswith("legend [")]
    roles = {actor.role for index, actor in enumerate(made.actors) if actor.leader == index}
    signs = {
        "a task of the tree": Role.TASK in roles,
        ">ghost 3<": Role.GHOST in roles,
        ">helper 1<": Role.HELPER in roles,
        ">keeper 1<": Role.KEEPER in roles,
        ">reaper<": Role.REAPER in roles,
        ">a thread<": any(actor.leader != index for index, actor in enumerate(made.actors)),
        "is the parent in the end": "style=dashed, constraint=false" in text,
    }

    assert {sign: sign in legend for sign in signs} == signs
    nodes = "\n".join([line for line in text.splitlines() if re.match(r"a\d+( ->.*)? \[", line)])
    assert set(re.findall(r'color="(#\w+)"', nodes)) <= set(re.findall(r'color="(#\w+)"', legend))


def test_the_same_plan_is_the_same_drawing(daemon: Snapshot) -> None:
    """The bytes are equal."""
    assert plandrawing.dumps(make_plan(daemon), daemon) == plandrawing.dumps(make_plan(daemon), daemon)


def a_host() -> Snapshot:
    """Return an init with 165 processes below it: services, shells with jobs, and servers with workers."""
    numbers, rows = [(1,)], [a_task(1, 0, comm=b"init")]

    def make(parent: int, comm: str) -> int:
        tag = len(rows) + 1
        numbers.append((100 + tag,))
        rows.append(a_task(tag, parent, comm=comm.encode(), birth=born(parent, tag)))
        return tag

    for place in range(20):
        make(1, f"service{place}")
    for _ in range(4):
        shell = make(make(1, "sshd"), "bash")
        for _ in range(6):
            make(shell, "make")
    for server, workers in (("nginx", 16), ("postgres", 20)):
        tag = make(1, server)
        for _ in range(workers):
            make(tag, "worker")
    for place in range(166 - len(rows)):
        make(1, f"daemon{place % 7}")
    return a_snapshot(numbers, rows, mode="container")


def test_a_plan_of_many_processes_fits_a_page() -> None:
    """Children without children share a node, and like ones a cell; each is named in a tooltip."""
    snapshot = a_host()
    drawing = plandrawing.dumps(make_plan(snapshot), snapshot)
    picture = svg(drawing).decode()
    (size,) = re.findall(r'<svg width="(\d+)pt" height="(\d+)pt"', picture)

    assert max(map(int, size)) < 1200
    for task in snapshot.tasks:
        assert re.search(rf"\b{snapshot.number(task.pid)} {(task.comm or b'').decode()}\b", picture)
    assert "16 × worker" in picture
    assert ">155, 156, … 170<" in picture
    assert "siblings that differ in nothing but their numbers" in picture
    assert "siblings that differ" not in plandrawing.dumps(make_plan(a_daemon()), a_daemon()).decode()


def orphans() -> Snapshot:
    """Return an init that has adopted five children of a task that is gone."""
    gone = Ancestor(0, (2,), (0,), born(1, 1), (AncestorEvent("exit", 9, None),))
    rows = [a_task(1, 0), *[a_task(tag, 1, birth=born(Creator(None, 0), tag)) for tag in range(2, 7)]]
    return a_snapshot([(1,), *[(tag + 1,) for tag in range(2, 7)]], rows, mode="container", ancestors=(gone,))


@pytest.mark.parametrize(
    ("scene", "folded"),
    [
        (partial(taken_from, "zombies"), ["1–5"]),
        (partial(taken_from, "threads"), ["1–2 thread"]),
        (a_host, ["1–16", "1–20", "1–20", *["1–6"] * 4, "27–101"]),
        (orphans, ["1–5"]),
    ],
    ids=["zombies", "threads", "a host", "orphans"],
)
def test_of_a_folded_plan_no_birth_and_no_parent_is_lost(
    monkeypatch: pytest.MonkeyPatch, scene: Callable[[], Snapshot], folded: list[str]
) -> None:
    """An edge has the turns of all births that it stands for; only a node of one actor makes others."""
    snapshot = scene()
    plan = make_plan(snapshot)
    monkeypatch.setattr(plandrawing, "_ROOMY", 1000)
    plain = plandrawing.dumps(plan, snapshot).decode()
    monkeypatch.setattr(plandrawing, "_ROOMY", 0)
    monkeypatch.setattr(folding, "FEWEST", 2)
    text = plandrawing.dumps(plan, snapshot).decode()

    def births(drawing: str) -> dict[str, list[tuple[int, str]]]:
        found: dict[str, list[tuple[int, str]]] = {}
        for maker, first, last, how in re.findall(
            r'^(\w+) -> \w+ \[label="(\d+)(?:–(\d+))?(.*)"\]', drawing, re.MULTILINE
        ):
            for turn in range(int(first), int(last or first) + 1):
                found.setdefault(maker, []).append((turn, how))
        return {maker: sorted(turns) for maker, turns in found.items()}

    def parents(drawing: str) -> set[str]:
        return set(re.findall(r"^(\w+) -> \w+ \[style=dashed", drawing, re.MULTILINE))

    assert sorted(re.findall(r'^a\d+ -> k\d+ \[label="(.*)"\]', text, re.MULTILINE)) == folded
    assert births(text) == births(plain)
    assert parents(text) == parents(plain)
    assert subprocess.run(["dot", "-Tsvg"], input=text.encode(), capture_output=True, check=True).stderr == b""
