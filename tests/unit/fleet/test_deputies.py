# SPDX-License-Identifier: Apache-2.0
"""Stolen credentials of NATS by which the server, or a relay, would publish for a thief; permissions of docs/fleet.md."""

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import nats
import nats.errors
import pytest
from nats.js.api import AckPolicy, ConsumerConfig, RePublish, StreamConfig
from nats.js.errors import NotFoundError

from agent.fleet import messages
from agent.fleet.manifest import hash_of
from agent.recorder import folder
from tests.live.daemons import Ran, ckptree
from tests.support import servers
from tests.support.guardedserver import (
    INBOXES,
    USERS,
    fleet,
    url,
)
from tests.support.imagework import IMAGE
from tests.support.relays import RelayProcess
from tests.support.standbys import Original, a_standby

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg

pytestmark = pytest.mark.slow


def violations(server: servers.Server, user: str, *, publish: Sequence[str] = (), hear: Sequence[str] = ()) -> set[str]:
    """Return those of some subjects to which a user may not publish, or which it may not hear."""
    said: list[str] = []

    async def attempt() -> None:
        async def note(error: Exception) -> None:
            said.append(str(error))

        client = await nats.connect(url(server, user), error_cb=note)
        for subject in publish:
            await client.publish(subject, b"{}")
        for subject in hear:
            await client.subscribe(subject)
        await client.publish("the.last")
        until = time.monotonic() + 20
        while not said or "the.last" not in said[-1]:
            assert time.monotonic() < until
            await asyncio.sleep(0.01)
        await client.close()

    asyncio.run(attempt())
    return {each for each in (*publish, *hear) if any(f'"{each.lower()}"' in words.lower() for words in said)}


@pytest.mark.parametrize("user", USERS)
def test_no_credential_has_the_server_publish_what_is_stored(server: servers.Server, user: str) -> None:
    """The server would do that to any subject, as a reply, a destination of a consumer, or one of a stream."""
    subjects = [f"$JS.API.DIRECT.GET.{stream}" for stream in ("OBJ_sets", "OBJ_sets.$O.sets.C.x", "CKPTREE_node1")]
    for stream, name in (("CKPTREE_node1", "ckptree-spare"), ("CKPTREE_node2", "ckptree-spare2"), ("OBJ_sets", "x")):
        consumer = f"{stream}.{name}"
        subjects += [f"$JS.API.CONSUMER.{verb}.{consumer}" for verb in ("CREATE", "DURABLE.CREATE", "MSG.NEXT")]
        subjects += [f"$JS.API.CONSUMER.CREATE.{stream}", f"$JS.API.CONSUMER.CREATE.{consumer}.a.b"]
        subjects += [f"$JS.API.STREAM.{verb}.{stream}" for verb in ("CREATE", "UPDATE", "DELETE", "PURGE", "RESTORE")]

    assert violations(server, user, publish=subjects) == set(subjects)


@pytest.mark.parametrize("user", USERS)
def test_each_user_hears_its_own_inbox_alone(server: servers.Server, user: str) -> None:
    """Others' images, tables and events go to theirs."""
    own = INBOXES.get(user)
    others = [f"{each}.>" for each in INBOXES.values() if each != own] + [
        "_INBOX.>",
        "_INBOX.*",
        "_INBOX.x",
        "_INBOX.*.x",
        ">",
    ]

    assert violations(server, user, hear=[*others, f"{own}.>"]) == {*others, *([] if own else ["None.>"])}


@pytest.mark.parametrize("user", [user for user in USERS if user not in ("taker", "dumper", "ops", "follower")])
def test_no_host_answers_for_a_service_that_it_is_not(server: servers.Server, user: str) -> None:
    """A relay is asked for no stand-by's state, and a stand-by for no relay's presence, and neither answers unasked."""
    own, other = ("ckptree-standby", "ckptree-relay")[:: 1 if "spare" in user else -1]
    hear = [f"$SRV.{verb}.{service}" for service in (own, other) for verb in ("PING", "INFO", "STATS")]

    assert violations(server, user, hear=[*hear, "$SRV.>"]) == {"$SRV.>", *hear[3:]}


