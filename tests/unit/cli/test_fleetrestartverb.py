# SPDX-License-Identifier: Apache-2.0
"""The end of a restart on several hosts: see agent.cli.fleetrestartverb. test_fleet_restart.py has real relays."""

import asyncio
import contextlib
import os
import signal
import syslog
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from agent.cli import fleetrestartverb
from agent.cli.fleetrestartverb import _outcome, _restarted, _RestartEnd, _wanted
from agent.errors import CkptreeError, RefusedError
from agent.fleet import fleetclient, manifest
from agent.fleet.clocks import Offset
from agent.fleet.fleetclient import Replied, SilentError
from agent.fleet.manifest import FleetSet, HostImage

READY = {"root": 7, "tasks": [{"pid": 7}]}
Answer = Callable[[], Any]


class Relays:
    """Relays whose answers a test gives, by host and word; else all goes well.

    Attributes:
        answers: what to do in place of it: an error is raised, a map is the answer.
        heard: the words that each has heard, without parts.
    """

    def __init__(self, answers: dict[tuple[str, str], Any]) -> None:
        self.answers = answers
        self.heard: dict[str, list[str]] = {}

    async def ask(self, host: str, _verb: str, message: dict[str, Any], _patience_s: float, requester: str) -> Replied:
        """Answer a question."""
        assert requester == "ops"
        word = message["what"]
        if word != "part":
            self.heard.setdefault(host, []).append(word)
        answer = self.answers.get((host, word), {"ready": READY} if word == "start" else {})
        if callable(answer):
            answer = await answer()
        if isinstance(answer, Exception):
            raise answer
        return Replied(answer, Offset(0, 0))


@pytest.fixture
def restarted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that restarts on the hosts good and bad, and returns the end and what the relays have heard."""

    def restart(answers: dict[tuple[str, str], Any], deadline: float = 5.0) -> Any:
        relays = Relays(answers)

        @contextlib.asynccontextmanager
        async def opened(_url: str, _timeout_s: float) -> AsyncIterator[Relays]:
            yield relays

        monkeypatch.setattr(fleetclient, "opened", opened)
        monkeypatch.setattr(fleetrestartverb, "_WORD_S", 0.05)
        images = {
            host: HostImage(f"old-{host}", "1", "", 0, 1, 0, 0, Offset(0, 0), complete=True) for host in ("good", "bad")
        }
        parcels = {host: {"manifest": b"m" * 300_000} for host in images}
        options = {"run": "hold", "pids": True, "pidns": True, "contents": False}
        return relays, lambda: asyncio.run(
            _restarted(_wanted("ops", options, deadline), images, parcels, "nats://127.0.0.1:4222")
        )

    return restart


def test_all_stay_where_all_stand(restarted: Callable[..., Any]) -> None:
    """Nobody is told to take anything down."""
    relays, run = restarted({})
    ended = run()

    assert ended == ({"good": READY, "bad": READY}, ["good", "bad"], [], [], None)
    assert relays.heard == {"good": ["start", "keep"], "bad": ["start", "keep"]}
    assert _outcome(ended, ()) == "all stand"


@pytest.mark.parametrize(
    "answer",
    [
        RefusedError("no", []),
        {"ready": 5},
        {"ready": {"root": "7", "tasks": []}},
        {"ready": {"root": 7, "tasks": 1}},
        {},
    ],
)
def test_where_one_fails_all_are_told_to_take_down(restarted: Callable[..., Any], answer: object) -> None:
    """Whatever it answers."""
    relays, run = restarted({("bad", "start"): answer})
    ended = run()

    assert isinstance(ended.results["bad"], CkptreeError)
    assert {host: words[-1] for host, words in relays.heard.items()} == {"good": "drop", "bad": "drop"}
    assert _outcome(ended, ["bad"]) == "failed on bad: all are taken down"


def test_a_relay_that_does_not_hear_that_it_is_over_takes_its_tree_down_at_the_deadline(
    restarted: Callable[..., Any],
) -> None:
    """It is told again and again for a while."""
    relays, run = restarted({("bad", "start"): RefusedError("no", []), ("good", "drop"): SilentError("silent")}, 0.3)
    ended = run()

    assert _outcome(ended, ["bad"]) == (
        "failed on bad: all are taken down, those on good at the deadline at the latest"
    )
    assert relays.heard["good"].count("drop") > 1


def test_a_tree_that_stays_is_not_said_to_be_taken_down(restarted: Callable[..., Any]) -> None:
    """One has acknowledged, the other one has not: the operator must know where what runs."""
    relays, run = restarted({("bad", "keep"): RefusedError("no", [])})
    ended = run()

    assert (ended.kept, type(ended.results["bad"])) == (["good"], RefusedError)
    assert relays.heard == {"good": ["start", "keep"], "bad": ["start", "keep", "drop"]}
    assert _outcome(ended, ["bad"]) == (
        "failed on bad: on bad it is not known if the tree stands; on good the tree stands and stays: "
        "`systemctl stop ckptree-restart@…` there ends it"
    )


def test_a_lost_word_is_said_again(restarted: Callable[..., Any]) -> None:
    """A relay takes it twice."""
    lost = [SilentError("silent"), SilentError("silent")]

    async def at_last() -> Any:
        return lost.pop() if lost else {}

    relays, run = restarted({("bad", "keep"): at_last})

    assert run().kept == ["good", "bad"]
    assert relays.heard["bad"] == ["start", "keep", "keep", "keep"]


def signalled(number: int) -> Answer:
    """Return an answer that does not come: the program gets a signal in place of it."""

    async def never() -> Any:
        os.kill(os.getpid(), number)
        await asyncio.sleep(60)

    return never


ENDING = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])


@ENDING
def test_a_signal_has_all_taken_down(restarted: Callable[..., Any], number: signal.Signals) -> None:
    """A tree would else stay until the deadline, and its pids with it. Each relay is told once."""
    relays, run = restarted({("bad", "start"): signalled(number)})
    ended = run()

    assert relays.heard == {"good": ["start", "drop"], "bad": ["start", "drop"]}
    assert ended.signal == number
    assert _outcome(ended, ()) == f"ended by {number.name}: all are taken down"


@ENDING
def test_a_signal_leaves_the_trees_that_are_kept_and_says_where(
    restarted: Callable[..., Any], number: signal.Signals
) -> None:
    """A tree that was kept does not end by a later word; of one whose relay is slow it is not known."""
    relays, run = restarted({("bad", "keep"): signalled(number)})
    ended = run()

    assert relays.heard == {"good": ["start", "keep"], "bad": ["start", "keep", "drop"]}
    assert (ended.kept, ended.doubtful, ended.signal) == (["good"], ["bad"], number)
    assert _outcome(ended, ()) == (
        f"ended by {number.name}: on bad it is not known if the tree stands; on good the tree stands and stays: "
        "`systemctl stop ckptree-restart@…` there ends it"
    )


@ENDING
def test_a_second_signal_does_not_take_the_last_word_back(
    restarted: Callable[..., Any], number: signal.Signals
) -> None:
    """Each relay hears that it is over, however often the key is pressed."""

    async def again() -> Any:
        os.kill(os.getpid(), number)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return {}

    relays, run = restarted({("bad", "start"): signalled(number), ("good", "drop"): again})
    ended = run()

    assert relays.heard == {"good": ["start", "drop"], "bad": ["start", "drop"]}
    assert (ended.untold, ended.signal) == ([], number)


def test_a_signal_that_is_ignored_stays_so(restarted: Callable[..., Any]) -> None:
    """As with nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)

    async def hung_up() -> Any:
        os.kill(os.getpid(), signal.SIGHUP)
        return {}

    try:
        _, run = restarted({("bad", "keep"): hung_up})
        assert run().kept == ["good", "bad"]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_trees_are_not_said_to_be_taken_down_where_no_relay_has_acknowledged_that_they_stay(
    restarted: Callable[..., Any],
) -> None:
    """Both may have kept them, and the acknowledgements are lost."""
    _, run = restarted({(host, "keep"): CkptreeError("lost") for host in ("good", "bad")})
    ended = run()

    assert _outcome(ended, ["good", "bad"]) == ("failed on good, bad: on good, bad it is not known if the tree stands")


