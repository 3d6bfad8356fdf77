# SPDX-License-Identifier: Apache-2.0
"""A repository of a real OCI registry as a store of images."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from agent.errors import FormatError
from agent.fleet.stores import ocistore
from agent.fleet.stores.ocistore import MEDIA_TYPE, OciStore
from agent.fleet.stores.store import MissingError, Stored, StoreError, sha256
from tests.support import servers

pytestmark = pytest.mark.slow
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
# Of the password "right".
PASSWORDS = "jane:$2b$04$9RvgTVGhrX2XydESR1jtKuGmF1qC..ozifskhyEJX4zpl9cukMpjG\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the registry."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def server(data: Path) -> Iterator[servers.Server]:
    """Run a registry for all tests of this module; each test has a repository of its own."""
    with servers.registry(data) as found:
        yield found


@pytest.fixture
def store(server: servers.Server, request: pytest.FixtureRequest) -> Iterator[OciStore]:
    """Open a repository."""
    name = request.node.name.partition("[")[0].replace("_", "-")
    with OciStore(f"{server.address}/tests/{name}") as opened:
        yield opened


def url(store: OciStore, rest: str) -> str:
    """Return the address of a part of a repository."""
    host, _, path = store.address.removeprefix("oci://").partition("/")
    return f"http://{host}/v2/{path}/{rest}"


def test_an_image_comes_back_as_it_was(store: OciStore) -> None:
    """So do its size and its hash; a tag names the last one that was put."""
    for data in (b"", b"x", bytes(range(256)) * 30_000):
        store.put("v1", data)
        assert store.get("v1") == data
        assert store.head("v1") == Stored(len(data), sha256(data))


def test_the_manifest_is_an_artifact_of_one_layer(store: OciStore) -> None:
    """Other programs find the bytes in it."""
    store.put("v1", b"bytes")
    manifest = requests.get(url(store, "manifests/v1"), headers={"Accept": MANIFEST}, timeout=10).json()
    (layer,) = manifest["layers"]
    assert (manifest["artifactType"], layer["mediaType"], layer["size"]) == (MEDIA_TYPE, MEDIA_TYPE, 5)
    assert requests.get(url(store, f"blobs/{layer['digest']}"), timeout=10).content == b"bytes"


def test_a_tag_that_is_not_there_is_named(store: OciStore) -> None:
    """It makes no difference if the repository is not there."""
    for _ in range(2):
        assert store.head("none") is None
        with pytest.raises(MissingError, match=f"there is no image {store.address}:none"):
            store.get("none")
        store.put("other", b"")


def test_a_tag_of_something_else_is_refused(store: OciStore) -> None:
    """An image of a container has layers of other types."""
    store.put("v1", b"1")
    manifest = requests.get(url(store, "manifests/v1"), headers={"Accept": MANIFEST}, timeout=10).json()
    manifest["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip"
    put = requests.put(
        url(store, "manifests/other"), data=json.dumps(manifest), headers={"Content-Type": MANIFEST}, timeout=10
    )
    assert put.status_code == 201
    with pytest.raises(FormatError, match="is no image of ckptree"):
        store.get("other")


@pytest.mark.parametrize("change", ["mutated", "truncated", "gone"])
def test_a_layer_that_was_changed_in_the_registry_is_refused(store: OciStore, data: Path, change: str) -> None:
    """The registry itself checks no layer that it sends."""
    content = f"{change} ".encode() * 1000
    store.put("v1", content)
    digits = sha256(content)
    (file,) = data.glob(f"data/**/blobs/sha256/{digits[:2]}/{digits}/data")
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes(content.swapcase() if change == "mutated" else content[:-1])
    with pytest.raises((FormatError, StoreError)) as caught:
        store.get("v1")
    assert isinstance(caught.value, FormatError), caught.value
    assert caught.value.exit_code == 8


def test_nothing_is_read_of_an_image_above_the_bound(store: OciStore) -> None:
    """The bound itself is allowed."""
    store.put("v1", b"1" * 1001)
    assert store.get("v1", 1001)
    with pytest.raises(FormatError, match="has more than 1000 bytes"):
        store.get("v1", 1000)


def test_a_registry_creates_no_tag_once_and_says_so(store: OciStore) -> None:
    """The protocol of registries has no such operation."""
    with pytest.raises(StoreError, match="cannot tell a new tag from an old one"):
        store.create("v1", b"")


def test_a_registry_that_is_not_there_is_named() -> None:
    """The library's own tries are left out: they would take minutes."""
    place = f"127.0.0.1:{servers.free_port()}"
    with pytest.raises(StoreError, match=f"the registry {place} cannot be reached"):
        OciStore(f"{place}/a")


def test_a_registry_that_ends_meanwhile_is_named(tmp_path: Path) -> None:
    """The old image is there when it comes again."""
    with servers.registry(tmp_path) as server:
        with OciStore(f"{server.address}/a") as store:
            store.put("v1", b"1")
            server.kill()
            with pytest.raises(StoreError, match="cannot be reached, or has ended"):
                store.put("v1", b"2")
        server.start_again()
        with OciStore(f"{server.address}/a") as store:
            assert store.get("v1") == b"1"


def test_a_registry_asks_for_the_password_that_docker_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, or with another, the message names docker login."""
    (tmp_path / "passwords").write_text(PASSWORDS)
    home = tmp_path / "home" / ".docker"
    home.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home.parent))
    with servers.registry(tmp_path, f"auth: {{htpasswd: {{realm: r, path: {tmp_path / 'passwords'}}}}}\n") as server:
        place = f"{server.address}/a"
        with OciStore(place) as store, pytest.raises(StoreError, match="docker login"):
            store.put("v1", b"1")
        for password, is_right in (("amFuZTp3cm9uZw==", False), ("amFuZTpyaWdodA==", True)):
            (home / "config.json").write_text(json.dumps({"auths": {server.address: {"auth": password}}}))
            with OciStore(place) as store:
                if not is_right:
                    with pytest.raises(StoreError, match="docker login"):
                        store.put("v1", b"1")
                    continue
                store.put("v1", b"1")
                assert store.get("v1") == b"1"


def test_a_fault_of_the_registry_itself_is_tried_again(store: OciStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few times; one that stays is told."""
    monkeypatch.setattr(ocistore, "_PAUSES_S", (0.0, 0.0))
    upload, left = store._registry.upload_manifest, [2]

    def failing(*arguments: Any) -> requests.Response:
        if left[0]:
            left[0] -= 1
            answer = requests.Response()
            answer.status_code, answer.reason, answer.raw = 500, "Internal Server Error", io.BytesIO(b"{}")
            return answer
        done: requests.Response = upload(*arguments)
        return done

    monkeypatch.setattr(store._registry, "upload_manifest", failing)
    store.put("faulty", b"image")
    assert store.get("faulty") == b"image"
    left[0] = 3
    with pytest.raises(StoreError, match="the registry refused: 500 Internal Server Error"):
        store.put("faulty", b"other")
    assert (left[0], store.get("faulty")) == (0, b"image")
