# SPDX-License-Identifier: Apache-2.0
"""The verbs of the past, on a recording that a daemon has made of real trees."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.live.daemons import Ran, a_daemon, ckptree

SCRIPT = "sleep 61 & sleep 62 & wait"


class Story:
    """A recording of a tree that grew, was captured, and is gone.

    Attributes:
        folder: of the recording.
        root: number of the tree's root.
        live: the document of the live snapshot.
        image: its file.
    """

    def __init__(self, folder: Path, root: int, image: Path) -> None:
        self.folder, self.root, self.image = folder, root, image
        self.live: Any = json.loads(ckptree("show", image, "--json").out)

    @property
    def at(self) -> str:
        """The number at which the live snapshot is true."""
        return f"#{self.live['completeness']['order']}"

    def asks(self, verb: str, *arguments: str | Path) -> Ran:
        """Ask the folder."""
        return ckptree(verb, *arguments, "--record", self.folder)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Return a recording whose daemon, and whose tree, are gone."""
    place = tmp_path_factory.mktemp("past")
    image = place / "live.ckpt"
    with a_daemon(place, "--record", place / "recording") as daemon:
        with subprocess.Popen(["bash", "-c", SCRIPT]) as tree:
            deadline = time.monotonic() + 20
            while len(psutil.Process(tree.pid).children()) < 2 and time.monotonic() < deadline:
                time.sleep(0.01)
            ran = ckptree("snapshot", str(tree.pid), "--socket", daemon.socket, "-o", image)
            assert ran.code == 0, ran.err
            for child in psutil.Process(tree.pid).children():  # the shell reaps them, and ends
                child.kill()
        time.sleep(0.2)
    return Story(place / "recording", tree.pid, image)


def test_the_tree_of_then_is_the_one_that_was_captured(story: Story, tmp_path: Path) -> None:
    """All but what is read beside the records is the same; the document says where it comes from."""
    ran = story.asks("snapshot", str(story.root), "--at", story.at, "-o", tmp_path / "past.ckpt")
    assert ran.code == 0, ran.err
    found = ckptree("diff", story.image, tmp_path / "past.ckpt")
    assert (found.code, found.out.splitlines()[0]) == (0, b"equal")
    past = json.loads(ckptree("show", tmp_path / "past.ckpt", "--json").out)
    assert past["at"]["order"] == past["completeness"]["order"] == story.live["completeness"]["order"]
    assert abs(past["at"]["time_ns"] - story.live["time_ns"]) < 2_000_000_000
    assert past["boot_id"] == story.live["boot_id"]
    assert past["header"] == story.live["header"]
    for key in ("pids", "namespaces", "ancestors"):
        assert past[key] == story.live[key]


def test_a_tree_of_the_past_can_be_made_again(story: Story, tmp_path: Path) -> None:
    """Its processes are gone; the ones that are made have their numbers, in a namespace of their own."""
    image = tmp_path / "past.ckpt"
    assert story.asks("snapshot", str(story.root), "--at", story.at, "-o", image).code == 0
    ran = ckptree("restart", image, "--json", "--run", "true")
    assert ran.code == 0, ran.err
    ready = json.loads(ran.out)
    assert len(ready["tasks"]) == len(story.live["tasks"])


def test_a_time_has_many_spellings(story: Story) -> None:
    """The same instant by its number and by the clock gives the same tree."""
    by_number = story.asks("tree", str(story.root), "--at", story.at)
    seconds, rest = divmod(story.live["time_ns"], 1_000_000_000)
    when = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09}Z"
    by_clock = story.asks("tree", str(story.root), "--at", when)
    assert by_number.code == by_clock.code == 0, by_clock.err
    assert by_number.out.splitlines()[2:] == by_clock.out.splitlines()[2:]


def test_a_time_that_the_recording_has_not_is_refused_with_those_there_are(story: Story) -> None:
    """Exit code 4, as for a process that is not there."""
    for when, said in (
        ("2001-01-01T00:00:00Z", "does not have that time; it has #"),
        ("#1", "no such number; it has #"),
        ("-0s", "does not have that time"),
    ):
        ran = story.asks("tree", str(story.root), "--at", when)
        assert (ran.code, ran.out) == (4, b""), (when, ran.err)
        assert said in ran.err


def test_a_process_that_was_not_there_then_is_not_found(story: Story) -> None:
    """No process has the largest number."""
    ran = story.asks("tree", "4194303", "--at", story.at)
    assert (ran.code, ran.out) == (4, b"")
    assert "Z: no such process: pid 4194303; `ckptree history 4194303` tells when" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("unit:ssh", "--at", "-1m"), "a recording has no cgroups"),
        (("cgroup:/", "--at", "-1m"), "a recording has no cgroups"),
        (("1", "--at", "yesterday"), "TIME 'yesterday': expected"),
        (("1", "--at", "-1m", "--source", "procfs"), "--source procfs"),
        (("1", "--at", "-1m", "--socket", "/nowhere"), "leave one of them out"),
        (("1",), "name a time"),
    ],
)
def test_a_question_that_makes_no_sense_is_a_usage_error(story: Story, arguments: tuple[str, ...], said: str) -> None:
    """The message says what to do."""
    ran = story.asks("tree", *arguments)
    assert (ran.code, ran.out) == (2, b"")
    assert said in ran.err


def test_two_times_of_a_tree_are_compared(story: Story) -> None:
    """Before its end it was whole; the children went first."""
    same = story.asks("diff", str(story.root), "--from", story.at, "--to", story.at)
    assert (same.code, same.out.splitlines()[0]) == (0, b"equal")
    events = story.asks("events", str(story.root), "--since", story.at, "--kind", "reap", "--json")
    last = json.loads(events.out.splitlines()[0])["order"] + 1
    found = story.asks("diff", str(story.root), "--from", story.at, "--to", f"#{last}", "--json")
    document = json.loads(found.out)
    assert found.code in (1, 6), found.err
    assert document["equal"] is False
    assert len(document["gone"]) >= 1
    for wrong in (("--from", "-1m"), ("--to", "-1m"), ("2", "--from", "-2m", "--to", "-1m"), ()):
        ran = story.asks("diff", str(story.root), *wrong)
        assert (ran.code, ran.out) == (2, b""), wrong


def test_show_takes_a_time_too(story: Story) -> None:
    """It prints what `tree` prints."""
    shown = story.asks("show", str(story.root), "--at", story.at)
    assert shown.code == 0, shown.err
    assert shown.out == story.asks("tree", str(story.root), "--at", story.at).out
    assert b"from a recording, before record" in shown.out
