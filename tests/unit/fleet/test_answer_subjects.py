# SPDX-License-Identifier: Apache-2.0
"""Messages that name the subject of another, or of the server's API, for their answer; permissions of docs/fleet.md."""

import asyncio
import base64
import time
from contextlib import closing
from pathlib import Path

import nats
import pytest
from nats.js.api import StreamConfig
from nats.js.errors import APIError

from tests.support import servers
from tests.support.guardedserver import INBOXES, fleet, url
from tests.support.relays import RelayProcess
from tests.support.standbys import Original, a_standby

pytestmark = pytest.mark.slow


async def _quiet(_: Exception) -> None:
    """Leave it to the test what the server refuses."""


TARGETS = ("ckptree.restart.ops.node9", "ckptree.tape.node9", "$JS.API.STREAM.CREATE.evil")
OF_HOSTS = ("hello", "arm", "cut", "image", "disarm", "taken", "events", "tape", "pulse", "held")


@pytest.mark.parametrize(
    ("asker", "asked", "hearer"),
    [
        ("followed", None, "followed"),  # its own message
        ("spare", None, "spare"),
        ("node1", None, "node1"),
        ("followed", "ckptree.pulse.node1", "spare"),
        ("spare", "ckptree.hello.node1", "node1"),
        ("spare", "ckptree.hello.node1", "followed"),
        ("follower", "ckptree.events.node1", "node1"),
        ("follower", "ckptree.events.node1", "followed"),
        ("taker", "ckptree.hello.node2", "node2"),
        ("taker", "ckptree.cut.node2", "followed2"),
        ("taker", "$SRV.PING.ckptree-relay", "node1"),
        ("taker", "$SRV.PING.ckptree-relay", "followed"),
        ("taker", "$SRV.STATS.ckptree-standby", "spare"),
        ("dumper", "ckptree.dump.ops.node1", "node1"),
        ("dumper", "ckptree.arm.node2", "followed2"),
        ("ops", "ckptree.taken.node1", "followed"),
        ("ops", "ckptree.restart.ops.node2", "node2"),
    ],
)
def test_who_hears_a_message_publishes_nothing_to_the_subject_that_it_names(
    server: servers.Server, asker: str, asked: str | None, hearer: str
) -> None:
    """Two stolen credentials, or one that hears itself, would ask, record and use the API as anybody."""
    host = "node2" if "2" in hearer else "node1"
    subjects = [asked] if asked else [f"ckptree.{verb}.{host}" for verb in OF_HOSTS]
    hear = [asked] if asked else [*subjects, f"ckptree.*.{host}"]

    async def attack() -> tuple[int, int]:
        admin = await nats.connect(url(server, "admin"))
        thief = await nats.connect(url(server, hearer), error_cb=_quiet)
        asks = thief if asker == hearer else await nats.connect(url(server, asker), error_cb=_quiet)
        heard = [await thief.subscribe(each) for each in hear]
        await thief.flush()
        published = [await admin.subscribe(each) for each in TARGETS]
        await admin.flush()
        for target in TARGETS:
            for subject in subjects:
                await asks.publish(subject, b"", target)
        await asks.flush()
        await thief.flush()
        for target in TARGETS:
            await thief.publish(target, b"FORGED", "_INBOX.x.y")
        await thief.flush()
        await admin.flush()
        found = sum(each.pending_msgs for each in heard), sum(each.pending_msgs for each in published)
        for client in {admin, thief, asks}:
            await client.close()
        return found

    assert asyncio.run(attack()) == (len(TARGETS) if asked else 0, 0)


def test_a_relay_answers_no_question_of_the_library_into_the_api(
    server: servers.Server, relays: list[RelayProcess]
) -> None:
    """The library answers questions below $SRV by itself, and whoever finds hosts may ask these."""

    async def attack() -> int:
        admin = await nats.connect(url(server, "admin"))
        streams = admin.jetstream()
        await streams.add_stream(StreamConfig(name="victim", subjects=["victim"]))
        await streams.publish("victim", b"kept")
        taker = await nats.connect(url(server, "taker"), inbox_prefix=INBOXES["taker"].encode())
        inbox = await taker.subscribe("_INBOX.snapshots.after")
        for target in ("$JS.API.STREAM.PURGE.victim", "_INBOX.snapshots.after"):  # relays answer one after the other
            await taker.publish("$SRV.PING.ckptree-relay", b"", target)
        for _ in relays:
            await inbox.next_msg(20)
        left = (await streams.stream_info("victim")).state.messages
        await streams.delete_stream("victim")
        for client in (admin, taker):
            await client.close()
        return left

    assert asyncio.run(attack()) == 1


