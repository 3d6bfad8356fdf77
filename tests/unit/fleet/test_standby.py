# SPDX-License-Identifier: Apache-2.0
"""A stand-by with a real server of NATS and a real relay; the recording is of a simulated kernel."""

import asyncio
import json
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import nats as library
import psutil
import pytest
from nats.js.api import DiscardPolicy, StreamConfig

from agent.fleet import messages, standbylink
from agent.recorder import folder, folderrights
from agent.recorder.held import open_held
from agent.recorder.recording import Recording
from tests.live.daemons import ckptree
from tests.support import servers
from tests.support.relays import a_relay, await_line
from tests.support.standbys import Original, StandbyProcess, a_standby
from tests.support.taped import state_of

pytestmark = pytest.mark.slow

FOLLOW = 'allow = ["follow"]\nstream_bytes = 8388608\n'
ROOT = "1"
PATIENCE_S = 60.0


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[servers.Server]:
    """Run a server."""
    with servers.nats(tmp_path / "nats") as server:
        yield server


@pytest.fixture
def original(tmp_path: Path) -> Iterator[Original]:
    """Make a host that records."""
    with closing(Original(tmp_path)) as made:
        yield made


def url(nats: servers.Server) -> str:
    """Return the address of a server."""
    return f"nats://{nats.address}"


def same(standby: StandbyProcess, original: Original) -> bool:
    """Return True if the folders of a stand-by have the bytes of the original, from some segment on."""
    copied, whole = (
        [each.path.read_bytes() for each in folder.stored(place)] for place in (standby.place, original.recording)
    )
    return copied == whole[-len(copied) :]


def test_a_standby_has_what_it_says(tmp_path: Path, nats: servers.Server, original: Original) -> None:
    """The table that its folder gives is the host's own, and it says how far it is behind."""
    with original.relay(url(nats)), a_standby(tmp_path, "new", url(nats), "old", ROOT) as standby:
        for number in range(4):
            if number == 2:
                original.taped.mark(continues=True)
            said = standby.await_have(original.go_on())
            held = open_held(standby.place)
            assert held.order - 1 == said["have"] == original.taped.next - 1
            assert state_of(held.standing.table, held.standing.stream) == original.taped.truths[-1].state
        until = time.monotonic() + PATIENCE_S
        while standby.told()["behind_records"] != 0:
            assert time.monotonic() < until
            time.sleep(0.05)
        said = standby.told()
        assert (said["behind_s"], said["of"], said["root"], said["gap"], said["error"]) == (0, "old", ROOT, "", "")
        assert said["silent_s"] < 30
        assert same(standby, original)
        assert (standby.place.stat().st_mode & 0o777, (standby.place / "standby.sock").stat().st_mode & 0o777) == (
            0o700,
            0o600,
        )
    assert not (standby.place / "standby.sock").exists()


def test_whoever_is_started_again_goes_on_without_a_gap(
    tmp_path: Path, nats: servers.Server, original: Original
) -> None:
    """Relay, stand-by, its child and the server are killed in turn while the host goes on."""
    with original.relay(url(nats)) as relay, a_standby(tmp_path, "new", url(nats), "old", ROOT) as standby:
        for number in range(4):
            standby.await_have(original.go_on())
            if number == 0:
                relay.process.kill()
                relay.process.wait()
                original.go_on()
                relay.start_again()
            elif number == 1:
                standby.process.kill()
                standby.process.wait()
                original.go_on()
                standby.start_again()
            elif number == 2:
                nats.kill()
                original.go_on()
                nats.start_again()
            else:
                child_of(standby.process.pid, "agent.cli.holding")
            standby.await_have(original.go_on())
        assert same(standby, original)
        assert standby.told()["gaps"] == 0
    assert Recording(standby.place).gaps == ()


def child_of(pid: int, word: str) -> None:
    """Kill the child of a process in whose command a word is."""
    (child,) = [each for each in psutil.Process(pid).children() if any(word in part for part in each.cmdline())]
    os.kill(child.pid, signal.SIGKILL)


