# SPDX-License-Identifier: Apache-2.0
"""The text of a tree: each fact is at its place, and the usual is left out."""

import re
from dataclasses import replace

import pytest
from hypothesis import given

from agent.model import CKPT_PID_ROOT, Birth, Completeness, Creator, PidObject, Snapshot, Tag, Task, TaskState
from exporters.drawing.treeview import render
from exporters.image import checkpoint
from tests.support.builders import a_bare_task, a_crowd, a_family, a_snapshot, a_task, born, snapshots
from tests.support.examples import patient

FAMILY = """\
subtree of 4711 · 4 processes, 2 threads, 7 pids, 2 pid namespaces · 2024-05-01 12:00:00 UTC · Linux 6.1.0 x86_64
complete · verified by numbering
   outside, under one tag: 4000, 4001
   entered from outside and left out: 5000 sh

4711 bash · session leader · uid 0
├─ 4712 make -j\\xff\\\\ · group leader
│  ├─ {4713 make} {4714 wor\\xffker}
│  └─ 4720/1 init · pid:[4026531837] level 1 · session leader · subreaper
└─ 4722 cc · zombie, exited 3 · group 4690 · born of 4700 (gone)

pids without a task here
   4690 · group of 4722"""

IN_ASCII = """\
4711 bash - session leader - uid 0
|- 4712 make -j\\xff\\\\ - group leader
|  |- {4713 make} {4714 wor\\xffker}
|  `- 4720/1 init - pid:[4026531837] level 1 - session leader - subreaper
`- 4722 cc - zombie, exited 3 - group 4690 - born of 4700 (gone)"""


def line_of(number: int, *tasks: Task, ghosts: int = 0) -> str:
    """Return the text on one task, numbered 100 plus its tag, below a root with tag 1."""
    everyone = (a_task(1, 0), *tasks)
    snapshot = a_snapshot([(101 + n,) for n in range(len(everyone) + ghosts)], everyone)
    return next(line for line in render(snapshot).splitlines() if re.search(rf"^[│├└─ ]*\{{?{number}\b", line))


def a_child(**facts: object) -> str:
    """Return the text on a child of the root."""
    return line_of(102, a_task(2, 1, comm=b"sh", **facts))  # type: ignore[arg-type]  # any fields of a task


def test_a_family_is_seen_at_a_glance() -> None:
    """The text is that of the command line."""
    assert render(a_family()) == FAMILY


def test_a_terminal_without_unicode_gets_the_same_in_ascii() -> None:
    """The signs differ, the places do not."""
    text = render(a_family(), unicode=False)

    assert IN_ASCII in text
    assert text.isascii()
    assert len(text.splitlines()) == len(FAMILY.splitlines())


def test_a_bare_image_is_shown_by_its_numbers() -> None:
    """Without comm and namespaces the shape is still there."""
    bare = Snapshot(
        "container",
        0,
        tuple(PidObject(numbers, ()) for numbers in [(1,), (5,), (7, 1), (9,)]),
        (a_bare_task(1, 0, 1, 1, 1, 0), a_bare_task(2, 1, 2, 4, 1, 0), a_bare_task(3, 2, 3, 3, 3, 1)),
    )

    assert render(bare).splitlines() == [
        "container of 1 · 3 processes, 4 pids · 1970-01-01 00:00:00 UTC",
        "INCOMPLETE · not verified · bare image: numbers only",
        "",
        "1 · session leader",
        "└─ 5 · group 9",
        "   └─ 7/1 · level 1 · session leader",
        "",
        "pids without a task here",
        "   9 · group of 5",
    ]


def test_a_child_like_its_parent_is_only_named() -> None:
    """No difference means no remark."""
    assert a_child(birth=born(1)) == "└─ 102 sh"


