# SPDX-License-Identifier: Apache-2.0
"""A relay and its server of NATS: its answers, its bounds, and the messages that make no sense."""

import asyncio
import contextlib
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import psutil
import pytest

from agent.fleet import messages, natsserver
from agent.fleet.manifest import hash_of
from agent.protocol import codec
from tests.support import servers
from tests.support.fakedaemon import a_server
from tests.support.imagework import IMAGE
from tests.support.relays import RelayProcess, a_relay, await_line, settings

pytestmark = pytest.mark.slow

S = 1_000_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """Run a server for the module."""
    with servers.nats(tmp_path_factory.mktemp("nats")) as found:
        yield found


@pytest.fixture(scope="module")
def relay(server: servers.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """Run a relay that allows snapshots."""
    with a_relay(tmp_path_factory.mktemp("relay"), "a", f"nats://{server.address}", image=True) as found:
        yield found


def sent(server: servers.Server, *requests: tuple[str, bytes], host: str = "a") -> list[dict[str, Any]]:
    """Send requests by verb at the same time, and return the answers."""

    async def ask() -> list[dict[str, Any]]:
        client = await natsserver.connected(f"nats://{server.address}")
        try:
            asked = (client.request(f"ckptree.{verb}.{host}", data, 20) for verb, data in requests)
            return [messages.unpack(answer.data) for answer in await asyncio.gather(*asked)]
        finally:
            await client.close()

    return asyncio.run(ask())


def asked(server: servers.Server, verb: str, **message: Any) -> dict[str, Any]:
    """Send one request, and return the answer."""
    return sent(server, (verb, messages.pack(message)))[0]


def a_cut(key: str, root: str = "1", **more: Any) -> dict[str, Any]:
    """Return a request for a snapshot now."""
    return {"id": key, "root": root, "mode": "auto", "with_argv": False, "left_ns": 5 * S, "at_ns": 0, **more}


def test_an_image_comes_in_pieces(server: servers.Server, relay: RelayProcess) -> None:
    """The answer to the cut has its hash."""
    cut = asked(server, "cut", **a_cut("pieces"))
    got = b""
    while len(got) < cut["bytes"]:
        got += asked(server, "image", id="pieces", offset=len(got))["data"]

    assert got == IMAGE.read_bytes()
    assert cut["image"] == hash_of(got)
    assert cut["before_ns"] <= cut["after_ns"]
    assert cut["received_ns"] <= cut["answered_ns"]


def test_the_same_id_is_the_same_snapshot(server: servers.Server, relay: RelayProcess) -> None:
    """Requests that come at the same time get the same answer, and so does one that comes later."""
    request = "cut", messages.pack(a_cut("same"))
    answers = [*sent(server, request, request, request), *sent(server, request)]

    assert len({answer["before_ns"] for answer in answers}) == 1
    assert relay.log.read_text().count('cut id="same"') == 1
    other = asked(server, "cut", **a_cut("same", "2"))
    assert "another id" in other["error"]


def test_an_image_is_forgotten_when_its_requester_says_so(server: servers.Server, relay: RelayProcess) -> None:
    """The answer to the cut stays."""
    first = asked(server, "cut", **a_cut("done"))
    assert asked(server, "disarm", id="done")["ok"]

    assert "has no image" in asked(server, "image", id="done", offset=0)["error"]
    assert asked(server, "cut", **a_cut("done"))["image"] == first["image"]


def test_a_snapshot_that_failed_may_be_asked_for_again(server: servers.Server, relay: RelayProcess) -> None:
    """The failure has its reason."""
    for _ in range(2):
        assert asked(server, "cut", **a_cut("failed", "late"))["error"] == "it is gone meanwhile"


@pytest.mark.parametrize(
    ("verb", "message", "said"),
    [
        ("arm", {}, "root: expected a text"),
        ("arm", a_cut("x", mode="all"), "a mode"),
        ("arm", a_cut("x", left_ns=0), "left_ns"),
        ("arm", a_cut("x/y"), "id"),
        ("arm", a_cut("x", "none"), "no process none"),
        ("cut", a_cut("x", at_ns=1 << 62), "at_ns"),
        ("cut", a_cut("x", at_ns="now"), "at_ns"),
        ("cut", a_cut("x", at_ns=time.time_ns() + 3000 * S, left_ns=3600 * S), "within 60 s from now"),
        ("arm", a_cut("x", "r" * 8193), "at most 8192 characters"),
        ("cut", a_cut("x", "😀" * 100_000), "at most 8192 characters"),
        ("arm", a_cut("x", requester=7), "expected a requester"),
        ("arm", a_cut("x", requester="ops", past=True), "contents have no past"),
        ("arm", a_cut("x", requester="ops"), "may have nothing dumped here"),
        ("cut", a_cut("x", requester="ops"), "the subject of the request names none"),
        ("image", {"id": "never", "offset": 0}, "has no image"),
        ("taken", {"numbers": "7"}, "numbers"),
        ("taken", {"numbers": [True]}, "numbers"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(
    server: servers.Server, relay: RelayProcess, verb: str, message: dict[str, Any], said: str
) -> None:
    """The error names the argument."""
    answer = asked(server, verb, **message)

    assert answer["ok"] is False
    assert said in answer["error"]


def test_a_fault_of_the_relay_itself_is_answered_and_logged(server: servers.Server, relay: RelayProcess) -> None:
    """The relay lives on."""
    assert asked(server, "arm", **a_cut("x", "crash"))["error"] == "the relay failed: its log says more"
    assert "ZeroDivisionError" in relay.log.read_text()
    assert asked(server, "hello")["host"] == "a"


def test_no_message_ends_a_relay(server: servers.Server, relay: RelayProcess) -> None:
    """Thousands of random ones do not: half of them are changed requests, half are any bytes."""
    draw = random.Random(7)
    verbs = ["hello", "arm", "cut", "image", "disarm", "taken"]
    values: list[Any] = [None, True, -1, 0, 1 << 63, 0.5, "", "x" * 9999, b"\xff", [], [[]] * 50, {}, {"id": {}}]

    async def flood() -> None:
        client = await natsserver.connected(f"nats://{server.address}")
        for _ in range(3000):
            message: dict[Any, Any] = a_cut(draw.choice(["p", "q"]), left_ns=S)
            for key in draw.sample([*message, "offset", "numbers", "what"], 3):
                message[key] = draw.choice(values)
            data = msgpack.packb(message) if draw.random() < 0.5 else draw.randbytes(draw.randrange(60))
            await client.publish(f"ckptree.{draw.choice(verbs)}.a", data, draw.choice(["", "nobody.there"]))
        await client.flush()
        await client.close()

    asyncio.run(flood())

    until = time.monotonic() + 60
    while not (answer := asked(server, "hello"))["ok"]:
        assert answer["kind"] == "busy"
        assert time.monotonic() < until
    assert answer["host"] == "a"
    assert relay.process.poll() is None
    assert "Traceback" not in relay.log.read_text()
    assert psutil.Process(relay.process.pid).memory_info().rss < 200 << 20


def test_a_flood_of_refused_requests_fills_no_log(server: servers.Server, tmp_path: Path) -> None:
    """The daemon's bound is the relay's, too: sixty lines in a minute."""
    with a_relay(tmp_path, "quiet", f"nats://{server.address}", image=True) as quiet:
        for number in range(100):
            sent(server, ("image", messages.pack({"id": f"x{number}", "offset": 0})), host="quiet")
        assert quiet.log.read_text().count('result="refused"') == 60


def test_a_host_without_a_daemon_is_seen(server: servers.Server, tmp_path: Path) -> None:
    """It has no count of tasks, and refuses snapshots with the reason."""
    with a_relay(tmp_path, "alone", f"nats://{server.address}"):
        (hello,) = sent(server, ("hello", messages.pack({})), host="alone")
        (armed,) = sent(server, ("arm", messages.pack(a_cut("x"))), host="alone")

    assert (hello["host"], hello["tasks"]) == ("alone", None)
    assert (armed["kind"], "no daemon" in armed["error"]) == ("no-daemon", True), armed


def test_a_flood_is_refused_and_takes_bounded_memory(server: servers.Server, relay: RelayProcess) -> None:
    """Requests beyond the bound are told so."""
    before = psutil.Process(relay.process.pid).memory_info().rss
    slow = [("cut", messages.pack(a_cut(f"slow{number}"))) for number in range(1000)]
    answers = sent(server, *slow)

    refused = [answer for answer in answers if not answer["ok"]]
    assert refused
    assert {answer["kind"] for answer in refused} == {"busy"}
    assert psutil.Process(relay.process.pid).memory_info().rss - before < 100 << 20


def a_permission(folder: Path) -> str:
    """Return a configuration that lets ops have the tree of process 1 dumped, by the service of a folder."""
    return f"""restart_socket = "{folder}/service.sock"
allow = ["snapshot"]
[[dump]]
requester = "ops"
roots = ["1"]
store = "nats://dumps"
"""


def answers_beside(
    server: servers.Server, host: str, waiting: list[tuple[str, bytes]], *requests: tuple[str, bytes]
) -> list[dict[str, Any]]:
    """Send requests that will wait, and then others; return the answers to these."""

    async def ask() -> list[dict[str, Any]]:
        client = await natsserver.connected(f"nats://{server.address}")
        try:
            for verb, data in waiting:
                await client.publish(f"ckptree.{verb}.{host}", data, client.new_inbox())
            return [
                messages.unpack((await client.request(f"ckptree.{verb}.{host}", data, 20)).data)
                for verb, data in requests
            ]
        finally:
            await client.close()

    return asyncio.run(ask())


def test_who_may_ask_for_one_thing_keeps_nobody_from_another(server: servers.Server, tmp_path: Path) -> None:
    """Each verb has a bound of its own."""
    soon: dict[str, Any] = {"left_ns": 60 * S, "at_ns": time.time_ns() + 30 * S}
    cuts = [("cut", messages.pack(a_cut(f"soon{number}", **soon))) for number in range(129)]
    with a_relay(tmp_path, "busy", f"nats://{server.address}", image=True):
        *others, cut = answers_beside(
            server, "busy", cuts[:-1], ("hello", b"\x80"), ("taken", messages.pack({"numbers": [1]})), cuts[-1]
        )

    assert [answer["ok"] for answer in others] == [True, True]
    assert cut["error"] == "this relay answers 128 requests for cut already: ask later"


def test_dumps_that_wait_hold_up_nothing_else(server: servers.Server, tmp_path: Path) -> None:
    """Each takes a thread of its own, and there are some; one more is refused at once."""
    dumps = [("dump.ops", messages.pack(a_cut(f"d{number}", requester="ops", left_ns=60 * S))) for number in range(9)]
    with (
        socket.socket(socket.AF_UNIX) as silent,
        a_relay(tmp_path, "waits", f"nats://{server.address}", more=a_permission(tmp_path), image=True),
    ):
        silent.bind(str(tmp_path / "service.sock"))
        silent.listen(16)
        refused, cut, armed = answers_beside(
            server,
            "waits",
            dumps[:-1],
            dumps[-1],
            ("cut", messages.pack(a_cut("now"))),
            *[("arm", messages.pack(a_cut("a")))],
        )

    assert refused["error"] == "this relay waits for 8 dumps already: ask later"
    assert (cut["ok"], armed["ok"]) == (True, True)


def test_an_id_that_is_armed_again_and_again_is_one_line(server: servers.Server, tmp_path: Path) -> None:
    """Its requester asks again where an answer was lost."""
    with a_relay(tmp_path, "lines", f"nats://{server.address}", image=True) as lines:
        assert all(answer["ok"] for answer in sent(server, *[("arm", messages.pack(a_cut("a")))] * 20, host="lines"))
        assert lines.log.read_text().count('arm id="a"') == 1


def test_a_relay_without_a_configuration_is_seen_and_that_is_all(server: servers.Server, tmp_path: Path) -> None:
    """Each verb but hello is refused by name of the right."""
    request = messages.pack(a_cut("x", offset=0, numbers=[]))
    with a_relay(tmp_path, "shy", f"nats://{server.address}", more="", image=True):
        (hello,) = sent(server, ("hello", request), host="shy")
        refused = sent(server, *((verb, request) for verb in ("arm", "cut", "image", "disarm", "taken")), host="shy")

    assert hello["allow"] == []
    assert {answer["kind"] for answer in refused} == {"not-permitted"}


@contextlib.contextmanager
def a_waiting_relay(folder: Path, nats: str, more: str = "") -> Iterator[RelayProcess]:
    """Run a relay whose server is not there yet."""
    config, log = settings(folder, "a", nats, more=more), folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "agent", "relay", "--config", config], stderr=out)
    try:
        yield RelayProcess("a", process, log, ())
    finally:
        process.kill()
        process.wait()


def test_a_relay_waits_for_its_server(tmp_path: Path) -> None:
    """It is started first, and connects when there is one."""
    port = servers.free_port()
    with a_waiting_relay(tmp_path, f"nats://127.0.0.1:{port}") as relay:
        await_line(relay, 1, "Connect call failed")
        with servers.nats(tmp_path / "nats", port=port):
            await_line(relay, 1)
            relay.process.terminate()
            assert relay.process.wait(10) == 0


def test_a_relay_waits_for_a_server_that_it_trusts(tmp_path: Path) -> None:
    """The one that is there has another certificate. The relay connects to none of whom it does not know."""
    port = servers.free_port()
    for name in ("other", "right"):
        (tmp_path / name).mkdir()
    other, right = (servers.a_certificate(tmp_path / name) for name in ("other", "right"))
    tls = [["--tls", "--tlscert", str(certificate), "--tlskey", str(key)] for certificate, key in (other, right)]
    with a_waiting_relay(tmp_path, f"tls://127.0.0.1:{port}", f'tls_ca = "{right[0]}"\n') as relay:
        with servers.nats(tmp_path / "one", *tls[0], port=port):
            await_line(relay, 1, "certificate verify failed")
            time.sleep(1)
            assert "listening on" not in relay.log.read_text()
        with servers.nats(tmp_path / "two", *tls[1], port=port):
            await_line(relay, 1)


def test_a_relay_without_a_server_says_that_it_tries_again(tmp_path: Path) -> None:
    """It does so, until the server is there."""
    port = servers.free_port()
    config = settings(tmp_path, "late", f"nats://127.0.0.1:{port}")
    command = [sys.executable, "-m", "agent", "relay", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as relay:
        assert relay.stderr is not None
        try:
            said = relay.stderr.readline()
            assert f"the NATS server nats://127.0.0.1:{port}: " in said
            assert said.endswith(": it is tried again until it answers\n")
            with servers.nats(tmp_path / "nats", port=port):
                while "listening on" not in said:
                    said = relay.stderr.readline()
                    assert said, "the relay ended"
        finally:
            relay.kill()


def test_a_dump_goes_to_the_service_that_has_the_rights(server: servers.Server, tmp_path: Path) -> None:
    """The requester is the one whom the subject names. The answer has what the service says; without one it is named."""
    contents = {"store": "nats://dumps", "list": hash_of(b""), "bytes": 1}
    answer = {"ok": True, "image": b"tree", "before_ns": 1, "after_ns": 2, "tasks": 3, "complete": True, "reasons": []}
    got: list[dict[str, Any]] = []

    def serve(connection: socket.socket) -> None:
        got.extend(codec.Decoder(1 << 20).feed(connection.recv(1 << 20)))
        connection.sendall(codec.encode({**answer, "contents": contents}))

    with a_relay(tmp_path, "dumps", f"nats://{server.address}", more=a_permission(tmp_path), image=True):
        request = a_cut("d", requester="ops", end=True)
        forged = {**request, "requester": "eve"}
        failed, refused = sent(
            server,
            ("dump.ops", messages.pack(a_cut("none", requester="ops"))),
            ("dump.ops", messages.pack(forged)),
            host="dumps",
        )
        assert "nobody starts restarts at" in failed["error"]
        assert "the subject of the request names ops" in refused["error"]
        with a_server(tmp_path / "service.sock", serve):
            dumped, again = sent(server, *[("dump.ops", messages.pack(request))] * 2, host="dumps")

    assert dumped["data"] == again["data"] == b"tree"
    assert (dumped["contents"], dumped["image"]) == (contents, hash_of(b"tree"))
    (asked_for,) = got
    del asked_for["left_ns"]
    assert asked_for == {"what": "dump", "requester": "ops", "id": "d", "root": "1", "end": True, "at_ns": 0}
