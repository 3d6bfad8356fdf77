# SPDX-License-Identifier: Apache-2.0
"""A bucket of a real NATS server as a store of objects."""

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.errors import FormatError
from agent.fleet import natsserver
from agent.fleet.stores.natsstore import NatsObjects, NatsStore
from agent.fleet.stores.store import ExistsError, MissingError, Stored, StoreError, sha256
from tests.support import servers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """Run a server for all tests of this module; each test has a bucket of its own."""
    with servers.nats(tmp_path_factory.mktemp("nats")) as found:
        yield found


@pytest.fixture
def store(server: servers.Server, request: pytest.FixtureRequest) -> Iterator[NatsStore]:
    """Open a bucket of the test's own."""
    with NatsStore(f"nats://{server.address}", re.sub(r"\W", "-", request.node.name)) as opened:
        opened.make_bucket()
        yield opened


def test_an_object_comes_back_as_it_was(store: NatsStore) -> None:
    """So do its size and its hash, whether it fills no chunk, one or several."""
    for data in (b"", b"x", bytes(range(256)) * 2000):
        store.put("images/a.ckpt", data)
        assert store.get("images/a.ckpt") == data
        assert store.head("images/a.ckpt") == Stored(len(data), sha256(data))


def test_an_object_that_is_not_there_is_named(store: NatsStore) -> None:
    """Its head is None."""
    assert store.head("none") is None
    with pytest.raises(MissingError, match=f"{store.address}/none"):
        store.get("none")


def test_of_two_writers_of_a_new_object_one_wins(server: servers.Server, store: NatsStore) -> None:
    """All others get ExistsError, and the object is the winner's."""
    bucket = store.address.partition("://")[2]
    won: list[int] = []
    refused: list[int] = []
    ready = threading.Barrier(6)

    def write(number: int) -> None:
        with NatsStore(f"nats://{server.address}", bucket) as own:
            ready.wait(30)
            try:
                own.create("one", b"%d" % number * 300_000)
            except ExistsError:
                refused.append(number)
            else:
                won.append(number)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert len(won) == 1
    assert len(refused) == 5
    assert store.get("one") == b"%d" % won[0] * 300_000


def _streams(server: servers.Server, call: Any) -> Any:
    """Make a call on the server's JetStream, by the library alone."""

    async def make() -> Any:
        client = await natsserver.connected(f"nats://{server.address}")
        try:
            return await call(client.jetstream())
        finally:
            await client.close()

    return asyncio.run(make())


def test_nothing_remains_of_an_object_that_was_replaced_or_not_written(
    server: servers.Server, store: NatsStore
) -> None:
    """The bucket has the chunks of the object that is there, and no others."""
    store.put("a", b"1" * 300_000)
    store.put("a", b"2" * 300_000)
    with pytest.raises(ExistsError):
        store.create("a", b"3" * 300_000)
    bucket = store.address.partition("://")[2]
    found = _streams(server, lambda streams: streams.stream_info(f"OBJ_{bucket}"))
    assert found.state.messages == 4  # three chunks and a description


def test_a_deleted_object_can_be_created_again(server: servers.Server, store: NatsStore) -> None:
    """A deletion leaves a description, which the new one replaces."""
    bucket = store.address.partition("://")[2]
    store.create("a", b"1")

    async def delete(streams: Any) -> None:
        await (await streams.object_store(bucket)).delete("a")

    _streams(server, delete)
    assert store.head("a") is None
    store.create("a", b"2")
    assert store.get("a") == b"2"


def test_other_clients_of_nats_read_what_is_put_and_put_what_is_read(server: servers.Server, store: NatsStore) -> None:
    """The library's own object store stands for them."""
    bucket = store.address.partition("://")[2]
    data = bytes(range(256)) * 1500
    store.put("ours", data)

    async def exchange(streams: Any) -> bytes:
        objects = await streams.object_store(bucket)
        await objects.put("theirs", data)
        return bytes((await objects.get("ours")).data)

    assert _streams(server, exchange) == data
    assert store.get("theirs") == data


@pytest.mark.parametrize("change", ["mutated", "truncated", "gone"])
def test_an_object_that_was_changed_in_the_bucket_is_refused(
    server: servers.Server, store: NatsStore, change: str
) -> None:
    """Size and hash of the description hold."""
    bucket = store.address.partition("://")[2]
    store.put("a", b"1" * 300_000)

    async def spoil(streams: Any) -> None:
        last = await streams.get_last_msg(f"OBJ_{bucket}", f"$O.{bucket}.M.YQ==")
        subject = f"$O.{bucket}.C.{json.loads(last.data)['nuid']}"
        await streams.purge_stream(f"OBJ_{bucket}", subject=subject, keep={"truncated": 2}.get(change))
        if change == "mutated":
            for piece in (b"1" * 131072, b"1" * 131072, b"2" * (300_000 - 262_144)):
                await streams.publish(subject, piece)

    _streams(server, spoil)
    with pytest.raises(FormatError, match="SHA-256" if change == "mutated" else "of 300000 that were stored"):
        store.get("a")


def test_nothing_is_read_of_an_object_above_the_bound(server: servers.Server, store: NatsStore) -> None:
    """The bound itself is allowed."""
    store.put("a", b"1" * 1001)
    assert store.get("a", 1001)
    with pytest.raises(FormatError, match="has more than 1000 bytes"):
        store.get("a", 1000)


