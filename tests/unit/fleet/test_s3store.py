# SPDX-License-Identifier: Apache-2.0
"""A bucket of S3's protocol as a store of objects."""

from collections.abc import Iterator
from typing import Any

import obstore
import pytest

from agent.errors import FormatError
from agent.fleet.stores.s3store import S3Store
from agent.fleet.stores.store import ExistsError, MissingError, Stored, StoreError, sha256
from tests.support import servers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[servers.Server]:
    """Run a server for all tests of this module."""
    with servers.s3() as found:
        servers.make_s3_bucket(found, "trees")
        yield found


@pytest.fixture
def store(server: servers.Server, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """Open the bucket."""
    for name, value in servers.s3_environment(server).items():
        monkeypatch.setenv(name, value)
    return S3Store("trees")


def test_an_object_comes_back_as_it_was(store: S3Store) -> None:
    """So do its size and its hash, whether it is sent at once or in parts."""
    for data in (b"", b"x", bytes(range(256)) * 30_000):
        store.put("images/a b.ckpt", data)
        assert store.get("images/a b.ckpt") == data
        assert store.head("images/a b.ckpt") == Stored(len(data), sha256(data))


def test_an_object_that_is_not_there_is_named(store: S3Store) -> None:
    """Its head is None."""
    assert store.head("none") is None
    with pytest.raises(MissingError, match="s3://trees/none"):
        store.get("none")


def test_an_object_is_created_once(store: S3Store) -> None:
    """The first one stays."""
    store.create("once", b"1")
    with pytest.raises(ExistsError, match="s3://trees/once is there already"):
        store.create("once", b"2")
    assert store.get("once") == b"1"


@pytest.mark.parametrize("data", [b"2" * 1000, b"1" * 999])
def test_an_object_that_was_changed_in_the_bucket_is_refused(store: S3Store, data: bytes) -> None:
    """The hash of what was put stays beside it."""
    obstore.put(store._bucket, "a", data, attributes={"ckptree-sha256": sha256(b"1" * 1000)})
    with pytest.raises(FormatError, match="SHA-256"):
        store.get("a")


def test_an_object_of_another_program_has_no_hash_and_is_read(store: S3Store) -> None:
    """Its format has checks of its own."""
    obstore.put(store._bucket, "theirs", b"1")
    assert store.head("theirs") == Stored(1, None)
    assert store.get("theirs") == b"1"


def test_nothing_is_read_of_an_object_above_the_bound(store: S3Store) -> None:
    """The bound itself is allowed."""
    store.put("a", b"1" * 1001)
    assert store.get("a", 1001)
    with pytest.raises(FormatError, match="has more than 1000 bytes"):
        store.get("a", 1000)


def test_a_bucket_that_is_not_there_is_named(store: S3Store) -> None:
    """Each operation says so, and the head is no exception."""
    other = S3Store("nowhere")
    calls: list[Any] = [
        lambda: other.get("a"),
        lambda: other.head("a"),
        lambda: other.put("a", b""),
        lambda: other.create("a", b""),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="s3://nowhere/a: there is no such bucket"):
            call()


def test_a_server_that_is_not_there_is_named(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own tries have an end."""
    place = f"127.0.0.1:{servers.free_port()}"
    for url in (f"http://{place}", f"http://me:secret@{place}/?token=secret"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(StoreError, match=f"the server http://{place}/? cannot be reached") as caught:
            S3Store("trees").get("a")
        assert "secret" not in str(caught.value)


def test_credentials_that_are_half_there_are_named(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variables."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StoreError, match="set AWS_ACCESS_KEY_ID"):
        S3Store("trees").get("a")


def test_an_answer_that_breaks_off_is_an_error(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends half of what it has announced has no object for a reader."""
    body = b"1" * 1000
    with servers.breaking_off(body, 500) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        with pytest.raises((StoreError, FormatError)):
            S3Store("trees").get("a")
