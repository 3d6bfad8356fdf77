# SPDX-License-Identifier: Apache-2.0
"""Credentials of NATS with the permissions that docs/fleet.md shows: what each can do when it is stolen."""

import asyncio
import json
from contextlib import closing
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest

from agent.fleet import messages
from agent.fleet.manifest import hash_of
from tests.live.daemons import ckptree
from tests.support import servers
from tests.support.guardedserver import (
    fleet,
    made_by_the_page,
    url,
)
from tests.support.imagework import IMAGE
from tests.support.relays import RelayProcess, a_relay, await_line
from tests.support.standbys import Original, a_standby

pytestmark = pytest.mark.slow


def tried(
    server: servers.Server, user: str, *, publish: str = "", subscribe: str = "", reply: str = ""
) -> tuple[bool, list[bytes]]:
    """Publish or subscribe as a user; return if the server forbade it, and what came of a subscription."""
    refused: list[Exception] = []
    got: list[bytes] = []

    async def attempt() -> None:
        async def note(error: Exception) -> None:
            refused.append(error)

        async def take(message: Any) -> None:
            got.append(message.data)

        client = await nats.connect(url(server, user), error_cb=note)
        admin = await nats.connect(url(server, "admin"))
        if subscribe:
            await client.subscribe(subscribe, cb=take)
        if publish:
            await client.publish(publish, messages.pack({"id": "x"}), reply)
        await client.flush()
        if subscribe:
            await admin.publish(subscribe.replace("*", "any").replace(">", "any"), b"secret")
            await admin.flush()
        await asyncio.sleep(0.1)
        await client.flush()
        await client.close()
        await admin.close()

    asyncio.run(attempt())
    return any("permissions violation" in str(error).lower() for error in refused), got


def test_the_permissions_of_the_page_suffice(server: servers.Server, relays: list[RelayProcess]) -> None:
    """Hosts are found, a set is taken, written into the bucket, and read from there."""
    found = fleet(server, "taker", "hosts")
    assert (found.code, found.out.count(b"node")) == (0, 2), found.err
    taken = fleet(server, "taker", "snapshot", "--hosts", "node1,node2", "--root", "1", "-o", "nats://sets/one")
    assert taken.code == 0, taken.err
    shown = fleet(server, "taker", "show", "nats://sets/one")
    assert (shown.code, b"2 hosts" in shown.out) == (0, True), shown.err
    restarted = fleet(server, "ops", "restart", "nats://sets/one", "--as", "ops", "--map", "node1=node2")
    assert "nats://sets/one is not signed" in restarted.err  # so it was read
    assert not [relay.log.read_text() for relay in relays if "permissions violation" in relay.log.read_text().lower()]


@pytest.mark.parametrize(
    "subject",
    [
        "ckptree.arm.node2",
        "ckptree.restart.ops.node2",
        "ckptree.cut.node1",
        "$SRV.PING",
        "$O.sets.M.x",
        "$JS.API.STREAM.DELETE.OBJ_sets",
        "$JS.API.STREAM.CREATE.OBJ_mine",
        "_INBOX",
        "anything",
    ],
)
def test_the_credential_of_a_relay_publishes_nothing_but_answers(
    server: servers.Server, relays: list[RelayProcess], subject: str
) -> None:
    """No other host and no set is within its reach."""
    assert tried(server, "node1", publish=subject, reply="ckptree.hello.node1")[0]
    assert all(relay.process.poll() is None for relay in relays)


@pytest.mark.parametrize("subject", ["ckptree.*.node2", "ckptree.arm.node2", "ckptree.>", "_INBOX.>", "$O.>", ">"])
def test_the_credential_of_a_relay_hears_of_no_other_host(
    server: servers.Server, relays: list[RelayProcess], subject: str
) -> None:
    """Nor of answers, nor of images in stores."""
    assert tried(server, "node1", subscribe=subject) == (True, [])


def test_the_credential_of_a_relay_hears_its_own_requests(server: servers.Server) -> None:
    """Else the tests above would prove nothing."""
    assert tried(server, "node1", subscribe="ckptree.arm.node1") == (False, [b"secret"])


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("taker", "ckptree.restart.ops.node1"),
        ("taker", "ckptree.restart.taker.node1"),
        ("taker", "ckptree.dump.ops.node1"),
        ("taker", "ckptree.events.node1"),
        ("follower", "ckptree.events.node2"),
        ("follower", "ckptree.cut.node1"),
        ("ops", "ckptree.dump.ops.node1"),
        ("dumper", "ckptree.dump.night.node1"),
        ("dumper", "ckptree.restart.ops.node1"),
        ("taker", "$JS.API.STREAM.CREATE.OBJ_other"),
        ("ops", "ckptree.restart.night.node1"),
        ("ops", "ckptree.arm.node1"),
        ("ops", "$O.sets.M.x"),
    ],
)
def test_no_credential_asks_as_another(server: servers.Server, user: str, subject: str) -> None:
    """The name of a requester is part of the subject."""
    assert tried(server, user, publish=subject)[0]


