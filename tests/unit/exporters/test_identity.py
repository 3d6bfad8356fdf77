# SPDX-License-Identifier: Apache-2.0
"""Command line, user and age of a task, in words."""

import pytest

from exporters.content.identity import MOST_OF_A_COMMAND, age, command, user
from exporters.drawing.treeview import render
from tests.support.builders import a_snapshot, a_task, born

S = 1_000_000_000


@pytest.mark.parametrize(
    ("comm", "argv", "said"),
    [
        (b"make", (b"make", b"-j8", b"all"), "-j8 all"),
        (b"make", (b"/usr/bin/make",), ""),
        (b"bash", (b"-bash",), ""),
        (b"a-name-of-fifte", (b"/opt/a-name-of-fifteen-and-more", b"x"), "x"),
        (b"systemd", (b"/sbin/init", b"splash"), "(/sbin/init splash)"),
        (b"app.py", (b"/usr/bin/python3", b"./app.py"), "(/usr/bin/python3 ./app.py)"),
        (b"nginx", (b"nginx: worker process",), "('nginx: worker process')"),
        (b"sh", (b"sh", b"-c", b"sleep 9", b""), "-c 'sleep 9' ''"),
        (b"sh", (b"sh", b"a\n\x1b[2J\xff"), r"a\n\x1b[2J\xff"),
        (None, (b"sh", b"x"), "(sh x)"),
        (b"sh", None, ""),
        (b"sh", (), ""),
    ],
)
def test_the_arguments_follow_the_name(comm: bytes | None, argv: tuple[bytes, ...] | None, said: str) -> None:
    """Control characters in a plain line are escaped, as in names."""
    assert command(a_task(1, 0, comm=comm, argv=argv)) == said


def test_a_command_line_of_megabytes_takes_no_more_room_than_others() -> None:
    """One argument alone may have 128 KiB."""
    long = a_task(1, 0, comm=b"sh", argv=(b"sh", b"x" * 3_000_000, b"y" * 3_000_000))
    many = a_task(1, 0, comm=b"sh", argv=(b"sh", *[b"x"] * 3_000_000))

    assert all(abs(len(command(each)) - MOST_OF_A_COMMAND) <= 2 for each in (long, many))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0s old"),
        (59.9, "59s old"),
        (60, "1m old"),
        (3599, "59m old"),
        (3 * 3600 + 5, "3h old"),
        (2 * 86400, "2d old"),
        (800 * 86400, "800d old"),
        (-1, ""),
    ],
)
def test_an_age_is_that_at_the_cut(seconds: float, said: str) -> None:
    """It is in its largest unit, rounded down. A later look at the image does not change it."""
    snapshot = a_snapshot(boottime_ns=10**18)

    assert age(snapshot, a_task(1, 0, start_ns=10**18 - int(seconds * S))) == said


def test_no_age_is_invented() -> None:
    """Images of earlier versions have no clock of the cut, and bare ones no start."""
    assert age(a_snapshot(), a_task(1, 0)) == ""
    assert age(a_snapshot(boottime_ns=5 * S), a_task(1, 0, start_ns=None)) == ""


def test_a_user_is_named_where_the_host_knows_the_name() -> None:
    """A child of the same user is not."""
    above, names = a_task(1, 0, uid=0), {0: "root", 33: "www\x1b"}.get

    assert [user(each, None, names) for each in (above, a_task(1, 0, uid=None))] == ["user root", ""]
    assert [user(a_task(2, 1, uid=uid), above, names) for uid in (0, 33, 34)] == ["", r"user www\x1b", "uid 34"]
    assert user(above, None) == "uid 0"


def test_a_tree_shows_user_and_age_where_they_are_not_the_parents() -> None:
    """A process is compared with its parent, and not with the thread of it that has the child; a thread with its leader."""
    hour = 3600 * S
    tasks = [
        a_task(1, 0, comm=b"init", start_ns=0),
        a_task(3, 2, comm=b"old", start_ns=S, birth=born(2)),
        a_task(4, 2, comm=b"new", start_ns=4 * hour, uid=7, birth=born(2)),
        a_task(2, 0, tgid=1, comm=b"thread", start_ns=4 * hour, uid=7),
    ]
    text = render(a_snapshot([(n,) for n in range(11, 15)], tasks, boottime_ns=5 * hour), names={7: "jane"}.get)

    assert text.splitlines()[3:] == [
        "11 init · session leader · uid 0 · 5h old",
        "└─ {12 thread} · user jane",
        "   ├─ 13 old · 4h old",
        "   └─ 14 new · user jane · 1h old",
    ]
