# SPDX-License-Identifier: Apache-2.0
"""``ckptree tree``, on a terminal and elsewhere; it reads /proc, so it needs no rights."""

import contextlib
import json
import os
import re
import signal
import subprocess
import termios
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.commandline import ckptree, here
from tests.support.teletype import Teletype, on_a_terminal

PROCFS = ("--source", "procfs")
# A shell with job control, which a stop needs; its text goes to the screen that is shown at that moment.
BROUGHT_BACK = ("sh", "-mc", '"$@"; while [ $? -gt 128 ]; do echo brought back; fg >/dev/null; done', "sh")
SHELL = "while read line; do sleep 1000 & echo; done"


@pytest.fixture
def shell() -> Iterator["subprocess.Popen[bytes]"]:
    """Run a shell that starts one process for each line of input."""
    pipe: Any = subprocess.PIPE
    with subprocess.Popen(["sh", "-c", SHELL], stdin=pipe, stdout=pipe, start_new_session=True) as process:
        yield process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def grow(shell: "subprocess.Popen[bytes]") -> None:
    """Start one more process."""
    assert shell.stdin
    assert shell.stdout
    shell.stdin.write(b"\n")
    shell.stdin.flush()
    shell.stdout.readline()


def given_back(teletype: Teletype) -> bool:
    """Assert that the terminal has its former modes."""
    display = teletype.display
    return (display.alternate, display.cursor, display.wraps) == (False, True, True)


def test_elsewhere_it_is_printed_once(shell: "subprocess.Popen[bytes]") -> None:
    """The text has no colour and no sequence; the exit code is 6, as for any snapshot from /proc."""
    grow(shell)
    ran = ckptree("tree", str(shell.pid), *PROCFS, env={**os.environ, "PYTHONIOENCODING": "utf-8"})

    assert ran.returncode == 6
    assert re.search(
        rf"^{shell.pid} sh -c .* · session leader · (user|uid) .*\n└─ \d+ sleep 1000", ran.stdout.decode(), re.MULTILINE
    )
    assert b"\x1b" not in ran.stdout
    assert ran.stderr.startswith(b"ckptree: incomplete: ")


def test_json_is_the_snapshot(shell: "subprocess.Popen[bytes]") -> None:
    """``snapshot --json`` prints the same."""
    ran = here("tree", "--json", str(shell.pid), *PROCFS)

    assert ran.returncode == 6
    assert json.loads(ran.stdout)["pids"][0]["numbers"] == [shell.pid]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("tree", "nobody"), 2),
        (("tree", "1", "--source", "procfs", "--socket", "/no"), 2),
        (("tree", str(2**22 + 1), *PROCFS), 4),
        (("tree", "1", "--socket", "/no/such"), 3),
    ],
)
def test_what_cannot_be_shown_has_the_exit_code_of_a_snapshot(arguments: tuple[str, ...], code: int) -> None:
    """One line goes to stderr."""
    ran = here(*arguments)

    assert (ran.returncode, ran.stdout) == (code, b"")


def test_on_a_terminal_it_follows_what_happens_until_q(shell: "subprocess.Popen[bytes]") -> None:
    """The tree is on the alternate screen; afterwards the terminal has its former state."""
    with on_a_terminal("tree", str(shell.pid), *PROCFS) as teletype:
        teletype.see(rf"{shell.pid} sh -c .* · session leader")
        assert teletype.display.alternate
        assert not teletype.display.cursor
        assert "└─" not in teletype.display.text
        grow(shell)
        teletype.see(r"└─ \d+ sleep")
        teletype.press(b"q")

        assert teletype.end() == 0
        assert given_back(teletype)
        assert teletype.display.before == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_that_ends_it_gives_the_terminal_back(
    shell: "subprocess.Popen[bytes]", number: signal.Signals
) -> None:
    """The parent sees the death by the signal; an interrupt gives exit code 130."""
    with on_a_terminal("tree", str(shell.pid), *PROCFS) as teletype:
        teletype.see("quit")
        modes = termios.tcgetattr(teletype.ours)
        teletype.process.send_signal(number)

        assert teletype.end() == (130 if number == signal.SIGINT else -number)
        assert given_back(teletype)
        assert termios.tcgetattr(teletype.ours) == teletype.modes != modes
        assert "Traceback" not in teletype.display.before


