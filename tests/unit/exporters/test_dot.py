# SPDX-License-Identifier: Apache-2.0
"""The drawing: graphviz shows what the snapshot has, with any names of programs."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings

from agent.errors import CkptreeError, HostError
from agent.model import CKPT_PID_ROOT, Birth, Completeness, Creator, Snapshot, Tag, TaskState
from agent.picture import svg
from exporters.content.wording import Remarks, name
from exporters.documents import jsonfmt
from exporters.drawing.dot import dumps
from tests.support.builders import a_crowd, a_family, a_pipeline, a_snapshot, a_task, born, snapshots
from tests.support.examples import examples, patient

SVG = "{http://www.w3.org/2000/svg}"


def drawn(snapshot: Snapshot) -> str:
    """Return the drawing as text."""
    return dumps(snapshot).decode()


def node(text: str, id_: str) -> str:
    """Return the one line of a drawing that defines a node."""
    (found,) = [line for line in text.splitlines() if line.startswith(f"{id_} [shape=plain, label=")]
    return found


def edges(text: str, kind: str) -> set[tuple[str, str]]:
    """Return the edges of a drawing that are solid, dashed or dotted; an end with a port is called n1:t2."""
    found = set()
    for tail, head, said in re.findall(r"^(\w+) -> (\w+)(?: \[(.*)\])?$", text, re.MULTILINE):
        style = re.search(r"style=(\w+)", said)
        if (style[1] if style else "solid") == kind:
            ports = (re.search(rf"{which}port=(\w+)", said) for which in ("tail", "head"))
            tail, head = (end + (f":{port[1]}" if port else "") for end, port in zip((tail, head), ports, strict=True))
            found.add((tail, head))
    return found


def pictured(snapshot: Snapshot) -> dict[str, str]:
    """Return the words in each node and cluster of the picture, without blanks, by its title."""
    ran = subprocess.run(["dot", "-Tsvg"], input=dumps(snapshot), capture_output=True, check=True, timeout=60)

    assert ran.stderr == b""  # a warning means that graphviz does not draw a part as intended
    return dict(_words(ET.fromstring(ran.stdout)))  # noqa: S314  # graphviz has just written it


def _words(picture: ET.Element) -> Iterator[tuple[str, str]]:
    for group in picture.iter(f"{SVG}g"):
        if group.get("class") in ("node", "cluster", "edge"):
            title = group.findtext(f"{SVG}title", "")
            yield title, re.sub(r"[\s\xa0]", "", "".join(text.text or "" for text in group.iter(f"{SVG}text")))


ALONE = """\
digraph ckptree {
graph [rankdir=LR, remincross=false, nodesep=0.1, ranksep=0.45, labelloc=t, labeljust=l, \
fontname="Helvetica,Arial,Liberation Sans,DejaVu Sans,sans-serif", fontsize=11]
node [shape=plain, fontname="Helvetica,Arial,Liberation Sans,DejaVu Sans,sans-serif", fontsize=10]
edge [headport="", tailport="", arrowsize=0.5, color="#555555", style=solid, constraint=true, dir=forward]
graph [label=<<b>subtree of 100</b><br align="left"/>1 task · 2024-05-01 12:00:00 UTC<br align="left"/>>]
subgraph cluster_0 {
graph [label="pid:[4026531836] · level 0", style="filled,rounded", fillcolor="#ffffff", color="#888888"]
n1 [shape=plain, label=<<table cellborder="0" cellspacing="0" cellpadding="2" border="2" style="solid" color="#008700" \
bgcolor="#cce7cc"><tr><td align="left" width="57"><b>100 bash</b></td></tr><tr><td align="left" width="70" \
bgcolor="#008700"><font color="white" point-size="9">session leader</font></td></tr></table>>, tooltip="100 bash&#10;\
parent outside, group 100, session 100&#10;uid 0, gid 0&#10;session leader&#10;born as event 1 into group 100, session 100"]
}
subgraph cluster_legend {
"""


def test_one_process_is_a_box_in_the_colours_of_its_session_and_group() -> None:
    """The test compares everything but the legend, to the letter."""
    assert drawn(a_snapshot()).startswith(ALONE)


def test_a_family_is_seen_at_a_glance() -> None:
    """The drawing has threads, nested namespaces, a zombie, a ghost, and an ancestor."""
    text = drawn(a_family())

    assert "{4713 make} {4714 wor\\\\xffker}" in node(text, "n2")
    assert '<font color="white" point-size="9">zombie, exited 3</font>' in node(text, "n7")
    assert 'style="dashed"' in node(text, "n7")
    assert '<font color="white" point-size="9">subreaper</font>' in node(text, "n4")
    assert "4690 no task" in node(text, "g3")
    assert "group of 4722" in node(text, "g3")
    assert "4700 gone" in node(text, "a0")
    assert edges(text, "solid") == {("n1", "n2"), ("n2", "n4"), ("n1", "n7")}
    assert edges(text, "dashed") == {("n1", "a0"), ("a0", "n7")}
    assert edges(text, "dotted") == {("g3", "n7")}


def test_a_namespace_is_a_box_within_that_of_its_parent() -> None:
    """The box contains its tasks and ghosts."""
    text = drawn(a_family())
    inner = text[text.index("subgraph cluster_1 ") :]

    assert text.index("subgraph cluster_0 ") < text.index("\nn1 ") < text.index("subgraph cluster_1 ")
    assert inner.index("\nn4 ") < inner.index("}\n}\n")
    assert "\ng3 [" not in inner


def test_colours_differ_by_session_and_by_group() -> None:
    """The fill is the session's, the frame the group's."""
    text = drawn(a_family())
    looks = [re.findall(r' (?:color|bgcolor)="(#\w+)"', node(text, f"n{tag}"))[:2] for tag in (1, 2, 4, 7)]

    assert looks == [
        ["#008700", "#cce7cc"],
        ["#005fff", "#cce7cc"],
        ["#af5f00", "#efdfcc"],
        ["#d700d7", "#cce7cc"],
    ]


@pytest.mark.parametrize(
    ("state", "said", "dashed"),
    [
        (TaskState.STOPPED, "stopped", False),
        (TaskState.ZOMBIE, "zombie, killed by SIGKILL", True),
        (TaskState.DEAD_LEADER, "dead leader, killed by SIGKILL", True),
    ],
)
def test_a_state_is_a_badge_and_explained(state: TaskState, said: str, *, dashed: bool) -> None:
    """Exited processes have a dashed frame as well."""
    code = 9 if dashed else None
    text = drawn(a_snapshot([(1,), (2,)], [a_task(1, 0), a_task(2, 1, state=state, exit_code=code)]))
    plain = drawn(a_snapshot([(1,), (2,)], [a_task(1, 0), a_task(2, 1)]))
    word = said.partition(",")[0]

    ink = "white" if dashed else "black"
    assert f'<font color="{ink}" point-size="9">{said}</font>' in node(text, "n2")
    assert ('style="dashed"' in node(text, "n2")) is dashed
    assert f">{word}<" in node(text, "legend")
    assert f">{word}<" not in node(plain, "legend")


def test_a_thread_that_has_children_is_where_their_lines_begin() -> None:
    """The other threads are named in a row, and the rest of a crowd is counted."""
    threads = [a_task(tag, 0, tgid=1, comm=b"w") for tag in range(2, 22)]
    text = drawn(a_snapshot([(n,) for n in range(101, 123)], [a_task(1, 0), *threads, a_task(22, 5)]))

    assert edges(text, "solid") == {("n1:t5", "n22")}
    assert re.search(r'port="t5"[^>]*>\{105 w\}</td>', node(text, "n1"))
    assert "{102 w} {103 w} {104 w}</font>" in node(text, "n1")
    assert "and 7 more threads" in node(text, "n1")


def test_a_thread_that_is_stopped_says_so() -> None:
    """It may be the only stopped thread of the process."""
    thread = a_task(2, 0, tgid=1, comm=b"w", state=TaskState.STOPPED)

    assert re.search(
        r"\{2 w\}</td><td [^>]*bgcolor=\"#ffd500\"><font [^>]*>stopped<",
        node(drawn(a_snapshot([(1,), (2,)], [a_task(1, 0), thread])), "n1"),
    )


def test_where_no_birth_was_seen_the_title_says_so_once() -> None:
    """No process has that remark."""
    assumed = Birth(None, False, None, None, (), None)
    text = drawn(a_snapshot([(1,), (2,)], [a_task(1, 0, birth=assumed), a_task(2, 1, birth=assumed)]))

    assert text.count("assumed") == text.count("UTC · births assumed") == 1


def test_a_ghost_leads_to_the_topmost_of_its_members_only() -> None:
    """Their children have the same colour; a hundred lines would say no more."""
    tasks = [a_task(1, 0), a_task(2, 1, pgid=5), a_task(3, 2, pgid=5), a_task(4, 1, pgid=5)]
    text = drawn(a_snapshot([(n,) for n in range(101, 106)], tasks))

    assert edges(text, "dotted") == {("g5", "n2"), ("g5", "n4")}


def test_a_creator_that_is_not_the_parent_has_a_line_of_its_own() -> None:
    """The creator is a task, a thread, or a ghost. A birth of the parent has no line."""
    tasks = [
        a_task(1, 0),
        a_task(2, 1, birth=born(1)),
        a_task(3, 1, birth=born(2)),
        a_task(4, 1, tgid=2, birth=born(2)),
        a_task(5, 1, birth=born(4)),
        a_task(6, 1, pgid=7, birth=Birth(Creator(Tag(7), None), True, Tag(1), Tag(1), (), 4)),
    ]
    text = drawn(a_snapshot([(n,) for n in range(101, 108)], tasks))

    assert edges(text, "dashed") == {("n2", "n3"), ("n2:t4", "n5"), ("g7", "n6")}


@pytest.mark.parametrize(("events", "inherited"), [(True, True), (True, False), (False, True)])
def test_a_gone_creator_that_is_a_group_too_is_drawn_once(*, events: bool, inherited: bool) -> None:
    """The node has the lines of both, and the facts of the creator."""
    text = drawn(a_pipeline(events=events, inherited=inherited))

    assert edges(text, "dashed") == {("n1", "g3"), ("g3", "n2")}
    assert edges(text, "dotted") == {("g3", "n2")}
    assert "4712 gone" in node(text, "g3")
    assert "group of 4713" in node(text, "g3")
    assert "exit as event 5" in node(text, "g3")
    assert "a0 [" not in text
    assert "is gone; others were born of it" in node(text, "legend")
    assert "dotted lines lead to them" in node(text, "legend")


def test_a_gone_creator_that_only_has_the_number_of_a_group_is_drawn_beside_it() -> None:
    """The kernel gives out a number again."""
    text = drawn(a_pipeline(events=False, inherited=False))

    assert edges(text, "dashed") == {("n1", "a0"), ("a0", "n2")}
    assert "4712 no task" in node(text, "g3")
    assert "4712 gone" in node(text, "a0")


def test_a_tooltip_has_the_name_of_the_user_where_it_is_known() -> None:
    """The drawing itself knows no names."""
    named = dumps(a_snapshot(), lambda uid: {0: "ro&ot"}.get(uid)).decode()

    assert "user ro&amp;ot, gid 0" in node(named, "n1")
    assert "uid 0, gid 0" in node(drawn(a_snapshot()), "n1")


def test_what_is_incomplete_says_so_above_all() -> None:
    """The title is red and has the reasons."""
    done = Completeness("no", reasons=("a <gap>", "another"))

    assert "<b>INCOMPLETE: a &lt;gap&gt;; another</b></font>" in drawn(a_snapshot(completeness=done))


@pytest.mark.parametrize(
    "comm",
    [
        b'"]; n9 [',
        b"<b>&amp;",
        b"\\N\\G\\n\\",
        b"</td>]]>",
        b"\xff\x00\n\x1b[2J",
        "é程\u202e".encode(),
        b"&#92;",
        b"  x  y ",
        b"{|}",
    ],
)
def test_a_name_is_drawn_as_it_is_shown_elsewhere(comm: bytes) -> None:
    """Graphviz returns the same name: a name can neither end its label nor act as markup."""
    task = a_task(1, 0, comm=comm)
    thread = a_task(2, 0, tgid=1, comm=comm)
    words = pictured(a_snapshot([(100,), (101,)], [task, thread]))
    bare = re.sub(r"\s", "", name(task))

    assert words["n1"] == f"100{bare}sessionleader{{101{bare}}}"
    assert set(words) == {"n1", "legend", "cluster_0", "cluster_legend"}


@settings(patient, max_examples=examples(40))
@given(snapshots())
def test_graphviz_draws_any_snapshot_without_a_complaint(snapshot: Snapshot) -> None:
    """Every process, ghost and ancestor is there, with its name."""
    words = pictured(snapshot)
    pids = {task.pid for task in snapshot.tasks}
    ghosts = set(range(snapshot.first_tag, snapshot.first_tag + len(snapshot.pids))) - pids

    for task in snapshot.tasks:
        leader = task.tgid if task.tgid in pids else task.pid
        assert f"{snapshot.number(task.pid)}" in words[f"n{leader}"]
        assert re.sub(r"\s", "", name(task)) in words[f"n{leader}"]
    assert {title for title in words if re.fullmatch(r"g\d+", title)} == {f"g{tag}" for tag in ghosts}
    once = set(Remarks(snapshot).gone_ghosts().values())
    gone = {f"a{each.id}" for each in snapshot.ancestors if each.id not in once}
    assert {title for title in words if re.fullmatch(r"a\d+", title)} == gone


def test_a_bare_image_is_drawn_by_its_numbers() -> None:
    """Only boxes and names are missing."""
    family = a_family()
    pids = tuple(pid._replace(namespaces=()) for pid in family.pids)
    tasks = tuple(task._replace(comm=None, state=None, birth=None) for task in family.tasks)
    words = pictured(replace(family, pids=pids, tasks=tasks, namespaces=(), ancestors=()))

    assert words["n4"] == "4720/1level1sessionleadersubreaper"
    assert {title for title in words if title.startswith("cluster")} == {"cluster_outside", "cluster_legend"}
    assert words["cluster_outside"] == ""


def test_special_ids_have_colours_and_words() -> None:
    """The root leads neither a group nor a session."""
    words = pictured(a_snapshot(tasks=[a_task(1, 0)._replace(pgid=Tag(0), sid=CKPT_PID_ROOT)]))

    assert words["n1"] == "100task-1sessioninheritedfromoutsidegroupoutside"


def test_the_same_snapshot_gives_the_same_bytes_in_every_process() -> None:
    """The seed of Python's hashes does not matter."""
    script = "from exporters.drawing import dot; from exporters.documents import jsonfmt; "
    script += "out.write(dot.dumps(jsonfmt.loads(sys.stdin.buffer.read())))"
    script = f"import sys; out = sys.stdout.buffer; {script}"
    source = jsonfmt.dumps(a_family())
    ran = [
        subprocess.run(
            [sys.executable, "-c", script],
            input=source,
            capture_output=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]

    assert ran == [dumps(a_family())] * 2


@pytest.mark.slow
def test_five_thousand_tasks_are_written_at_once() -> None:
    """It takes a tenth of a second of this process's own time, whatever else the machine has to do."""
    crowd = a_crowd(5000, 500, level=1)
    start = time.process_time()
    dumps(crowd)

    assert time.process_time() - start < 2


def test_a_picture_is_svg() -> None:
    """The program is the one that `make setup` installs."""
    assert ET.fromstring(svg(dumps(a_family()))).tag == f"{SVG}svg"  # noqa: S314  # graphviz has just written it


def test_without_graphviz_the_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message also names the formats that work without it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        HostError, match=r"install graphviz \(Debian: apt-get install graphviz\), or write the format dot"
    ):
        svg(b"digraph {}")


def a_program(path: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a `dot` that runs the given script, first on PATH."""
    (path / "dot").write_text(f"#!/bin/sh\n{script}\n")
    (path / "dot").chmod(0o755)
    monkeypatch.setenv("PATH", f"{path}:{os.environ['PATH']}")


def test_a_layout_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The time limit holds for any size of drawing, and no process stays behind."""
    a_program(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600", monkeypatch)
    with pytest.raises(CkptreeError, match=r"has not laid out the tree in 0.5 s: it is too large for a picture"):
        svg(b"digraph {}", timeout_s=0.5)

    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


def test_what_graphviz_says_against_a_drawing_is_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The message has its first line, or its status if it says nothing."""
    with pytest.raises(CkptreeError, match=r"ended with status 1: .*syntax error in line 1"):
        svg(b"digraph {{{")
    a_program(tmp_path, "kill -SEGV $$", monkeypatch)
    with pytest.raises(CkptreeError, match=r"ended with status -11: it said nothing"):
        svg(b"digraph {}")


def test_a_program_that_cannot_be_run_is_this_hosts_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An upgrade may have broken it, for example."""
    a_program(tmp_path, "", monkeypatch)
    (tmp_path / "dot").write_bytes(b"\x7fELF")
    with pytest.raises(HostError, match=r"cannot run .*/dot: Exec format error"):
        svg(b"digraph {}")