def test_a_stolen_credential_cannot_answer_in_place_of_another_host(
    server: servers.Server, relays: list[RelayProcess]
) -> None:
    """It does not even hear the question, nor the answers; where one is awaited nobody can guess."""
    stolen = tried(server, "node1", publish="_INBOX.snapshots.guess", subscribe="ckptree.cut.node2")
    taken = fleet(server, "taker", "snapshot", "--hosts", "node2", "--root", "1", "-o", "nats://sets/two", "--json")

    assert stolen == (True, [])
    assert taken.code == 0, taken.err
    assert hash_of(IMAGE.read_bytes()) in taken.out.decode()


def test_what_a_users_permissions_forbid_is_said(server: servers.Server, relays: list[RelayProcess]) -> None:
    """The user of restarts takes no snapshot: nobody answers, and all are missing."""
    ran = fleet(
        server, "ops", "snapshot", "--hosts", "node1", "--root", "1", "--deadline", "3", "-o", "nats://sets/three"
    )

    assert ran.code != 0


def test_the_permissions_of_the_page_suffice_for_a_standby(server: servers.Server, tmp_path: Path) -> None:
    """A relay without a stream says how to make it. The stand-by keeps what comes, and asks if the host is alive."""

    async def make() -> None:
        client = await nats.connect(url(server, "admin"))
        await client.jetstream().add_stream(made_by_the_page("1"))
        await client.close()

    with closing(Original(tmp_path)) as original:
        follow = 'allow = ["follow"]\n'
        with a_relay(tmp_path, "node1", url(server, "followed"), more=follow, recording=original.recording) as relay:
            await_line(relay, 1, "`nats stream add CKPTREE_node1 --subjects ckptree.tape.node1 ")
        asyncio.run(make())
        relay.log.unlink()
        with (
            a_relay(tmp_path, "node1", url(server, "followed"), more=follow, recording=original.recording) as relay,
            a_standby(tmp_path, "spare", url(server, "spare"), "node1", "1") as standby,
        ):
            standby.await_have(original.go_on())
            refused = ckptree("fleet", "takeover", "node1", "--record", standby.place)
            shown = json.loads(fleet(server, "taker", "hosts", "--json").out)
            said = relay.log.read_text() + standby.log.read_text()
    assert (refused.code, "the relay of node1 answers" in refused.err) == (7, True), refused.err
    assert [[each["host"] for each in row["standbys"]] for row in shown if row["host"] == "node1"] == [["spare"]]
    assert "permissions violation" not in said.lower()


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("followed", "ckptree.tape.node2"),
        ("followed", "$JS.API.STREAM.CREATE.CKPTREE_node2"),
        ("followed", "$JS.API.STREAM.DELETE.CKPTREE_node1"),
        ("followed", "$JS.API.STREAM.PURGE.CKPTREE_node1"),
        ("spare", "ckptree.tape.node1"),
        ("spare", "ckptree.pulse.node1"),
        ("spare", "ckptree.cut.node1"),
        ("spare", "ckptree.restart.ops.node1"),
        ("spare", "$JS.API.CONSUMER.DELETE.CKPTREE_node1.ckptree-other"),
        ("spare", "$JS.API.STREAM.DELETE.CKPTREE_node1"),
        ("node1", "ckptree.tape.node1"),
        ("taker", "$JS.API.CONSUMER.CREATE.CKPTREE_node1.x"),
    ],
)
def test_a_followed_host_and_its_standby_reach_no_other_stream(server: servers.Server, user: str, subject: str) -> None:
    """The one writes its own, the other reads that; neither removes it."""
    assert tried(server, user, publish=subject)[0]


@pytest.mark.parametrize(
    ("user", "subject"),
    [("spare", "ckptree.tape.node1"), ("spare", "ckptree.tape.node2"), ("followed", "_INBOX.>"), ("spare", "_INBOX.>")],
)
def test_a_recording_is_heard_by_nobody_else(server: servers.Server, user: str, subject: str) -> None:
    """A stand-by, too, has it from the stream alone."""
    assert tried(server, user, subscribe=subject) == (True, [])


def test_the_credential_of_a_requester_of_contents_reaches_the_service(
    server: servers.Server, relays: list[RelayProcess]
) -> None:
    """No service is here, and the relay says so; it hears the request by the permissions of the page."""
    words = ["snapshot", "--hosts", "node1", "--root", "1", "--contents", "--as", "ops", "-o", "nats://sets/contents"]
    ran = fleet(server, "dumper", *words)

    assert ran.code == 6
    assert "node1: nobody starts restarts at" in ran.err


def test_the_permissions_of_the_page_suffice_for_a_follower(server: servers.Server, relays: list[RelayProcess]) -> None:
    """Of the one host."""
    ran = fleet(server, "follower", "events", "node1", "3")
    assert (ran.code, ran.out.count(b"\n")) == (0, 4), ran.err
    other = fleet(server, "follower", "events", "node2", "3")
    assert (other.code, other.out) == (1, b""), other.err
