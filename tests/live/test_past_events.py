# SPDX-License-Identifier: Apache-2.0
"""The events of a recording are those that `watch` has told, one by one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.recorder import answers as past_answers
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from tests.bench.storm import Storm
from tests.live.daemons import PATIENCE_S, TOP, Daemon, a_daemon, ckptree
from tests.support.histories import unlike
from tests.support.traceprocessor import answers

Said = dict[str, Any]
_WATCH = (sys.executable, "-m", "agent", "watch")
_OF_THE_CLOCK = ("time", "time_ns", "boottime_ns")
"""Keys that differ: a live event has the time at which the daemon took its record."""


PROGRAMS = """
select above.pid as parent, slice.name as name, slice.dur / 1000000 as ms from slice
join thread_track on slice.track_id = thread_track.id join thread using (utid)
join process as child using (upid) join process as above on child.parent_upid = above.upid
where slice.category = 'exec'
"""
COMPLAINTS = "select name, value from stats where severity = 'error' and value > 0"


def without_times(line: str | bytes) -> Said:
    """Return an event without its times."""
    return {key: value for key, value in json.loads(line).items() if key not in _OF_THE_CLOCK}


def _watched(daemon: Daemon, heard: Path, lines: int) -> tuple[int, list[Said]]:
    """Watch a storm until so many lines have been heard; return its root, and the events without their times."""
    with heard.open("wb") as out, Storm(idle=20, rate=400) as storm:
        command = [*_WATCH, str(storm.root), "--json", "--socket", str(daemon.socket)]
        watch = subprocess.Popen(command, cwd=TOP, stdout=out)
        deadline = time.monotonic() + PATIENCE_S
        while heard.read_bytes().count(b"\n") < lines and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(watch.pid, signal.SIGINT)
        watch.wait(20)
    time.sleep(0.3)
    return storm.root, [without_times(line) for line in heard.read_bytes().splitlines()]


def _told(place: Path, root: int, watched: list[Said], code: int) -> tuple[list[Said], list[Said]]:
    """Return what a recording tells of the time that was watched, and what was heard in that time."""
    first, last = watched[0]["order"], watched[-1]["order"]
    ran = ckptree("events", str(root), "--since", f"#{first}", "--until", f"#{last}", "--record", place, "--json")
    assert ran.code == code, ran.err
    told = [without_times(line) for line in ran.out.splitlines()]
    behind = [event for event in watched if event["order"] < last]
    return told[: len(behind)], behind


def test_the_events_of_a_storm_are_those_that_were_watched(tmp_path: Path) -> None:
    """Event by event: births, execs with arguments, deaths, reaps, groups, parents, in one order."""
    place = tmp_path / "recording"
    with a_daemon(tmp_path, "--record", place) as daemon:
        root, watched = _watched(daemon, tmp_path / "heard", 3000)
    assert len(watched) > 2000

    told, behind = _told(place, root, watched, 0)
    assert told == behind
    assert {event["event"] for event in told} >= {"birth", "death", "reap", "reparent"}


def test_the_events_of_a_storm_with_losses_are_those_that_were_watched(tmp_path: Path) -> None:
    """A ring with room for some dozen records loses many: the losses and their ends, too, have the numbers of then."""
    place = tmp_path / "recording"
    with a_daemon(tmp_path, "--record", place, "--ring-bytes", "4096") as daemon:
        root, watched = _watched(daemon, tmp_path / "heard", 1500)
    assert len(watched) > 1000

    told, behind = _told(place, root, watched, 6)
    assert told == behind
    assert {event["event"] for event in told} >= {"birth", "death", "reap", "loss", "resync"}


def test_times_are_those_of_the_records(tmp_path: Path) -> None:
    """They never go back, and the boot's clock stands beside them."""
    place = tmp_path / "recording"
    with a_daemon(tmp_path, "--record", place):
        before_ns = time.time_ns()
        subprocess.run(["sleep", "0.2"], check=True)
        after_ns = time.time_ns()
        time.sleep(0.2)
    ran = ckptree("events", "--record", place, "--json", "--kind", "exec,death")
    assert ran.code == 0, ran.err
    events = [json.loads(line) for line in ran.out.splitlines()]
    times = [event["time_ns"] for event in events]
    assert times == sorted(times)
    (began,) = [event for event in events if event["event"] == "exec" and event["arguments"] == ["sleep", "0.2"]]
    (ended,) = [event for event in events if event["event"] == "death" and event["tid"] == began["tid"]]
    assert before_ns < began["time_ns"] < ended["time_ns"] < after_ns
    assert 200_000_000 <= ended["time_ns"] - began["time_ns"] < 400_000_000
    assert ended["boottime_ns"] - began["boottime_ns"] == ended["time_ns"] - began["time_ns"]
    assert began["boottime_ns"] > began["start_ns"]