def test_a_daemon_that_begins_anew_is_followed_over_the_gap(
    tmp_path: Path, nats: servers.Server, original: Original
) -> None:
    """Its numbers begin anew, too; the gap stays named in the copy."""
    with original.relay(url(nats)), a_standby(tmp_path, "new", url(nats), "old", ROOT) as standby:
        standby.await_have(original.go_on())
        original.close(orderly=False)
        again = Original(tmp_path, run=1)
        until = time.monotonic() + PATIENCE_S
        while (said := standby.told())["have"] != again.taped.next - 1:
            assert time.monotonic() < until, said
            time.sleep(0.05)
        standby.await_have(again.go_on())
        again.close()
    assert [each.why for each in Recording(standby.place).gaps] == ["the daemon began"]


def test_a_folder_that_is_lost_is_filled_again(tmp_path: Path, nats: servers.Server, original: Original) -> None:
    """From the stream, as far back as that goes."""
    with original.relay(url(nats)):
        with a_standby(tmp_path, "new", url(nats), "old", ROOT) as standby:
            standby.await_have(original.go_on())
        for each in standby.place.iterdir():
            each.unlink()
        last = original.go_on()
        standby.start_again()
        try:
            standby.await_have(last)
            assert same(standby, original)
        finally:
            standby.process.terminate()
            standby.process.wait()


def test_an_end_in_order_is_no_lost_connection(tmp_path: Path, nats: servers.Server, original: Original) -> None:
    """Relay and stand-by are told to end while records flow: each says so, and the stand-by has the relay's last word."""
    with original.relay(url(nats)) as relay, a_standby(tmp_path, "new", url(nats), "old", ROOT) as standby:
        with flowing(original):
            standby.await_have(original.taped.next)
            relay.process.terminate()
            assert relay.process.wait(PATIENCE_S) == 0
        await_line(standby, 1, "the relay of old ends in order")
        ended = standby.told()
        figures = ckptree("metrics", "--standby", "old", "--record", standby.place)
        shown = ckptree("fleet", "hosts", "--nats", url(nats)).out.decode().splitlines()
        relay.start_again()
        with flowing(original):
            standby.await_have(original.taped.next)
            again = standby.told()
            standby.process.terminate()
            assert standby.process.wait(PATIENCE_S) == 0
        said = relay.log.read_text(), standby.log.read_text()

    assert shown[0].endswith(" s ago: its relay ended in order")
    assert b'\nckptree_standby_relay_ended{of="old"} 1\n' in figures.out, figures.err
    assert (ended["relay_ended"], again["relay_ended"]) == (True, False)
    assert "ckptree-relay old ends, as it is told to" in said[0]
    assert "ckptree-standby new of old ends, as it is told to" in said[1]
    assert "is not published" not in said[0]
    assert "is not followed" not in said[1]


@contextmanager
def flowing(original: Original) -> Iterator[None]:
    """Let records come without a pause during the block."""
    over = threading.Event()

    def flow() -> None:
        while not over.wait(0.002):
            original.go_on(5)

    thread = threading.Thread(target=flow)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_host_that_does_not_allow_it_is_not_followed(
    tmp_path: Path, nats: servers.Server, original: Original
) -> None:
    """The log says why."""
    with original.relay(url(nats), ""), a_standby(tmp_path, "new", url(nats), "old", ROOT) as standby:
        await_line(standby, 1, "there is no stream CKPTREE_old")
        assert standby.told()["have"] is None
        ran = ckptree("fleet", "takeover", "old", "--record", standby.place)
    assert (ran.code, "no recording with a whole keyframe" in ran.err) == (4, True), ran.err


