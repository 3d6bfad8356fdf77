# SPDX-License-Identifier: Apache-2.0
"""Live events through a real relay and a real server of NATS."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

from agent.fleet import messages, relayedevents
from agent.protocol.replies import Event, EventTask, event_of, said_of
from tests.support import servers
from tests.support.commandline import Ran, ckptree
from tests.support.relays import RelayProcess, a_relay
from tests.unit.fleet.test_relay import asked

pytestmark = pytest.mark.slow
COUNT = 60_000
ALLOWED = 'allow = ["events"]\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """Run a server for the module."""
    with servers.nats(tmp_path_factory.mktemp("nats")) as found:
        yield found


@pytest.fixture(scope="module")
def relay(server: servers.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """Run a relay that allows events, whose root N has N births."""
    with a_relay(tmp_path_factory.mktemp("relay"), "a", f"nats://{server.address}", more=ALLOWED, image=True) as found:
        yield found


def followed(server: servers.Server, *words: str) -> Ran:
    """Follow the host."""
    return ckptree("fleet", "events", *words, "--nats", f"nats://{server.address}")


def a_question(key: str, after: int = 0, root: str | None = "5", **more: Any) -> dict[str, Any]:
    """Return a question for events."""
    return {"id": key, "after": after, "begins": True, "root": root, "kinds": None, "wait_ns": 10**9, **more}


def test_events_come_in_their_order_and_each_once(server: servers.Server, relay: RelayProcess) -> None:
    """Also those of many answers; after the end of the root the verb ends."""
    ran = followed(server, "a", "1234", "--json", "--kind", "birth,death")
    found = [json.loads(line) for line in ran.stdout.splitlines()]

    assert ran.returncode == 0, ran.stderr.decode()
    assert [event["order"] for event in found] == [*range(1, 1235), 1 << 40]
    assert found[0]["numbers"] == [1, 1]
    assert found[0]["comm"] == "birth,death"
    assert found[-1]["event"] == "end"


def test_events_are_lines_for_people(server: servers.Server, relay: RelayProcess) -> None:
    """As watch has them."""
    ran = followed(server, "a", "2")
    lines = ran.stdout.decode().splitlines()

    assert ran.returncode == 0, ran.stderr.decode()
    assert [line.split()[2] for line in lines] == ["birth", "birth", "end"]
    assert lines[-1].endswith("the root is gone")


def test_a_relay_without_the_right_refuses(server: servers.Server, tmp_path: Path) -> None:
    """So does one whose host has no such root."""
    with a_relay(
        tmp_path, "shy", f"nats://{server.address}", more='allow = ["snapshot", "restart", "follow"]\n', image=True
    ):
        ran = followed(server, "shy")
    assert (ran.returncode, "does not allow events" in ran.stderr.decode()) == (5, True)
    with a_relay(tmp_path, "open", f"nats://{server.address}", more=ALLOWED, image=True):
        ran = followed(server, "open", "pidns:7")
    assert ran.returncode == 1


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (a_question("x/y"), "id"),
        ({**a_question("x"), "root": 7}, "root"),
        (a_question("x", kinds="birth"), "kinds"),
        (a_question("x", kinds=["birth"] * 33), "kinds"),
        (a_question("x", wait_ns=1 << 40), "wait_ns"),
        (a_question("x", wait_ns=-1), "wait_ns"),
        ({**a_question("x"), "after": "1"}, "after"),
        (a_question("never", begins=False), "events are missed"),
        (a_question("nothing", root="none"), "there is no process none"),
        (a_question("ahead", after=1), "events are missed"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(
    server: servers.Server, relay: RelayProcess, message: dict[str, Any], said: str
) -> None:
    """The error names the argument."""
    answer = asked(server, "events", **message)
    assert (answer["ok"], said in answer["error"]) == (False, True), answer


def test_an_answer_that_was_lost_is_given_again(server: servers.Server, relay: RelayProcess) -> None:
    """An acknowledged message is not; neither does the id follow anything else."""
    first = asked(server, "events", **a_question("lost"))
    while not first["over"]:
        first = asked(server, "events", **a_question("lost"))
    again = asked(server, "events", **a_question("lost"))
    assert "has no event 7" in asked(server, "events", **a_question("lost", after=7))["error"]
    assert again["events"] == first["events"]
    rest = asked(server, "events", **a_question("lost", after=4))
    assert (rest["first"], [each["order"] for each in rest["events"]]) == (5, [5, 1 << 40])
    assert "something else" in asked(server, "events", **a_question("lost", root="6"))["error"]
    assert asked(server, "events", id="lost", done=True)["ok"]
    assert "events are missed" in asked(server, "events", **a_question("lost", begins=False))["error"]


@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        ({"order": float("inf")}, "a number as order"),
        ({"event": "dropped", "count": "many"}, "a number as count"),
        (None, "a map as event"),
    ],
)
def test_a_relay_that_tells_no_event_is_named(
    server: servers.Server, change: dict[str, Any] | None, lacks: str
) -> None:
    """Nothing of it is printed: a reader of JSON takes no infinite number, and a reader of lines no text as a count."""
    told = None if change is None else {"event": "end", "order": 1, "time_ns": 7, **change}

    async def follow() -> tuple[bytes, bytes, int | None]:
        client = await nats.connect(f"nats://{server.address}")

        async def answer(message: Msg) -> None:
            now_ns = time.time_ns()
            said = {"ok": True, "host": "evil", "received_ns": now_ns, "answered_ns": now_ns}
            await message.respond(messages.pack(said | {"first": 1, "over": True, "events": [told]}))

        await client.subscribe(messages.subject(messages.EVENTS, "evil"), cb=answer)
        await client.flush()
        words = ["-m", "agent", "fleet", "events", "evil", "--json", "--nats", f"nats://{server.address}"]
        verb = await asyncio.create_subprocess_exec(
            sys.executable, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, error = await asyncio.wait_for(verb.communicate(), 60)
        await client.close()
        return out, error, verb.returncode

    assert asyncio.run(follow()) == (
        b"",
        f"ckptree: evil: its relay answered events without {lacks}: it is of another version, or at fault\n".encode(),
        1,
    )


def test_followers_have_bounds(server: servers.Server, relay: RelayProcess) -> None:
    """One more is refused, until another one is done."""
    keys = [f"many-{number}" for number in range(relayedevents.MOST_FOLLOWERS)]
    for key in keys:
        assert asked(server, "events", **a_question(key, root=None, wait_ns=0))["ok"]
    assert "followers already" in asked(server, "events", **a_question("more"))["error"]
    for key in keys:
        assert asked(server, "events", id=key, done=True)["ok"]


def test_what_one_does_not_fetch_is_counted_and_not_kept() -> None:
    """The bound is in bytes. The end is told whatever waits; so is, before it, how much is missing."""

    async def fill() -> list[dict[str, Any]]:
        follower = relayedevents.HostFollower(("1", None))
        task = EventTask(1, 1, (1, 1), 5, 0, 0, b"a process")
        for number in range(COUNT):
            follower.add(Event("birth", number, task, {"parent": 1, "creator": 1, "flags": []}, 7))
        follower.add(Event("birth", COUNT, task, {"flags": ["x" * (1 << 17)]}))
        follower.add(Event("end", COUNT + 1, None, {}))
        follower.end(None)
        found: list[dict[str, Any]] = []
        over = False
        while not over:
            answer = follower.answer()
            assert len(messages.pack(answer)) < messages.MAX_REQUEST
            assert (answer["first"], len(answer["events"]) <= messages.MOST_EVENTS) == (len(found) + 1, True)
            found += answer["events"]
            over = answer["over"]
            follower.acknowledge(len(found))
        return found

    told = asyncio.run(fill())
    *births, dropped, end = told
    assert [each["event"] for each in (dropped, end)] == ["dropped", "end"]
    assert [each["order"] for each in births] == list(range(len(births)))
    assert len(births) + dropped["count"] == COUNT + 1
    assert sum(len(messages.pack(each)) for each in births) <= relayedevents.MOST_BYTES


def test_a_relay_that_was_started_again_is_no_silent_gap(server: servers.Server, tmp_path: Path) -> None:
    """The verb ends, and says that events are missed; or that the relay is away, where its start takes too long."""
    with a_relay(tmp_path, "again", f"nats://{server.address}", more=ALLOWED, image=True) as relay:
        words = [sys.executable, "-m", "agent", "fleet", "events", "again", "--nats", f"nats://{server.address}"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().split()[2] == "birth"
            relay.process.kill()
            relay.process.wait()
            relay.start_again()
            _, said = process.communicate(timeout=60)
    missed, away = "was started again since", "no relay of that name"
    assert (process.returncode, missed in said, away in said) in ((4, True, False), (1, False, True)), said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_the_verb(server: servers.Server, relay: RelayProcess, number: int, code: int) -> None:
    """The relay is told, or forgets by itself."""
    words = [sys.executable, "-m", "agent", "fleet", "events", "a", "--nats", f"nats://{server.address}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (code, "")


def test_a_reader_that_has_gone_ends_the_verb(server: servers.Server, relay: RelayProcess) -> None:
    """As every program in a pipe."""
    words = [sys.executable, "-m", "agent", "fleet", "events", "a", "--nats", f"nats://{server.address}"]
    reader, writer = os.pipe()
    with subprocess.Popen(words, stdout=writer, stderr=subprocess.PIPE) as process:
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        assert process.wait(60) == -signal.SIGPIPE


@pytest.mark.parametrize(
    "event",
    [
        Event("loss", 7, None, {"count": 3}),
        Event("end", 7, None, {}, 9),
        Event("death", 7, EventTask(1, 2, (1, 2), 3, 4, 5, b"\xff"), {"exit_code": 9, "group_dead": True}, 9),
    ],
)
def test_an_event_comes_back_from_its_message(event: Event) -> None:
    """Through the bytes."""
    assert event_of(messages.unpack(messages.pack(said_of(event)))) == event
