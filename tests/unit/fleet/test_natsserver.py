# SPDX-License-Identifier: Apache-2.0
"""Connections to a real NATS server: addresses, credentials, TLS, permissions."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agent.errors import CkptreeError, UsageError
from agent.fleet import natsserver
from agent.fleet.stores import natsstore
from agent.fleet.stores.natsstore import NatsStore
from agent.fleet.stores.store import ExistsError, StoreError
from tests.support import servers, suitepackages

pytestmark = pytest.mark.slow


def test_a_server_without_jetstream_is_named(tmp_path: Path) -> None:
    """Such a server has no object store."""

    port = servers.free_port()
    words = [*suitepackages.server("nats-server"), "-a", "127.0.0.1", "-p", str(port)]
    with (
        servers.running(words, port),
        NatsStore(f"nats://127.0.0.1:{port}", "b") as store,
        pytest.raises(StoreError, match="has no JetStream"),
    ):
        store.put("a", b"")


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    """The address in the message has none."""
    port = servers.free_port()
    with pytest.raises(natsserver.NatsError, match=f"nats://127.0.0.1:{port} cannot be reached") as caught:
        NatsStore(f"nats://user:secret@127.0.0.1:{port}?token=secret", "b")
    assert "secret" not in str(caught.value)


def test_wrong_and_right_passwords(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of NATS' command line hold the credentials."""
    with servers.nats(tmp_path, "--user", "u", "--pass", "right") as server:
        with pytest.raises(natsserver.NatsError, match=r"Authorization|may not let this user in"):
            NatsStore(f"nats://{server.address}", "b")
        monkeypatch.setenv("NATS_USER", "u")
        monkeypatch.setenv("NATS_PASSWORD", "right")
        with NatsStore(f"nats://{server.address}", "b") as store:
            store.make_bucket()
            store.put("a", b"1")
            assert store.get("a") == b"1"


@pytest.mark.parametrize("url", ["", "http://h:1", "nats://", "nats://h:99999", "nats:h"])
def test_what_is_no_address_of_a_server(url: str) -> None:
    """The message shows it."""
    with pytest.raises(UsageError, match="NATS server"):
        natsserver.server_of(url, {})


def test_the_option_comes_before_the_variable() -> None:
    """Several addresses have commas between them."""
    assert natsserver.server_of(None, {"CKPTREE_NATS": "nats://a"}) == "nats://a"
    assert natsserver.server_of("tls://b:1,nats://c", {"CKPTREE_NATS": "nats://a"}) == "tls://b:1,nats://c"


def test_tls_holds_where_the_address_or_the_authority_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server whose certificate no known authority has signed is refused."""
    certificate, key = servers.a_certificate(tmp_path)
    with servers.nats(tmp_path / "data", "--tls", "--tlscert", str(certificate), "--tlskey", str(key)) as server:
        with pytest.raises(natsserver.NatsError, match="certificate verify failed"):
            NatsStore(f"tls://{server.address}", "b")
        monkeypatch.setenv("NATS_CA", str(certificate))
        for scheme in ("tls", "nats"):
            with NatsStore(f"{scheme}://{server.address}", "b") as store:
                store.make_bucket()
                store.put("a", b"1")
                assert store.get("a") == b"1"
        monkeypatch.setenv("NATS_CA", str(tmp_path / "none"))
        with pytest.raises(CkptreeError, match=r"NATS_CA, NATS_CERT or NATS_KEY: No such file"):
            NatsStore(f"tls://{server.address}", "b")


def test_a_key_file_lets_its_user_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So do the variables of NATS' command line have it."""
    import nkeys

    seed = nkeys.encode_seed(b"7" * 32, nkeys.PREFIX_BYTE_USER)
    pair = nkeys.from_seed(bytearray(seed))
    (tmp_path / "seed").write_bytes(seed)
    settings = tmp_path / "nats.conf"
    settings.write_text(f"authorization {{ users = [{{ nkey: {pair.public_key.decode()} }}] }}\n")
    monkeypatch.setenv("NATS_NKEY", str(tmp_path / "seed"))
    with servers.nats(tmp_path / "data", "-c", str(settings)) as server:
        with NatsStore(f"nats://{server.address}", "b") as store:
            store.make_bucket()
            store.put("a", b"1")
        monkeypatch.setenv("NATS_NKEY", str(tmp_path / "none"))
        with pytest.raises(CkptreeError, match="which NATS_NKEY names"):
            NatsStore(f"nats://{server.address}", "b")


def test_a_user_who_may_not_purge_replaces_objects_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunks of the old one stay."""
    settings = tmp_path / "nats.conf"
    settings.write_text(
        """
        accounts { A { jetstream: enabled, users = [
          {user: all, password: p}
          {user: some, password: p, permissions: {
            subscribe: "_INBOX.>", publish: ["$JS.API.STREAM.MSG.GET.OBJ_b", "$O.b.>"]}}
        ] } }
        """
    )
    monkeypatch.setattr(natsstore, "_REQUEST_S", 1.0)
    monkeypatch.setenv("NATS_PASSWORD", "p")
    monkeypatch.setenv("NATS_USER", "all")
    with servers.nats(tmp_path / "data", "-c", str(settings)) as server:
        with NatsStore(f"nats://{server.address}", "b") as store:
            store.make_bucket()
        monkeypatch.setenv("NATS_USER", "some")
        with NatsStore(f"nats://{server.address}", "b") as store:
            for data in (b"1", b"2"):
                store.put("a", data)
                assert store.get("a") == data
            with pytest.raises(ExistsError):
                store.create("a", b"3")
        with NatsStore(f"nats://{server.address}", "other") as store, pytest.raises(StoreError, match="no answer"):
            store.put("a", b"1")


def test_a_connection_that_has_broken_is_closed() -> None:
    """The library raises what it finds then."""

    class Broken:
        """A connection whose other end is gone."""

        async def close(self) -> None:
            """Find that out."""
            raise ConnectionResetError("Connection lost")

    broken: Any = Broken()
    asyncio.run(natsserver.close(broken))