def test_a_host_that_answers_is_not_taken_over(tmp_path: Path, nats: servers.Server, original: Original) -> None:
    """Nor where nobody can tell. The message says what to do."""
    with original.relay(url(nats)) as relay, a_standby(tmp_path, "new", url(nats), "old", ROOT) as standby:
        standby.await_have(original.go_on())
        alive = ckptree("fleet", "takeover", "old", "--record", standby.place)
        relay.process.send_signal(signal.SIGSTOP)
        stopped = ckptree("fleet", "takeover", "old", str(1 << 21), "--record", standby.place)
        relay.process.send_signal(signal.SIGCONT)
        nats.kill()
        unknown = ckptree("fleet", "takeover", "old", "--record", standby.place)
        other = ckptree("fleet", "takeover", "another", "--record", standby.place)
    without = ckptree("fleet", "takeover", "old", "--record", standby.place, "--nats", url(nats))
    nowhere = ckptree("fleet", "takeover", "old", "--record", tmp_path / "nowhere")

    assert (alive.code, "the relay of old answers" in alive.err, "--force" in alive.err) == (7, True, True), alive.err
    assert (stopped.code, "process" in stopped.err) == (4, True), stopped.err
    assert (unknown.code, "no NATS server can be asked if old is alive" in unknown.err) == (7, True), unknown.err
    assert (other.code, "a stand-by of old" in other.err) == (2, True), other.err
    assert (without.code, "no stand-by runs" in without.err) == (7, True), without.err
    assert (nowhere.code, "no folder of a stand-by" in nowhere.err) == (5, True), nowhere.err
    assert all(ran.out == b"" for ran in (alive, stopped, unknown, other, without, nowhere))


def test_a_dead_host_is_shown_with_its_standbys(tmp_path: Path, nats: servers.Server, original: Original) -> None:
    """Its permissions are not known any more; the state of its stand-by is."""
    with original.relay(url(nats)) as relay, a_standby(tmp_path, "new", url(nats), "old", ROOT) as standby:
        said = standby.await_have(original.go_on())
        until = time.monotonic() + PATIENCE_S
        while standby.told()["silent_s"] is None:  # a word comes once a second
            assert time.monotonic() < until
            time.sleep(0.02)
        relay.process.kill()
        relay.process.wait()
        shown = ckptree("fleet", "hosts", "--json", "--nats", url(nats))
        lines = ckptree("fleet", "hosts", "--nats", url(nats)).out.decode().splitlines()
    (row,) = json.loads(shown.out)

    assert (shown.code, "old: no relay of that name is connected" in shown.err) == (0, True), shown.err
    assert (row["host"], row["version"], row["allow"]) == ("old", None, None)
    assert [(each["host"], each["have"]) for each in row["standbys"]] == [("new", said["have"])]
    assert re.fullmatch(r"old {22}does not answer since \d{4}(-\d\d){2} \d\d(:\d\d){2} UTC, \d+ s ago", lines[0]), lines
    assert lines[1].startswith(f"  stand-by on new: has #{said['have']}, ")


def test_a_host_that_no_standby_has_heard_is_not_said_to_be_silent_since(tmp_path: Path, nats: servers.Server) -> None:
    """Nor to have no daemon and no right. Where nobody at all is connected the list is empty, and stderr says so."""
    with a_standby(tmp_path, "new", url(nats), "old", ROOT):
        alone = ckptree("fleet", "hosts", "--nats", url(nats))
    nobody = ckptree("fleet", "hosts", "--nats", url(nats), "--json")

    assert alone.out.decode().splitlines()[0].rstrip() == f"{'old':<24} does not answer"
    assert "no relay is connected" not in alone.err
    assert (nobody.code, nobody.out) == (0, b"[]\n")
    assert "no relay is connected to this NATS server: `ckptree relay` on a host connects it" in nobody.err


def test_a_stream_that_takes_nothing_is_named_and_filled_later(
    tmp_path: Path, nats: servers.Server, original: Original
) -> None:
    """The recording waits on the host's disk meanwhile; nothing is missing in the end."""

    async def stream(most: int, policy: DiscardPolicy) -> None:
        client = await library.connect(url(nats))
        try:
            config = StreamConfig(name="CKPTREE_old", subjects=["ckptree.tape.old"], max_bytes=most, discard=policy)
            await (client.jetstream().add_stream if first else client.jetstream().update_stream)(config)
        finally:
            await client.close()

    first = True
    asyncio.run(stream(5000, DiscardPolicy.NEW))
    first = False
    with original.relay(url(nats)) as relay, a_standby(tmp_path, "new", url(nats), "old", ROOT) as standby:
        for _ in range(20):
            last = original.go_on()
            time.sleep(0.02)
        await_line(relay, 1, "the recording is not published: ")
        asyncio.run(stream(1 << 22, DiscardPolicy.OLD))
        standby.await_have(last)
        await_line(relay, 1, "the recording is published again")
        assert same(standby, original)
    assert Recording(standby.place).gaps == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_relay_that_may_not_read_the_recording_says_what_lets_it(
    tmp_path: Path, nats: servers.Server, original: Original
) -> None:
    """The folder is another user's; once its group may read, the relay goes on by itself."""
    place = original.recording
    (first,) = folder.stored(place)
    for path, mode in ((place, 0o755), (first.path, 0o600)):  # the folder, but not its files, is for all
        os.chown(path, 4242, 4242)
        path.chmod(mode)
    bound = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    with a_relay(tmp_path, "old", url(nats), more=FOLLOW, recording=place, before=bound) as relay:
        await_line(
            relay, 1, f"is not published: {first.path}: cannot be read: Permission denied: `group_may_read = true`"
        )
        place.chmod(0o700)
        await_line(relay, 1, f"is not published: {place}: cannot be read: Permission denied: `group_may_read = true`")
        folderrights.admit(place, os.getegid())
        await_line(relay, 1, "the recording is published again")