def test_a_recording_opens_in_perfetto(tmp_path: Path) -> None:
    """Its own trace processor finds the program of a process, and who gave birth to it."""
    place, trace = tmp_path / "recording", tmp_path / "trace"
    with a_daemon(tmp_path, "--record", place):
        with subprocess.Popen(["bash", "-c", "sleep 0.2; true"]) as shell:
            shell.wait()
        time.sleep(0.2)
    ran = ckptree("events", "--record", place, "-f", "perfetto", "-o", trace)
    assert ran.code == 0, ran.err
    programs, complaints = answers(trace.read_bytes(), [PROGRAMS, COMPLAINTS])
    assert complaints == []
    lived = [row for row in programs if row["parent"] == shell.pid]
    assert [row["name"] for row in lived] == ["sleep"]
    assert 200 <= int(lived[0]["ms"] or 0) < 1000


def test_the_life_of_a_number_is_told_from_its_birth_on(tmp_path: Path) -> None:
    """Of an orphan: the times at which it got a session, programs and another parent."""
    place = tmp_path / "recording"
    with a_daemon(tmp_path, "--record", place):
        script = "setsid sh -c 'sleep 0.4; exec true orphan' & echo $!; exec sleep 0.1"
        with subprocess.Popen(["bash", "-c", script], stdout=subprocess.PIPE, text=True) as shell:
            assert shell.stdout
            orphan = int(shell.stdout.readline())
            shell.wait()
        time.sleep(1)
    ran = ckptree("history", str(orphan), "--record", place, "--json")
    assert ran.code == 0, ran.err
    ((*life,),) = json.loads(ran.out)["lives"]
    kinds = [event["event"] for event in life]
    assert kinds[0] == "birth"
    assert (life[0]["parent"], life[0]["creator"]) == (shell.pid, shell.pid)
    assert [event["arguments"] for event in life if event["event"] == "exec"] == [
        ["setsid", "sh", "-c", "sleep 0.4; exec true orphan"],
        ["sh", "-c", "sleep 0.4; exec true orphan"],
        ["true", "orphan"],
    ]
    assert {"setsid", "reparent", "death"} <= set(kinds)
    (moved,) = [event for event in life if event["event"] == "reparent"]
    assert moved["parent"] != shell.pid
    assert not moved.get("assumed"), "the exit of the old parent is recorded, so the time is known"
    orders = [event["order"] for event in life]
    assert orders == sorted(orders)
    watched = ckptree("events", "--record", place, "--json", "--kind", "reparent")
    (exact,) = [each for line in watched.out.splitlines() if (each := json.loads(line)).get("tid") == orphan]
    assert (exact["order"], exact["parent"]) == (moved["order"], moved["parent"])
    assert ckptree("history", "4194303", "--record", place).code == 4


def test_each_history_of_a_host_has_the_events_of_its_number(tmp_path: Path) -> None:
    """Of processes whose parents end in every way: subreapers, threads, namespaces, programs that threads start."""
    place = tmp_path / "recording"
    with a_daemon(tmp_path, "--record", place):
        subprocess.run([sys.executable, TOP / "tests/live/orphanage.py", "3", "1"], check=True, timeout=60)
        time.sleep(0.6)
    recording = Recording(place)
    kinds = {each["event"] for batch in answers_of(recording) for each in batch}
    assert {"reparent", "reap", "change", "subreaper", "exec", "setsid"} <= kinds

    assert unlike(recording) == {}


def answers_of(recording: Recording) -> Iterator[list[Said]]:
    """Yield all events of a recording."""
    yield from past_answers.events(recording, {}, Enquirer())


