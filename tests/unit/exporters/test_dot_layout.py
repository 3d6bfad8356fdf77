# SPDX-License-Identifier: Apache-2.0
"""The layout of drawn trees: the order of siblings, the folding of large trees, widths of texts, and the legend."""

import re
import subprocess
from collections import defaultdict
from dataclasses import replace
from html import unescape
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings

from agent.model import Snapshot, TaskState
from exporters.content.wording import TINTS
from exporters.documents import jsonfmt
from exporters.drawing import labels
from exporters.drawing.dot import dumps
from exporters.drawing.treelegend import STOPPED
from exporters.drawing.treeview import render
from tests.support.builders import a_family, a_snapshot, a_task, born, snapshots, with_task
from tests.support.examples import examples, patient
from tests.support.hosts import PROCESSES, a_host
from tests.support.scenes import SCENES, taken_from

SVG = "{http://www.w3.org/2000/svg}"


def pictured(snapshot: Snapshot) -> ET.Element:
    """Return the picture of a snapshot."""
    ran = subprocess.run(["dot", "-Tsvg"], input=dumps(snapshot), capture_output=True, check=True, timeout=60)

    assert ran.stderr == b""
    return ET.fromstring(ran.stdout)  # noqa: S314  # graphviz has just written it


def heights(picture: ET.Element) -> dict[str, float]:
    """Return the middle of each node, in points from some line, downward."""
    found = {}
    for group in picture.iter(f"{SVG}g"):
        if group.get("class") == "node":
            lines = [float(text.get("y", "0")) for text in group.iter(f"{SVG}text")]
            found[group.findtext(f"{SVG}title", "")] = sum(lines) / len(lines)
    return found


def columns(snapshot: Snapshot) -> list[list[str]]:
    """Return the nodes of siblings in one namespace, in the order of `show`, which names each task once."""
    shown = re.findall(r"^[|`\- ]*\{?(\d+)", render(snapshot, unicode=False).partition("\n\n")[2], re.MULTILINE)
    place = {number: turn for turn, number in reversed(list(enumerate(shown)))}
    tasks = {task.pid: task for task in snapshot.tasks}
    found = defaultdict(list)
    for task in snapshot.tasks[1:]:
        if task.ppid and (task.tgid == task.pid or task.tgid not in tasks):
            parent = tasks[task.ppid]
            home = parent.tgid if parent.tgid in tasks else parent.pid
            spaces = [pid.namespaces[-1:] for pid in (snapshot.pid(home), snapshot.pid(task.pid)) if pid]
            if spaces[0] == spaces[1]:
                found[home].append(task)
    turn = {pid: place[str(snapshot.number(pid))] for tasks_ in found.values() for pid in [task.pid for task in tasks_]}
    return [[f"n{task.pid}" for task in sorted(tasks_, key=lambda task: turn[task.pid])] for tasks_ in found.values()]


def assert_ordered(snapshot: Snapshot) -> None:
    """Check that siblings stand below each other in the order of `show`."""
    height = heights(pictured(snapshot))
    for column in columns(snapshot):
        assert column == sorted(column, key=lambda node: height[node])


@pytest.mark.parametrize("name", SCENES)
def test_siblings_stand_in_the_order_of_show(name: str) -> None:
    """Ghosts, dead creators and other namespaces do not change it."""
    try:
        snapshot = taken_from(name)
    except Exception:  # noqa: BLE001  # some of the scenes leak
        snapshot = taken_from(name, "subtree")
    assert_ordered(snapshot)


def test_the_example_of_the_readme_is_in_order() -> None:
    """It has a ghost and a dead creator in the column of the siblings."""
    tasks = [a_task(1, 0), *[a_task(tag, 1, birth=born(6 - tag)) for tag in range(2, 5)], a_task(5, 1, sid=6, pgid=6)]

    assert_ordered(a_snapshot([(n,) for n in range(100, 106)], tasks))


def test_children_of_threads_stand_where_show_has_them() -> None:
    """Lines from threads begin at cells, which makes graphviz look for another order."""
    tasks = [a_task(1, 0), a_task(2, 1), a_task(3, 1), a_task(4, 0, tgid=1), a_task(5, 4)]

    for ghosts in (0, 3):
        assert_ordered(a_snapshot([(n,) for n in range(100, 105 + ghosts)], tasks))


@settings(patient, max_examples=examples(40))
@given(snapshots())
def test_siblings_of_any_snapshot_are_in_order_and_no_line_is_lost(snapshot: Snapshot) -> None:
    """An image that knows the namespaces of some pids only may be drawn in another order."""
    known = {bool(pid.namespaces) for pid in snapshot.pids} | {bool(gone.namespaces) for gone in snapshot.ancestors}
    numbers = [pid.numbers[0] for pid in snapshot.pids]
    picture = pictured(snapshot)
    written = len(re.findall(r"^\w+ -> \w+ \[style=d(?:ash|ott)ed", dumps(snapshot).decode(), re.MULTILINE))
    drawn = [path for path in picture.iter(f"{SVG}path") if path.get("stroke-dasharray") and path.get("fill") == "none"]

    assert written <= len(drawn)
    if len(known) == 1 and len(set(numbers)) == len(numbers):
        height = heights(picture)
        for column in columns(snapshot):
            assert column == sorted(column, key=lambda node: height[node])


def test_a_host_of_166_processes_fits_a_page() -> None:
    """As an A3 page, landscape: the letters of 10 points have at least 5 on paper. Without folding it had 2692 points."""
    picture = pictured(a_host())
    wide, high = (float(picture.get(side, "").removesuffix("pt")) for side in ("width", "height"))

    assert sum(task.pid == task.tgid for task in a_host().tasks) == PROCESSES
    assert wide <= 2 * 1190
    assert high <= 2 * 842