def test_what_the_stream_has_dropped_is_a_gap_that_is_named(
    tmp_path: Path, nats: servers.Server, original: Original
) -> None:
    """A stand-by that was away for longer than the stream reaches back begins again at a keyframe."""

    async def administer(*, make: bool) -> None:  # the stream that a relay makes refuses to be purged
        client = await library.connect(url(nats))
        try:
            streams = client.jetstream()
            await (streams.add_stream(kept) if make else streams.purge_stream("CKPTREE_old"))
        finally:
            await client.close()

    kept = StreamConfig(name="CKPTREE_old", subjects=["ckptree.tape.old"])
    asyncio.run(administer(make=True))
    with original.relay(url(nats)):
        with a_standby(tmp_path, "new", url(nats), "old", ROOT) as standby:
            standby.await_have(original.go_on())
        original.go_on()
        original.taped.mark(continues=True)
        until = time.monotonic() + PATIENCE_S
        original.go_on()
        asyncio.run(settled(nats, until))
        asyncio.run(administer(make=False))
        original.taped.mark(continues=True)
        last = original.go_on()
        standby.start_again()
        try:
            standby.await_have(last)
        finally:
            standby.process.terminate()
            standby.process.wait()
    assert [each.why for each in Recording(standby.place).gaps] == ["the file 00000002-*.tape is missing"]


async def settled(nats: servers.Server, until: float) -> None:
    """Wait until the stream has not grown for half a second."""
    client = await library.connect(url(nats))
    try:
        before = -1
        while (now := (await client.jetstream().stream_info("CKPTREE_old")).state.last_seq) != before:
            assert time.monotonic() < until
            before = now
            await asyncio.sleep(0.5)
    finally:
        await client.close()


def test_messages_that_make_no_sense_are_left_out(tmp_path: Path, nats: servers.Server, original: Original) -> None:
    """Anybody may write to the stream: the stand-by lives on, and keeps what is sound."""

    async def send(*data: bytes) -> None:
        client = await library.connect(url(nats))
        try:
            for each in data:
                await client.jetstream().publish("ckptree.tape.old", each)
                await client.publish("ckptree.pulse.old", each)
        finally:
            await client.close()

    with original.relay(url(nats)), a_standby(tmp_path, "new", url(nats), "old", ROOT) as standby:
        standby.await_have(original.go_on())
        bad = [b"", b"x", messages.pack({}), messages.pack({"segment": b"a" * 16, "offset": -1, "data": b"x"})]
        bad += [messages.pack({"segment": b"a" * 16, "offset": 0, "data": bytes(1000)}), messages.pack({"segment": 5})]
        asyncio.run(send(*bad))
        standby.await_have(original.go_on())
        assert same(standby, original)
        assert json.loads((standby.place / "standby.json").read_text()) == {"host": "old", "root": ROOT}
        with closing(library_socket(standby)) as connection:
            connection.sendall(b"\xff" * 100)
            assert connection.recv(100)
        assert standby.told()["have"] is not None


def library_socket(standby: StandbyProcess) -> socket.socket:
    """Connect to the socket of a stand-by."""
    connection = socket.socket(socket.AF_UNIX)
    with standbylink.address(standby.place) as where:
        connection.connect(where)
    return connection