async def stored(admin: "Client", subject: str, *data: bytes, group: str | None = None) -> None:
    """Have the server publish messages to a subject, in each way that it has, also to a group that listens."""
    streams = admin.jetstream()
    for each in data:
        await streams.publish("kept.by.somebody", each)
        await admin.publish("$JS.API.DIRECT.GET.kept.kept.by.somebody", b"", subject)
        await admin.publish("$JS.API.STREAM.MSG.GET.kept", b'{"last_by_subj": "kept.by.somebody"}', subject)
        await admin.publish("$JS.API.CONSUMER.MSG.NEXT.kept.pulled", b"", subject)
        await admin.flush()
    for policy in (AckPolicy.NONE, AckPolicy.EXPLICIT):
        name = f"pushed-{policy.value}"
        pushed = ConsumerConfig(durable_name=name, deliver_subject=subject, deliver_group=group, ack_policy=policy)
        await streams.add_consumer("kept", pushed)
        until = time.monotonic() + 20
        while (await streams.consumer_info("kept", name)).num_pending:
            assert time.monotonic() < until
            await asyncio.sleep(0.02)


async def keep(admin: "Client", republished: str) -> None:
    """Make the stream of `stored` anew; what it takes is published to a subject, too."""
    streams = admin.jetstream()
    with contextlib.suppress(NotFoundError):
        await streams.delete_stream("kept")
    again = RePublish(src="kept.by.somebody", dest=republished)
    await streams.add_stream(StreamConfig(name="kept", subjects=["kept.>"], allow_direct=True, republish=again))
    await streams.add_consumer("kept", ConsumerConfig(durable_name="pulled", ack_policy=AckPolicy.EXPLICIT))


@pytest.mark.parametrize("verb", ["restart", "dump"])
def test_what_the_server_publishes_for_somebody_is_no_request(
    server: servers.Server, relays: list[RelayProcess], verb: str
) -> None:
    """A user who may have it do so asks for nothing as another requester: the same bytes as a question are heard."""
    key, asked, subject = f"stolen-{verb}", f"asked-{verb}", f"ckptree.{verb}.ops.node2"
    of = {"id": key, "left_ns": 60 * 10**9}
    forged: list[messages.Message] = [
        {**of, "what": "part", "part": part, "offset": 0, "data": b"x"} for part in ("manifest", "signature", "image")
    ]
    forged.append({**of, "what": "start", "host": "old", "run": "hold", "pids": True, "pidns": True})
    if verb == "dump":
        forged = [{**of, "root": "1", "requester": "ops", "end": False, "at_ns": 1}]
    log = relays[1].log

    async def attack() -> str:
        admin = await nats.connect(url(server, "admin"))
        await keep(admin, subject)
        await stored(admin, subject, *map(messages.pack, forged), group="q")
        for each in forged[:-1]:
            await admin.request(subject, messages.pack({**each, "id": asked}), 20)
        before = log.read_text()
        await admin.request(subject, messages.pack({**forged[-1], "id": asked}), 20)
        await admin.close()
        return before

    before = asyncio.run(attack())
    assert key not in before
    assert "no requester has sent it" in before
    assert (f"id={asked} " if verb == "restart" else "nobody starts restarts at") in log.read_text().replace('"', "")