def test_like_siblings_are_one_cell_with_a_count() -> None:
    """The first two and the last number are there, all are in the tooltip, and their order is kept."""
    text = dumps(a_host()).decode()

    assert ">24 × nginx<" in text
    assert ">30 × postgres<" in text
    assert ">12 × python3<" in text
    assert text.index(" checkpointer</b>") < text.index(" walwriter</b>") < text.index(">30 × postgres<")
    (line,) = [line for line in text.splitlines() if ">24 × nginx<" in line]
    assert len(re.findall(r"\d+ nginx", line.partition("tooltip=")[2])) == 24
    assert "siblings that differ in nothing but their pids" in text


def test_what_differs_is_not_folded_with_others() -> None:
    """Each has a cell of its own: another state, user, group or name."""
    different: dict[str, Any] = {"uid": 5, "comm": b"other", "state": TaskState.STOPPED, "pgid": 2}
    for fact, value in different.items():
        tasks = [a_task(1, 0), *[a_task(tag, 1, comm=b"same") for tag in range(2, 50)]]
        tasks[20] = tasks[20]._replace(**{fact: value})
        text = dumps(a_snapshot([(n,) for n in range(100, 149)], tasks)).decode()

        assert ">19 × same<" in text
        assert ">28 × same<" in text
        assert re.search(r">120 (same|other)<", text)


def test_a_small_tree_is_not_folded() -> None:
    """Each process has a node of its own."""
    tasks = [a_task(1, 0), *[a_task(tag, 1, comm=b"same") for tag in range(2, 41)]]
    text = dumps(a_snapshot([(n,) for n in range(100, 140)], tasks)).decode()

    assert "×" not in text
    assert len(re.findall(r"^n\d+ \[", text, re.MULTILINE)) == 40


def test_lines_lead_to_the_cells_of_folded_processes() -> None:
    """A ghost's line and that of a birth end at the cell, and none is there twice."""
    tasks = [a_task(1, 0), a_task(2, 1), *[a_task(tag, 1, pgid=61, birth=born(2)) for tag in range(3, 61)]]
    tasks[2:] = [task._replace(comm=b"same") for task in tasks[2:]]
    text = dumps(a_snapshot([(n,) for n in range(100, 161)], tasks)).decode()
    lines = re.findall(r"^(\w+) -> (\w+) \[style=(\w+)[^\n]*headport=p3\]$", text, re.MULTILINE)

    assert lines == [("n2", "k3", "dashed"), ("g61", "k3", "dotted")]


def test_every_text_has_room_in_the_widest_font() -> None:
    """DejaVu Sans is the widest of those that a host may have; bold it is an eighth wider, for such texts as ours."""
    assert labels.width("session leader", 10) >= 71.87
    assert labels.width("4720/1 init", 10) >= 54.17
    assert labels.width("4720/1 init", 10, bold=True) >= 60.67
    cells = re.findall(r'<td align="left" width="(\d+)"[^>]*>(?:<[^>]*>)*([^<]+)<', dumps(a_family()).decode())

    assert len(cells) > 20
    for wide, text in cells:
        assert int(wide) >= labels.width(unescape(text), labels.SMALL)


def test_no_line_of_a_label_has_two_runs_of_text() -> None:
    """graphviz places a second run by its own measure of the first, and they would touch."""
    for snapshot in (a_family(), a_host()):
        lines = [cell for cell in re.findall(r"<td [^>]*>(.*?)</td>", dumps(snapshot).decode()) if "<table" not in cell]

        assert [cell for cell in lines if len([text for text in re.split(r"<[^>]*>", cell) if text]) > 1] == []


def test_stopped_has_a_colour_unlike_that_of_any_group() -> None:
    """It is far from each in at least one of red, green and blue, and so are its black letters from their white ones."""
    stopped = [int(STOPPED[at : at + 2], 16) for at in (1, 3, 5)]
    text = dumps(with_task(a_family(), 2, state=TaskState.STOPPED)).decode()

    assert all(max(abs(a - b) for a, b in zip(stopped, tint.rgb, strict=True)) >= 75 for tint in TINTS)
    assert re.search(rf'bgcolor="{STOPPED}"><font color="black"[^>]*>stopped<', text)


def test_the_legend_explains_every_colour_and_style_of_the_tree() -> None:
    """All fills and frames of badges, boxes and lines that are no id's colour are in it; ids have an entry of their own."""
    snapshot = with_task(a_family(), 2, state=TaskState.STOPPED)
    lines = dumps(snapshot).decode().splitlines()
    (legend,) = [line for line in lines if line.startswith("legend [")]
    others = "\n".join([line for line in lines if not line.startswith(("legend [", "graph [", "edge ["))])
    ids = {labels.hexadecimal(tint, light) for tint in TINTS for light in (0.0, 0.8)}
    own = {"#888888"}  # frames of threads with a cell of their own, and of namespaces

    colours = set(re.findall(r'(?:bg)?color="(#\w+)"', others)) - ids - own
    assert colours == {color for color in colours if color in legend}
    assert {"dashed", "dotted"} <= set(re.findall(r'style="?(\w+)', others))
    assert "the frame is dashed" in legend
    assert 'style="dotted"' in legend
    assert "session's colour" in legend.replace("&#x27;", "'")


def test_a_folded_drawing_is_the_same_for_the_same_snapshot() -> None:
    """A snapshot that was read again gives the same bytes."""
    assert dumps(jsonfmt.loads(jsonfmt.dumps(a_host()))) == dumps(replace(a_host()))