@pytest.mark.parametrize(
    ("state", "code", "said"),
    [
        (TaskState.STOPPED, None, "stopped"),
        (TaskState.ZOMBIE, 0, "zombie, exited 0"),
        (TaskState.ZOMBIE, 255 << 8, "zombie, exited 255"),
        (TaskState.ZOMBIE, 9, "zombie, killed by SIGKILL"),
        (TaskState.ZOMBIE, 11 | 0x80, "zombie, killed by SIGSEGV, core dumped"),
        (TaskState.ZOMBIE, 33, "zombie, killed by signal 33"),
        (TaskState.ZOMBIE, None, "zombie"),
        (TaskState.DEAD_LEADER, 0, "dead leader, exited 0"),
    ],
)
def test_a_state_is_said_where_it_is_not_running(state: TaskState, code: int | None, said: str) -> None:
    """The exit status is in a shell's words."""
    assert a_child(state=state, exit_code=code) == f"└─ 102 sh · {said}"


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        ({"pgid": 2, "sid": 2}, "session leader"),
        ({"pgid": 2}, "group leader"),
        ({"pgid": 3}, "group 103"),
        ({"pgid": 3, "sid": 3}, "session 103 · group 103"),
    ],
)
def test_group_and_session_are_said_where_they_are_not_the_parents(ids: dict[str, int], said: str) -> None:
    """A leader has a remark that says so."""
    assert line_of(102, a_task(2, 1, comm=b"sh", **ids), ghosts=1) == f"└─ 102 sh · {said}"


@pytest.mark.parametrize(("tag", "said"), [(0, "outside"), (CKPT_PID_ROOT, "inherited from outside")])
def test_a_root_that_leads_nothing_says_where_its_group_and_session_are(tag: int, said: str) -> None:
    """The two special tags are words."""
    root = a_task(1, 0)._replace(pgid=Tag(tag), sid=Tag(tag))

    assert f"\n100 task-1 · session {said} · group {said}" in render(a_snapshot(tasks=[root]))


@pytest.mark.parametrize(
    ("birth", "said"),
    [
        (born(1), ""),
        (born(3), " · born of 103"),
        (born(4), " · born of 104 (gone)"),
        (born(None), " · born of a task outside"),
        (Birth(None, False, None, None, (), None), " · birth assumed"),
    ],
)
def test_a_creator_is_said_where_it_is_not_the_parent(birth: Birth, said: str) -> None:
    """An assumed birth has a remark too."""
    brother = a_task(3, 1, birth=born(1))

    assert line_of(102, a_task(2, 1, comm=b"sh", birth=birth), brother, ghosts=1) == f"├─ 102 sh{said}"


def test_where_no_birth_was_seen_the_head_says_so_once() -> None:
    """A remark on every line would not help."""
    assumed = Birth(None, False, None, None, (), None)
    text = render(a_snapshot([(1,), (2,)], [a_task(1, 0, birth=assumed), a_task(2, 1, birth=assumed)]))

    assert "verified by numbering · births assumed" in text
    assert "└─ 2 task-2" in text.splitlines()


def test_an_ancestor_that_the_root_cannot_see_has_no_number() -> None:
    """The ancestor was outside of the root's namespace."""
    family = a_family()
    ancestor = family.ancestors[0]._replace(numbers=(), namespaces=())

    assert "born of a task outside (gone)" in render(replace(family, ancestors=(ancestor,)))


def test_threads_without_remarks_share_lines_of_bounded_width() -> None:
    """Two hundred threads do not take two hundred lines."""
    threads = [a_task(tag, 0, tgid=1) for tag in range(2, 202)]
    lines = render(a_snapshot([(99 + n,) for n in range(1, 202)], [a_task(1, 0), *threads])).splitlines()

    assert len(lines) < 40
    assert max(map(len, lines)) <= 103
    assert sum(line.count("{") for line in lines) == 200


def test_a_thread_with_a_remark_has_a_line_of_its_own() -> None:
    """The line has the remark, and below it the children of this thread."""
    tasks = [
        a_task(1, 0, comm=b"a"),
        a_task(2, 0, tgid=1, comm=b"b", state=TaskState.STOPPED),
        a_task(3, 0, tgid=1, comm=b"c"),
        a_task(4, 0, tgid=1, comm=b"d"),
        a_task(5, 4, comm=b"e"),
    ]

    assert render(a_snapshot([(n,) for n in range(11, 16)], tasks)).splitlines()[3:] == [
        "11 a · session leader · uid 0",
        "├─ {13 c}",
        "├─ {12 b} · stopped",
        "└─ {14 d}",
        "   └─ 15 e",
    ]


def test_a_thread_whose_leader_has_no_task_stands_below_its_parent() -> None:
    """Its process would stand in the same place."""
    assert line_of(102, a_task(2, 1, tgid=3, comm=b"sh"), ghosts=1) == "└─ {102 sh} · thread of 103 (gone)"