def test_more_bytes_than_the_description_says_are_not_read(server: servers.Server, store: NatsStore) -> None:
    """Reading ends where the described size is reached."""
    bucket = store.address.partition("://")[2]
    store.put("a", b"1" * 1000)

    async def spoil(streams: Any) -> None:
        last = await streams.get_last_msg(f"OBJ_{bucket}", f"$O.{bucket}.M.YQ==")
        for _ in range(20):
            await streams.publish(f"$O.{bucket}.C.{json.loads(last.data)['nuid']}", b"1" * 100_000)

    _streams(server, spoil)
    assert store.get("a") == b"1" * 1000  # they lie behind the last chunk that the description counts


def test_a_bucket_that_is_not_there_is_named(server: servers.Server) -> None:
    """Reading, replacing and creating say so."""
    with NatsStore(f"nats://{server.address}", "nowhere") as store:
        for call in (lambda: store.get("a"), lambda: store.put("a", b""), lambda: store.create("a", b"")):
            with pytest.raises(StoreError, match="there is no bucket nowhere"):
                call()


def test_a_full_bucket_leaves_the_old_object(server: servers.Server) -> None:
    """The server's own words are in the message."""

    async def make(streams: Any) -> None:
        from nats.js.api import ObjectStoreConfig

        await streams.create_object_store("small", config=ObjectStoreConfig(max_bytes=500_000))

    _streams(server, make)
    with NatsStore(f"nats://{server.address}", "small") as store:
        store.put("a", b"1" * 200_000)
        with pytest.raises(StoreError, match="maximum bytes exceeded"):
            store.put("a", b"2" * 400_000)
        assert store.get("a") == b"1" * 200_000
        store.put("a", b"3" * 200_000)  # the chunks of the failed one are gone


def test_a_killed_server_fails_the_request_and_keeps_what_it_has_acknowledged(tmp_path: Path) -> None:
    """The request fails at once, not after its patience."""
    with servers.nats(tmp_path) as server:
        url = f"nats://{server.address}"
        with NatsStore(url, "b") as store:
            store.make_bucket()
            store.put("a", b"1")
            server.kill()
            with pytest.raises(StoreError, match="connection"):
                store.put("a", b"2")
        server.start_again()
        with NatsStore(url, "b") as store:
            assert store.get("a") == b"1"


def test_coroutines_on_a_connection_of_the_callers(server: servers.Server) -> None:
    """NatsObjects is for a program with an event loop of its own."""

    async def use() -> bytes:
        client = await natsserver.connected(f"nats://{server.address}")
        try:
            objects = NatsObjects(client, "coroutines")
            await objects.make_bucket()
            await objects.create("a", b"1")
            await objects.put("a", b"2")
            return await objects.get("a")
        finally:
            await client.close()

    assert asyncio.run(use()) == b"2"


def test_a_writer_that_is_killed_half_way_leaves_the_old_object(server: servers.Server, store: NatsStore) -> None:
    """Its chunks are in the bucket, and no reader sees them."""
    bucket = store.address.partition("://")[2]
    store.put("a", b"1" * 300_000)
    program = (
        "import os, sys; from agent.fleet.stores import natsstore; from nats.js import JetStreamContext as streams\n"
        "publish, sent = streams.publish, []\n"
        "async def dying(self, subject, payload, **options):\n"
        "    sent.append(subject)\n"
        "    os.kill(os.getpid(), 9) if len(sent) == 3 else None\n"
        "    return await publish(self, subject, payload, **options)\n"
        "streams.publish = dying\n"
        "natsstore.NatsStore(*sys.argv[1:]).put('a', b'2' * 600_000)"
    )
    ran = subprocess.run([sys.executable, "-c", program, f"nats://{server.address}", bucket], check=False)
    assert ran.returncode == -9
    found = _streams(server, lambda streams: streams.stream_info(f"OBJ_{bucket}"))
    assert found.state.messages == 4 + 2
    assert store.get("a") == b"1" * 300_000


def test_a_server_that_ends_while_an_object_is_read_is_an_error(tmp_path: Path) -> None:
    """The reader has no half of it."""
    with servers.nats(tmp_path) as server, NatsStore(f"nats://{server.address}", "b") as store:
        store.make_bucket()
        store.put("a", bytes(60 << 20))
        killer = threading.Timer(0.1, server.kill)
        killer.start()
        try:
            with pytest.raises(StoreError, match="lost"):
                store.get("a")
        finally:
            killer.join()


def test_an_object_that_is_replaced_while_it_is_read_is_the_old_or_the_new_one(
    server: servers.Server, store: NatsStore
) -> None:
    """Its chunks may vanish between two of a reader's requests, which then reads the new one."""
    bucket = store.address.partition("://")[2]
    stop = threading.Event()
    store.put("a", b"0" * 500_000)

    def write() -> None:
        with NatsStore(f"nats://{server.address}", bucket) as own:
            for number in range(1000):
                own.put("a", b"%d" % (number % 10) * 500_000)
                if stop.wait(0.05):
                    return

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [store.get("a") for _ in range(40)]
    finally:
        stop.set()
        writer.join()
    assert all(len(set(each)) == 1 and len(each) == 500_000 for each in seen)
    assert len({each[:1] for each in seen}) > 1