def test_answers_that_the_server_refuses_do_not_fill_the_log_of_a_relay(
    server: servers.Server, relays: list[RelayProcess]
) -> None:
    """Each names another subject, so that no line is like another."""

    async def attack() -> None:
        taker = await nats.connect(url(server, "taker"))
        for each in range(200):
            await taker.publish("$SRV.PING.ckptree-relay", b"", f"any.{each}")
        await taker.flush()
        await taker.close()

    asyncio.run(attack())
    found = fleet(server, "taker", "hosts")
    assert (found.code, found.out.count(b"node")) == (0, 2), found.err
    assert all(0 < relay.log.read_text().count('violation for publish to "any.') <= 60 for relay in relays)


@pytest.mark.parametrize(
    ("user", "stored_as"), [("taker", "$O.sets.C.q"), ("dumper", "$O.sets.C.q"), ("followed2", "ckptree.tape.node2")]
)
def test_the_servers_receipt_as_a_request_takes_nothing_from_the_stream_of_a_host(
    server: servers.Server, relays: list[RelayProcess], user: str, stored_as: str
) -> None:
    """A stream without the page's flags is emptied by the same."""

    async def attack() -> tuple[int, int, list[str]]:
        admin = await nats.connect(url(server, "admin"))
        streams = admin.jetstream()
        await streams.add_stream(StreamConfig(name="unguarded", subjects=["unguarded"]))
        await streams.publish("unguarded", b"lost")
        sequence = (await streams.publish("ckptree.tape.node2", b"kept")).seq
        before = (await streams.stream_info("CKPTREE_node2")).state.messages
        client = await nats.connect(url(server, user))
        for stream in ("CKPTREE_node2", "unguarded"):
            for verb in ("MSG.DELETE", "PURGE"):
                await client.publish(stored_as, b"x", f"$JS.API.STREAM.{verb}.{stream}")
        await client.flush()
        until = time.monotonic() + 20
        while (await streams.stream_info("unguarded")).state.messages:
            assert time.monotonic() < until
            await asyncio.sleep(0.02)
        after = (await streams.stream_info("CKPTREE_node2")).state.messages
        refused = []
        for refuse in (streams.purge_stream("CKPTREE_node2"), streams.delete_msg("CKPTREE_node2", sequence)):
            with pytest.raises(APIError) as error:
                await refuse
            refused.append(str(error.value.description))
        await streams.delete_stream("unguarded")
        for each in (admin, client):
            await each.close()
        return before, after, refused

    before, after, refused = asyncio.run(attack())
    assert after >= before
    assert ["not permitted" in each for each in refused] == [True, True]


def test_a_set_that_a_reader_has_the_server_write_over_is_refused(
    server: servers.Server, relays: list[RelayProcess]
) -> None:
    """It is lost, as the page says, and none is forged."""
    words = ["snapshot", "--hosts", "node1", "--root", "1", "-o", "nats://sets/over"]
    taken = fleet(server, "taker", *words)
    assert taken.code == 0, taken.err
    subject = "$O.sets.M." + base64.urlsafe_b64encode(b"over").decode()

    async def attack() -> None:
        admin = await nats.connect(url(server, "admin"))
        client = await nats.connect(url(server, "ops"))
        await client.publish("$JS.API.STREAM.MSG.GET.OBJ_sets", b'{"seq": 1}', subject)
        await client.flush()
        until = time.monotonic() + 20
        while b"io.nats.jetstream" not in ((await admin.jetstream().get_last_msg("OBJ_sets", subject)).data or b""):
            assert time.monotonic() < until
            await asyncio.sleep(0.02)
        for each in (admin, client):
            await each.close()

    asyncio.run(attack())
    shown = fleet(server, "ops", "show", "nats://sets/over")
    assert (shown.code, shown.out) == (8, b""), shown.err


def test_the_stream_that_a_relay_makes_refuses_to_be_emptied(
    tmp_path: Path,
) -> None:
    """The server's receipt of a message that another user stores would be a request for that."""

    async def purge() -> None:
        client = await nats.connect(where)
        try:
            with pytest.raises(APIError, match="not permitted"):
                await client.jetstream().purge_stream("CKPTREE_old")
            with pytest.raises(APIError, match="not permitted"):
                await client.jetstream().delete_msg("CKPTREE_old", 1)
        finally:
            await client.close()

    with servers.nats(tmp_path / "nats") as open_server, closing(Original(tmp_path)) as original:
        where = f"nats://{open_server.address}"
        with original.relay(where), a_standby(tmp_path, "new", where, "old", "1") as standby:
            standby.await_have(original.go_on())
            asyncio.run(purge())
            standby.await_have(original.go_on())
