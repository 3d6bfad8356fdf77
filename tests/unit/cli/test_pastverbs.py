# SPDX-License-Identifier: Apache-2.0
"""The verbs that ask a recording alone, over a recording of a simulated kernel."""

import fcntl
import json
import os
import re
import time
from pathlib import Path

import pytest

from agent.recorder import newest
from agent.recorder.instant import written
from agent.recorder.recording import Recording
from tests.support.commandline import ckptree, here
from tests.support.taped import Taped


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording with a gap."""
    made: Path = tmp_path_factory.mktemp("recording")
    taped = Taped(made, 3)
    taped.mark(continues=False)
    for step in range(12):
        taped.step(heard=step != 6)
        if step == 6:
            taped.mark(continues=False, why="the writer fell behind")
    taped.end()
    return made


@pytest.mark.parametrize("text", ["foo", "0", "-5", "1.5", "4194304", "9" * 5000, "\u0665", "7/", "/7", "7/x"])
def test_a_number_that_is_none_is_named(place: Path, text: str) -> None:
    """With the numbers there can be."""
    ran = here("history", "--record", place, "--", text)
    assert ran.returncode == 2
    assert ran.stderr.startswith(b"ckptree: PID '")
    assert b"expected the number of a process or thread, from 1 to 4194303" in ran.stderr
    assert len(ran.stderr) < 200
    assert not ran.stdout


@pytest.mark.parametrize(
    "words",
    [
        ("events",),
        ("history", "1"),
        ("tree", "1", "--at", "-1s"),
        ("snapshot", "1", "--at", "-1s", "-o", "x"),
        ("diff", "1", "--from", "-2s", "--to", "-1s"),
        ("show", "1", "--at", "-1s"),
    ],
)
def test_a_folder_that_is_missing_is_a_failure_as_a_missing_file_is(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Not one of this host."""
    ran = here(*words, "--record", tmp_path / "none", cwd=tmp_path)
    assert (ran.returncode, b"none: there is no such folder" in ran.stderr) == (1, True), ran.stderr


@pytest.mark.parametrize("name", ["lock", "*.tape"])
def test_a_file_that_is_named_as_a_recording_is_a_failure_that_says_what_to_name(place: Path, name: str) -> None:
    """Of the recording itself, too."""
    (file,) = [next(iter(place.glob(name)), place / name)]
    file.touch()
    ran = here("events", "--record", file)
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert ran.stderr.endswith(b"it is no folder: name the one that the recording's files are in\n")


def test_a_tree_in_a_gap_has_the_time_in_milliseconds_and_no_bound_for_it(place: Path) -> None:
    """Elsewhere it has the bound of the last record's time."""
    recording = Recording(place)
    (gap,) = recording.gaps
    head = {}
    for where, time_ns in (("gap", gap.from_ns + 123_000), ("before", recording.runs[0].first.time_ns + 1_000_000)):
        head[where] = here("tree", "1", "--at", written(time_ns), "--record", place).stdout.decode().splitlines()[0]
        milliseconds = f"{written(time_ns)[11:23]} UTC, from a recording, before record "
        assert milliseconds in head[where]
    assert "to within" not in head["gap"]
    assert "to within" in head["before"]