def test_a_time_without_a_daemon_is_a_gap_in_the_events(tmp_path: Path) -> None:
    """Changes meanwhile are told behind it, as assumed; the exit code is 6, of a tree of that time, too."""
    place = tmp_path / "recording"
    with subprocess.Popen(["sleep", "61"]) as first:
        with a_daemon(tmp_path, "--record", place):
            time.sleep(0.3)
        first.kill()
        first.wait()
        with subprocess.Popen(["sleep", "62"]) as second:
            time.sleep(1)
            lost = ckptree("tree", str(first.pid), "--at", "-0s", "--record", place)
            with a_daemon(tmp_path, "--record", place):
                time.sleep(0.3)
            second.kill()
    assert lost.code == 4, "the recording has ended, and no daemon goes on with it yet"
    ran = ckptree("events", "--record", place, "--json")
    assert ran.code == 6, ran.err
    events = [json.loads(line) for line in ran.out.splitlines()]
    kinds = [event["event"] for event in events]
    gap, resync = kinds.index("gap"), kinds.index("resync")
    assert events[gap]["why"]
    assert events[gap]["reboot"] is False
    assert events[gap]["until_ns"] - events[gap]["time_ns"] > 900_000_000
    between = {(each["event"], each["tid"], each.get("assumed")) for each in events[gap + 1 : resync]}
    assert {("death", first.pid, True), ("reap", first.pid, True), ("birth", second.pid, True)} <= between
    assert not [each for each in events[gap + 1 : resync] if each["event"] == "birth" and each["tid"] == 1]
    assert ckptree("events", "--record", place, "--allow-incomplete").code == 0
    middle = events[gap]["time_ns"] + 500_000_000
    when = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(middle // 10**9))}.{middle % 10**9:09}Z"
    ran = ckptree("tree", str(first.pid), "--at", when, "--record", place)
    assert ran.code == 6, (ran.out, ran.err)
    assert "incomplete: " in ran.err


def test_a_life_that_goes_on_over_a_restart_of_the_daemon_is_told_with_its_death(tmp_path: Path) -> None:
    """It is one life, though the second daemon saw no birth; the time without a daemon is marked in it."""
    place = tmp_path / "recording"
    with a_daemon(tmp_path, "--record", place):
        lasting = subprocess.Popen(["sleep", "600"])
        time.sleep(0.5)
    with a_daemon(tmp_path, "--record", place):
        lasting.kill()
        lasting.wait()
        time.sleep(0.5)
    ran = ckptree("history", str(lasting.pid), "--record", place, "--json")
    assert ran.code == 6, ran.err
    (life,) = json.loads(ran.out)["lives"]
    assert life[0]["event"] == "birth"
    (gap,) = [place for place, event in enumerate(life) if event["event"] == "gap"]
    assert life[gap]["why"] == "the daemon began"
    assert life[gap]["reboot"] is False
    assert [event["event"] for event in life[gap + 1 :]] == ["death", "reap"]
    assert life[gap + 1]["signal"] == "SIGKILL"
    assert ckptree("history", str(lasting.pid), "--record", place, "--allow-incomplete").code == 0


def test_a_process_that_begins_without_a_daemon_is_there_when_the_next_one_begins(tmp_path: Path) -> None:
    """The history tells it as of the first state of the next daemon, though nothing happens to it."""
    place = tmp_path / "recording"
    with a_daemon(tmp_path, "--record", place):
        pass
    with subprocess.Popen(["sleep", "600"]) as born:
        with a_daemon(tmp_path, "--record", place):
            time.sleep(0.5)
        born.kill()
    begun = Recording(place).runs[1].first
    ran = ckptree("history", str(born.pid), "--record", place, "--json")
    assert ran.code == 6, ran.err
    assert [each["until_ns"] for each in json.loads(ran.out)["gaps"]] == [begun.time_ns]
    ((*life,),) = json.loads(ran.out)["lives"]
    assert [(each["event"], each["order"], each["time_ns"]) for each in life] == [
        ("present", begun.order, begun.time_ns)
    ]
    ran = ckptree("events", str(born.pid), "--record", place, "--json")
    assert ran.code == 6, ran.err
    told = [json.loads(line) for line in ran.out.splitlines()]
    assert [each["event"] for each in told[:2]] == ["gap", "birth"]
    assert (told[1]["tid"], told[1]["order"], told[1]["assumed"]) == (born.pid, begun.order, True)


def test_the_events_of_a_process_begin_with_its_birth(tmp_path: Path) -> None:
    """Of one that is over before the daemon looks, too; the page of them has it not among those that were there."""
    place = tmp_path / "recording"
    with a_daemon(tmp_path, "--record", place):
        with subprocess.Popen(["true"]) as brief:
            brief.wait()
        time.sleep(1)
    ran = ckptree("events", str(brief.pid), "--record", place, "--json")
    assert ran.code == 0, ran.err
    told = [json.loads(line) for line in ran.out.splitlines()]
    assert [each["event"] for each in told] == ["birth", "exec", "death", "reap", "end"]
    assert (told[0]["parent"], told[0]["creator"]) == (os.getpid(), os.getpid())
    assert "assumed" not in told[0]
    page = ckptree("events", str(brief.pid), "--record", place, "-f", "html")
    assert page.code == 0, page.err
    assert b"1 process, 0 of them there at the beginning" in page.out
