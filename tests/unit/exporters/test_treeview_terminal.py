# SPDX-License-Identifier: Apache-2.0
"""The tree on a terminal: no line is wider than the terminal, nothing is lost, and colour only adds."""

import os
import pty
import re
import termios
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import PidObject, Snapshot
from exporters.content.wording import ALARM, TINTS, Tint
from exporters.drawing.colours import columns
from exporters.drawing.treeview import render
from exporters.image import checkpoint
from tests.support.builders import a_family, a_snapshot, a_task, snapshots
from tests.support.commandline import here
from tests.support.examples import patient

NARROW = """\
subtree of 4711
   4 processes, 2 threads, 7 pids, 2 pid
   namespaces · 2024-05-01 12:00:00 UTC
   Linux 6.1.0 x86_64
complete · verified by numbering
   outside, under one tag: 4000, 4001
   entered from outside and left out:
      5000 sh

4711 bash · session leader · uid 0
├─ 4712 make -j\\xff\\\\ · group leader
│  ├─ {4713 make} {4714 wor\\xffker}
│  └─ 4720/1 init
│        pid:[4026531837] level 1
│        session leader · subreaper
└─ 4722 cc · zombie, exited 3
      group 4690 · born of 4700 (gone)

pids without a task here
   4690 · group of 4722"""

SGR = re.compile(r"\x1b\[([0-9;]*)m")


def test_forty_columns_are_enough_for_everything() -> None:
    """Remarks continue in the next line, below the name."""
    assert render(a_family(), width=40) == NARROW


def ink_of(text: str) -> Counter[str]:
    """Return the count of each character that is neither a blank, nor a margin, nor a number of generations."""
    return Counter(re.sub(r"\[\d+deep\]", "", re.sub(r"[\s│├└─·]", "", text)))


@patient
@given(snapshots(), st.integers(20, 130), st.booleans())
def test_no_line_is_wider_than_the_terminal_and_nothing_is_cut_off(
    snapshot: Snapshot,
    width: int,
    unicode: bool,  # noqa: FBT001  # hypothesis passes it by name
) -> None:
    """Names have fifteen foreign bytes, pids have four levels, and a chain has eight tasks."""
    text = render(snapshot, width=width, unicode=unicode)
    nameless = replace(snapshot, tasks=tuple([task._replace(argv=None) for task in snapshot.tasks]))

    assert max(map(columns, text.splitlines())) <= width
    if unicode:
        assert ink_of(render(nameless, width=width)) == ink_of(render(nameless))


@pytest.mark.parametrize(
    ("width", "shown"), [(80, "-c 'sleep 1000; true' · group leader"), (45, "-c 'sleep 1000; tru… · group leader")]
)
def test_a_command_line_has_the_room_that_the_remarks_leave(width: int, shown: str) -> None:
    """It never pushes a remark into the next line."""
    task = a_task(2, 1, pgid=2, comm=b"sh", argv=(b"/bin/sh", b"-c", b"sleep 1000; true"))
    line = render(a_snapshot([(100,), (101,)], [a_task(1, 0), task]), width=width).splitlines()[-1]

    assert line == f"└─ 101 sh {shown}"


def test_where_there_is_no_room_for_a_command_line_it_is_left_out() -> None:
    """In ASCII three dots stand for the rest."""
    task = a_task(1, 0, comm=b"cat", argv=(b"cat", b"a-long-name" * 9))
    lines = [
        render(a_snapshot(tasks=[each]), width=20, unicode=False).splitlines()
        for each in (task, task._replace(comm=b"tomcat"))
    ]

    assert [[line for line in each if "cat" in line] for each in lines] == [["100 cat a-long-na..."], ["100 tomcat"]]


def test_a_long_chain_keeps_half_of_a_narrow_terminal_for_its_labels() -> None:
    """From the seventh generation on the margins do not grow."""
    chain = [a_task(tag, tag - 1) for tag in range(1, 501)]
    lines = render(a_snapshot([(tag,) for tag in range(2, 502)], chain), width=40).splitlines()

    assert max(map(len, lines)) <= 40
    assert "                  └─ [7 deep] 9 task-8" in lines


def test_a_wide_terminal_lets_more_threads_share_a_line() -> None:
    """A narrow one lets fewer threads share it."""
    threads = [a_task(tag, 0, tgid=1, comm=b"worker") for tag in range(2, 102)]
    snapshot = a_snapshot([(99 + n,) for n in range(1, 102)], [a_task(1, 0), *threads])
    heights = {width: len(render(snapshot, width=width).splitlines()) for width in (40, 80, 200)}

    assert heights == {40: 7 + 50, 80: 5 + 17, 200: 4 + 7}