def test_an_audit_line_names_all_hosts_on_which_a_tree_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's log has the line whole, and no text in it ends the line."""
    lines: list[str] = []
    monkeypatch.setattr(syslog, "syslog", lambda _priority, text: lines.append(text))
    hosts = [f"node{number}" for number in range(100)]
    outcome = _outcome(_RestartEnd({}, hosts, [], [], signal.SIGTERM), ())
    fleetrestartverb.note(f"restart 5e7:\n{outcome}")

    assert lines == [f'"restart 5e7:{outcome}"'.replace(":ended", ":\\x0aended").replace("…", "\\xe2\\x80\\xa6")]


@pytest.mark.parametrize(("number", "code"), [(None, 0), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_audit_lines_name_the_set_that_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None, code: int
) -> None:
    """Another signed set may come under the name. A signal that ends it has its exit code, and both lines too."""
    image = manifest.hash_of(b"tree")
    host = HostImage("old", "1", image, 4, 1, 0, 1, Offset(0, 0), complete=True)
    (tmp_path / "set").write_bytes(manifest.dumps(FleetSet("5e7", 1_800_000_000_000_000_000, (host,))))
    (tmp_path / "set.sig").write_bytes(b"signature")
    (tmp_path / image.replace(":", "-")).write_bytes(b"tree")
    relays = Relays({} if number is None else {("new", "start"): signalled(number)})
    lines: list[str] = []

    @contextlib.asynccontextmanager
    async def opened(_url: str, _timeout_s: float) -> AsyncIterator[Relays]:
        yield relays

    monkeypatch.setattr(fleetclient, "opened", opened)
    monkeypatch.setattr(fleetrestartverb, "note", lines.append)
    with pytest.raises(SystemExit) if code else contextlib.nullcontext() as raised:
        fleetrestartverb.restart(
            str(tmp_path / "set"), ["old=new"], requester="ops", nats="nats://127.0.0.1:4222", as_json=False
        )

    assert (raised.value.code if raised else 0) == code
    assert len(lines) == 2
    assert all("(set '5e7', 2027-01-15T08:00:00.000000000Z)" in line for line in lines)


def test_a_fault_of_this_program_has_all_taken_down_too(restarted: Callable[..., Any]) -> None:
    """It is told as it is."""
    relays, run = restarted({("bad", "start"): ZeroDivisionError("a fault")})
    with pytest.raises(ZeroDivisionError):
        run()

    assert relays.heard["good"][-1] == "drop"