def test_where_the_next_child_will_be_born_is_said() -> None:
    """unshare(2) or setns(2) has changed that namespace."""
    assert a_child(child_namespace=0) == "└─ 102 sh · next child in pid:[4026531836]"
    assert a_child(child_namespace=-1) == "└─ 102 sh · next child in an empty pidns"


@pytest.mark.parametrize(
    ("signal", "said"),
    [
        *((10, " · exit signal SIGUSR1"), (0, " · no exit signal"), (9, " · exit signal SIGKILL")),
        *((34, " · exit signal SIGRTMIN"), (35, " · exit signal SIGRTMIN+1"), (33, " · exit signal 33")),
        *((17, ""), (None, ""), (-1, "")),
    ],
)
def test_an_exit_signal_is_said_where_it_is_not_sigchld(signal: int | None, said: str) -> None:
    """waitpid() without __WALL does not see such a child, and its signal may kill the parent."""
    assert a_child(exit_signal=signal) == f"└─ 102 sh{said}"


def test_a_ghost_says_what_it_is_still_used_as() -> None:
    """The first members are named, and the others are counted."""
    children = [a_task(tag, 1, pgid=12, sid=12) for tag in range(2, 12)]
    text = render(a_snapshot([(100 + n,) for n in range(13)], [a_task(1, 0), *children]))

    assert text.splitlines()[-3:] == [
        "pids without a task here",
        "   111 · session of 101, 102, 103, 104, 105, 106, 4 more · group of 101, 102, 103, 104, 105, 106, 4 more",
        "   112 · used by no task",
    ]


def test_an_incomplete_snapshot_says_why_in_its_head() -> None:
    """The word is in capitals, and each reason has a line."""
    done = Completeness("no", lost=3, anomalies=1, kernel_threads_left_out=2, reasons=("a gap", "another"))

    assert render(a_snapshot(completeness=done)).splitlines()[1:4] == [
        "INCOMPLETE · not verified · 3 events lost · 1 anomaly healed · 2 kernel threads left out",
        "   a gap",
        "   another",
    ]


def test_a_name_cannot_command_the_terminal() -> None:
    """A user chooses the name of a process; an escape sequence in it is shown escaped."""
    text = a_child()
    hostile = line_of(102, a_task(2, 1, comm=b"\x1b[2J\n\r\x9b\xc2\x9b"))

    assert text == "└─ 102 sh"
    assert hostile == r"└─ 102 \x1b[2J\n\r\x9b\x9b"


def test_thousands_of_generations_are_shown_without_thousands_of_columns() -> None:
    """From the fortieth generation on the labels have its number."""
    chain = [a_task(tag, tag - 1) for tag in range(1, 3001)]
    lines = render(a_snapshot([(tag,) for tag in range(2, 3002)], chain)).splitlines()

    assert len(lines) == 3003
    assert max(map(len, lines)) < 180
    assert lines[-1].endswith("└─ [2999 deep] 3001 task-3000")


def test_every_task_and_every_pid_of_a_crowd_is_there() -> None:
    """No task is summed up."""
    text = render(a_crowd(200, 400, level=2))

    assert all(re.search(rf"\b{number}/", text) for number in range(1000, 1600))


@patient
@given(snapshots())
def test_any_snapshot_can_be_shown(snapshot: Snapshot) -> None:
    """Each task's number is in the text, and the lines can be printed."""
    text = render(snapshot)

    text.encode()
    assert render(snapshot, unicode=False).isascii()
    assert all(line.isprintable() for line in text.splitlines())
    assert all(re.search(rf"\b{snapshot.number(task.pid)}\b", text) for task in snapshot.tasks)


@patient
@given(snapshots())
def test_any_bare_image_can_be_shown(snapshot: Snapshot) -> None:
    """Such an image comes from the tools of 2011."""
    image = checkpoint.dumps(replace(snapshot, tasks=tuple(a_bare_task(*task[:6]) for task in snapshot.tasks)))

    assert "bare image" in render(checkpoint.loads(image))


def test_a_creator_that_is_no_task_any_more_is_gone() -> None:
    """The number is known, because the pid object still leads a group."""
    task = a_task(2, 1, birth=Birth(Creator(Tag(3), None), True, Tag(1), Tag(1), (), 4))

    assert line_of(102, task, ghosts=1).endswith("born of 103 (gone)")