def test_signs_of_two_columns_count_as_two() -> None:
    """Names are bytes, so programs may have any characters in them."""
    snapshot = a_snapshot(tasks=[a_task(1, 0, comm="程序程序程".encode()), a_task(2, 1)], pids=[(100,), (101,)])
    lines = render(snapshot, width=28).splitlines()

    assert columns("程序e\u0301") == 5
    assert "100 程序程序程" in lines
    assert max(map(columns, lines)) <= 28


def test_a_word_that_no_line_can_hold_is_cut() -> None:
    """The tree has a pid of ten levels, and a name of bytes that are no text; in ASCII each of them is longer still."""
    pid = PidObject((4190000, *range(4190001, 4190009), 1), ())
    snapshot = a_snapshot(tasks=[a_task(1, 0, comm=b"\xff" * 15, depth=9)])
    lines = render(replace(snapshot, pids=(pid,)), width=30, unicode=False).splitlines()

    assert lines[-7:] == [
        "4190000/4190001/4190002/419",
        "   0003/4190004/4190005/419000",
        "   6/4190007/4190008/1",
        r"   \xff\xff\xff\xff\xff\xff\xf",
        r"   f\xff\xff\xff\xff\xff\xff\x",
        r"   ff\xff - session leader",
        "   uid 0",
    ]
    assert r"\u7a0b" in render(a_snapshot(tasks=[a_task(1, 0, comm="程".encode())]), width=30, unicode=False)


@patient
@given(snapshots(), st.none() | st.integers(20, 130))
def test_colour_only_adds(snapshot: Snapshot, width: int | None) -> None:
    """Without the sequences the text is that of a pipe."""
    coloured = render(snapshot, color=True, width=width)

    assert SGR.sub("", coloured) == render(snapshot, width=width)
    assert "\x1b" not in render(snapshot, width=width)


def test_a_session_has_one_colour_and_its_neighbours_have_others() -> None:
    """Numbers have the session's colour, names the group's; a leader's are bold."""
    lines = render(a_family(), color=True).splitlines()[5:]
    numbers = [SGR.findall(line)[0] for line in lines[:5]]

    assert [style.removeprefix("1;") for style in numbers] == ["38;5;28"] * 3 + ["38;5;130", "38;5;28"]
    assert [style.startswith("1;") for style in numbers] == [True, True, False, True, False]
    assert "\x1b[38;5;164mcc\x1b[0m" in lines[4]
    assert "\x1b[38;5;160mzombie, exited 3\x1b[0m" in lines[4]
    assert lines[-1] == "   \x1b[38;5;164m4690\x1b[0m · group of 4722"


def luminance(tint: Tint) -> float:
    """Return the relative luminance of a colour, by the web's accessibility guidelines."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in tint.rgb)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("tint", [*TINTS, ALARM])
def test_a_colour_can_be_read_on_black_and_on_white(tint: Tint) -> None:
    """The contrast to both is more than 3.8 to 1; 4.6 is the best possible."""
    red, green, blue = ((0, 95, 135, 175, 215, 255).index(part) for part in tint.rgb)

    assert tint.code == 16 + 36 * red + 6 * green + blue
    assert 1.05 / (luminance(tint) + 0.05) > 3.8
    assert (luminance(tint) + 0.05) / 0.05 > 3.8


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_show_asks_the_terminal_for_its_width_and_whether_it_wants_colour(
    tmp_path: Path, environment: dict[str, str], *, coloured: bool
) -> None:
    """The command is ``ckptree show FILE`` on a terminal of 40 columns. NO_COLOR counts if it is not empty."""
    image = tmp_path / "tree.ckpt"
    image.write_bytes(checkpoint.dumps(a_family()))
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 40))
    inherited = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "COLUMNS", "TERM")}
    ran = here("show", image, streams={1: theirs}, env=inherited | environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 4096)
        except OSError:  # the terminal's error after the last writer has closed it
            break
    os.close(ours)
    text = shown.decode().replace("\r\n", "\n").rstrip("\n")

    assert ran.returncode == 0
    assert bool(SGR.search(text)) is coloured
    assert SGR.sub("", text) == NARROW