def test_an_answer_of_another_is_not_taken_for_a_hosts(server: servers.Server, relays: list[RelayProcess]) -> None:
    """Not even of one who hears the question first: another relay's is by another name, and the server's has its marks."""
    false = b"FORGED IMAGE"
    now = time.time_ns()
    forged: messages.Message = {
        "ok": True,
        "host": "node2",
        "ready": True,
        "received_ns": now,
        "answered_ns": now,
        "data": false,
        "image": hash_of(false),
        "bytes": len(false),
        "before_ns": now,
        "after_ns": now,
        "tasks": 666,
    }

    async def attack() -> Ran:
        admin = await nats.connect(url(server, "admin"))
        thief = await nats.connect(url(server, "follower"))
        await keep(admin, "nowhere")
        await admin.jetstream().publish("kept.by.somebody", messages.pack(forged))

        async def answer(message: "Msg") -> None:
            heard.append(message.subject)
            await admin.publish("$JS.API.DIRECT.GET.kept.kept.by.somebody", b"", message.reply)
            await thief.publish("ckptree.events.node1", b"\x80", message.reply)

        await admin.subscribe("ckptree.*.node2", cb=answer)
        await admin.flush()
        words = ["snapshot", "--hosts", "node2", "--root", "1", "-o", "nats://sets/unforged", "--json"]
        taken = await asyncio.to_thread(fleet, server, "taker", *words)
        await admin.close()
        await thief.close()
        return taken

    heard: list[str] = []
    taken = asyncio.run(attack())
    assert {"ckptree.arm.node2", "ckptree.cut.node2"} <= set(heard)
    assert taken.code == 0, taken.err
    (host,) = json.loads(taken.out)["hosts"]
    assert (host["host"], host["image"]) == ("node2", hash_of(IMAGE.read_bytes()))


def test_whose_inbox_is_another_hears_how_to_name_it(server: servers.Server, relays: list[RelayProcess]) -> None:
    """Without the variable, answers would come where the permissions do not let the user hear."""
    words = ["--nats", url(server, "taker")]
    environment = {**os.environ, "CKPTREE_NATS_INBOX": ""}
    for verb in (
        ["fleet", "hosts"],
        ["fleet", "snapshot", "--hosts", "node1", "--root", "1", "-o", "nats://sets/none"],
        ["fleet", "show", "nats://sets/one"],
    ):
        ran = ckptree(*verb, *words, env=environment)
        assert (ran.code, "CKPTREE_NATS_INBOX must name the inbox" in ran.err) == (1, True), ran.err
    wrong = ckptree("fleet", "hosts", *words, env={**environment, "CKPTREE_NATS_INBOX": "INBOX.a"})
    assert (wrong.code, "CKPTREE_NATS_INBOX: inbox 'INBOX.a': expected _INBOX" in wrong.err) == (2, True), wrong.err


def test_what_the_server_publishes_for_somebody_is_no_record_and_no_word_of_a_host(tmp_path: Path) -> None:
    """A stand-by leaves it out, whatever the stream has of it; the relay goes on where its own last piece ends."""
    piece = messages.pack({"segment": b"\xee" * 16, "offset": 0, "data": b"a false record"})
    end = messages.pack({"at_ns": 1, "segment": b"\xee" * 16, "size": 1, "next": 1 << 40, "ends": True})

    async def attack(where: str) -> int:
        admin = await nats.connect(where)
        streams = admin.jetstream()
        before = (await streams.stream_info("CKPTREE_old")).state.last_seq
        for subject, data in (("ckptree.tape.old", piece), ("ckptree.pulse.old", end)):
            await keep(admin, subject)
            await stored(admin, subject, data)
        after = (await streams.stream_info("CKPTREE_old")).state.last_seq
        await admin.close()
        return after - before

    with servers.nats(tmp_path / "nats") as open_server, closing(Original(tmp_path)) as original:
        where = f"nats://{open_server.address}"
        with original.relay(where) as relay, a_standby(tmp_path, "new", where, "old", "1") as standby:
            standby.await_have(original.go_on())
            assert asyncio.run(attack(where)) >= 4
            standby.await_have(original.go_on())
            relay.process.kill()
            relay.process.wait()
            relay.start_again()
            said = standby.await_have(original.go_on())
            assert not [each for each in folder.stored(standby.place) if b"a false record" in each.path.read_bytes()]
    assert (said["gaps"], said["relay_ended"], said["gap"]) == (0, False, "")
    assert said["left_out"] >= 3
    assert "ends in order" not in standby.log.read_text()