def test_ctrl_z_gives_the_terminal_back_until_it_is_continued(shell: "subprocess.Popen[bytes]") -> None:
    """After SIGSTOP, too, everything is drawn again."""
    with on_a_terminal("tree", str(shell.pid), *PROCFS, before=BROUGHT_BACK) as teletype:
        teletype.see("quit")
        teletype.press(b"\x1a")
        teletype.hear(lambda: "brought back" in teletype.display.said)
        teletype.see(rf"{shell.pid} sh")
        os.kill(os.tcgetpgrp(teletype.ours), signal.SIGSTOP)
        teletype.hear(lambda: teletype.display.said.count("brought back") == 2)
        teletype.see(rf"{shell.pid} sh")
        teletype.press(b"q")

        assert teletype.end() == 0
        assert given_back(teletype)
        assert termios.tcgetattr(teletype.ours) == teletype.modes


def test_keys_scroll_and_a_new_size_is_taken(shell: "subprocess.Popen[bytes]") -> None:
    """The last row shows the position."""
    for _ in range(12):
        grow(shell)
    with on_a_terminal("tree", str(shell.pid), *PROCFS, rows=10, columns=60) as teletype:
        teletype.see(rf"^INCOMPLETE · subtree of {shell.pid}.*\n(.*\n)+.* 1-9/\d\d ")
        assert len(teletype.display.rows) == 10
        teletype.press(b" ")
        teletype.see(r" 9-17/\d\d ")
        teletype.press(b"\x1b[F")
        teletype.see(r"INCOMPLETE · not verified(.*\n)+.* (\d\d)-\d\d/\d\d ")
        teletype.press(b"\x1b[H")
        teletype.resize(40, 120)
        teletype.hear(lambda: len(teletype.display.rows) == 40 and max(map(len, teletype.display.rows)) == 120)
        teletype.see(rf"^INCOMPLETE · subtree of {shell.pid}")


def test_forty_columns_and_eight_rows_are_enough_to_fold_and_search(shell: "subprocess.Popen[bytes]") -> None:
    """The summary has one line; the keys fit."""
    for _ in range(12):
        grow(shell)
    with on_a_terminal("tree", str(shell.pid), *PROCFS, rows=8, columns=40) as teletype:
        teletype.see(rf"^INCOMPLETE · subtree of .*…\n{shell.pid} sh(.*\n)+.*\?: help, q: quit")
        teletype.press(b"?")
        teletype.see(r"^arrows(.*\n){6}q quit")
        teletype.press(b"x")
        teletype.see(r"^INCOMPLETE")
        teletype.press(b"/")
        teletype.see(r"\n /")
        teletype.press("grow é".encode())
        teletype.see(r"\n /grow é")
        teletype.press(b"\r")
        teletype.see(r"no line has grow é")
        teletype.press(b"/read by\x7f\x7f\x7f\n")
        teletype.see(r"read task by task(.*\n)+ \d+ ")
        teletype.press(b"q")

        assert teletype.end() == 0


def test_colours_stand_for_sessions_groups_or_both(shell: "subprocess.Popen[bytes]") -> None:
    """NO_COLOR disables them, and the bar then does not mention them."""
    with on_a_terminal("tree", str(shell.pid), *PROCFS) as teletype:
        teletype.see("colours: session and group")
        teletype.press(b"s")
        teletype.see("colours: session  ")
        teletype.press(b"g")
        teletype.see("colours: group  ")
        assert {"1;38;5;28", "7"} <= teletype.display.colours
    with on_a_terminal("tree", str(shell.pid), *PROCFS, NO_COLOR="1") as teletype:
        teletype.see("quit")

        assert "colours: session" not in teletype.display.text
        assert teletype.display.colours == {"0", "7"}


def test_when_the_root_has_gone_it_ends_and_says_so(shell: "subprocess.Popen[bytes]") -> None:
    """The exit code is 4, and the message is on the normal screen."""
    with on_a_terminal("tree", str(shell.pid), *PROCFS) as teletype:
        teletype.see("quit")
        os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()

        assert teletype.end() == 4
        assert given_back(teletype)
        assert f"ckptree: no such process: pid {shell.pid}" in teletype.display.before


def test_a_terminal_that_cannot_move_its_cursor_gets_it_once(shell: "subprocess.Popen[bytes]") -> None:
    """TERM=dumb is set by the shell of an editor."""
    with on_a_terminal("tree", str(shell.pid), *PROCFS, TERM="dumb") as teletype:
        assert teletype.end() == 6
        assert not teletype.display.colours
        assert f"{shell.pid} sh" in teletype.display.before