def test_a_life_with_a_gap_is_told_and_incomplete(place: Path) -> None:
    """The line has the reason; the exit code is 6, unless one allows it."""
    ran = here("history", "1", "--record", place)
    lines = [line.split() for line in ran.stdout.decode().splitlines()]
    assert ran.returncode == 6
    assert [line[2] for line in lines].count("gap") == 1
    assert b": the writer fell behind" in ran.stdout
    (told,) = [line for line in here("events", "--record", place).stdout.split(b"\n") if b" gap " in line]
    assert re.search(rb" gap +no records until \d\d:\d\d:\d\d\.\d{3}: the writer fell behind$", told)
    allowed = here("history", "1", "--record", place, "--allow-incomplete", "--json")
    assert allowed.returncode == 0
    (life,) = json.loads(allowed.stdout)["lives"]
    (gap,) = [event for event in life if event["event"] == "gap"]
    assert (gap["tid"], gap["why"], gap["reboot"]) == (1, "the writer fell behind", False)
    assert gap["until_ns"] >= gap["time_ns"]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("diff", "1"), ("--from", "--to")),
        (("events",), ("--since", "--until")),
        (("history", "1"), ("--since", "--until")),
    ],
)
def test_two_times_in_the_wrong_order_are_refused(place: Path, words: tuple[str, ...], names: tuple[str, str]) -> None:
    """A difference would have the dead as born. The message has both times."""
    first, last = Recording(place).runs[0].first.order, Recording(place).runs[0].last.order
    ran = here(*words, names[0], f"#{last}", names[1], f"#{first}", "--record", place)

    assert ran.returncode == 2
    assert ran.stderr.endswith(f" (#{first}): exchange them\n".encode())
    assert f" (#{last}) is behind ".encode() in ran.stderr
    assert not ran.stdout
    right = here(*words, names[0], f"#{first}", names[1], f"#{last}", "--record", place)
    assert right.returncode != 2


@pytest.mark.parametrize("words", [("history", "1"), ("events",), ("tree", "1", "--at", "-5s")])
def test_the_past_of_a_daemon_that_is_gone_is_in_its_folder(words: tuple[str, ...], tmp_path: Path) -> None:
    """The message says how to read it there."""
    ran = here(*words, "--socket", tmp_path / "none.sock")

    assert ran.returncode == 3
    assert b"start one with `ckptree daemon --socket" in ran.stderr
    assert ran.stderr.endswith(b", or name the folder of its recording with --record DIR\n")


@pytest.mark.parametrize("name", ["criu:x", "nats:trees/x", "nats://trees/x"])
def test_no_file_is_written_that_is_called_as_an_address_is(place: Path, name: str, tmp_path: Path) -> None:
    """A path that begins with a dot is a file."""
    told = ("events", "--record", place, "--allow-incomplete", "-o")
    ran = here(*told, name, cwd=tmp_path)
    assert (ran.returncode, list(tmp_path.iterdir())) == (2, [])
    assert ran.stderr.startswith(f"ckptree: {name}".encode())
    assert here(*told, "./nats:x", cwd=tmp_path).returncode == 0
    assert (tmp_path / "nats:x").is_file()


def test_a_time_of_day_is_the_last_one_before_now_where_a_daemon_writes_and_an_answer_goes_to_a_file(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the last one before the end of what was written: the child that makes the file may look at no lock."""
    monkeypatch.setattr(newest, "_PATIENCE_S", 0.0)
    time_of_day = written(time.time_ns() - 1_000_000_000)[11:23]
    question = ("1", "--at", time_of_day, "--record", place)
    lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = ckptree("snapshot", *question, "-o", tmp_path / "file")
        told = here("tree", *question)
    finally:
        os.close(lock)
    assert (ran.returncode, told.returncode) == (4, 4)
    assert ran.stderr == told.stderr


def test_the_numbers_of_a_task_as_events_show_them_name_it(place: Path) -> None:
    """The first one is that of the initial pid namespace."""
    (one, all_) = (here("history", "--record", place, "--json", text) for text in ("1", "1/150/3"))
    assert (one.returncode, one.stdout) == (all_.returncode, all_.stdout)
    assert one.stdout


@pytest.mark.parametrize(
    "words", [("tree", "1", "--at"), ("events", "--since"), ("history", "1", "--until")], ids=" ".join
)
def test_a_time_of_day_that_an_ended_recording_lacks_has_the_date_named(place: Path, words: tuple[str, ...]) -> None:
    """A time of day is the last one before the end, which may be days ago; with a date nothing is added."""
    end_ns = Recording(place).until_ns
    behind = written(end_ns + 60_000_000_000, None)
    hint = f"; the recording ends at {written(end_ns, None)[:19]}".encode()
    ran = here(*words, behind[11:16], "--record", place)
    assert (ran.returncode, hint in ran.stderr) == (4, True), ran.stderr
    assert ran.stderr.endswith(b"give the date, too\n")
    ran = here(*words, behind, "--record", place)
    assert (ran.returncode, hint in ran.stderr) == (4, False), ran.stderr
