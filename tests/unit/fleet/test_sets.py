# SPDX-License-Identifier: Apache-2.0
"""Sets in folders: whole or not there, never replaced, and with the images that the manifest names."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import CkptreeError, FormatError, UsageError
from agent.fleet import manifest, sets
from agent.fleet.clocks import Offset
from agent.fleet.folderstore import FolderStore
from agent.fleet.manifest import FleetSet, HostImage
from agent.fleet.sets import SetExistsError, SetPlace
from agent.fleet.stores.store import MOST_BYTES, StoreError

IMAGES = {manifest.hash_of(data): data for data in (b"one", b"other")}


def a_set(key: str = "x") -> FleetSet:
    """Return a set of two hosts."""
    hosts = [
        HostImage(host, "1", image, len(data), 1, 0, 1, Offset(0, 0), complete=True)
        for host, (image, data) in zip("ab", IMAGES.items(), strict=True)
    ]
    return FleetSet(key, 7, tuple(hosts))


def place_of(path: Path) -> SetPlace:
    """Open a set in a folder."""
    with sets.opened(str(path)) as place:
        return place


def test_a_set_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Its images stand beside it."""
    place = place_of(tmp_path / "set")
    assert place.present() is None
    place.write(a_set(), IMAGES, b"signature")

    assert place.read() == a_set()
    assert [place.image(each) for each in a_set().hosts] == list(IMAGES.values())
    assert place.signature(place.read_bytes()) == (tmp_path / "set.sig").read_bytes() == b"signature"


def test_a_set_of_another_request_is_not_replaced(tmp_path: Path) -> None:
    """The same request may write it again, and changes nothing."""
    place = place_of(tmp_path / "set")
    place.write(a_set(), IMAGES)
    place.write(replace(a_set(), at_ns=8), IMAGES, b"late")

    assert place.read() == a_set()
    assert place.signature(place.read_bytes()) is None
    with pytest.raises(SetExistsError, match="request x"):
        place.write(a_set("y"), IMAGES)


def test_of_many_writers_one_wins(tmp_path: Path) -> None:
    """The others find out whose set it is."""
    lost: list[str] = []

    def write(number: int) -> None:
        try:
            place_of(tmp_path / "set").write(a_set(str(number)), IMAGES)
        except SetExistsError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(lost) == 7
    assert all(f"request {place_of(tmp_path / 'set').read().id}:" in each for each in lost)


def test_a_set_whose_images_cannot_be_written_is_not_there(tmp_path: Path) -> None:
    """The manifest comes last: the second image has a name that no file can have."""
    image = "sha256:" + "0" * 300
    with pytest.raises(CkptreeError, match="cannot write"):
        place_of(tmp_path / "set").write(a_set(), {**IMAGES, image: b"x"})

    assert not (tmp_path / "set").exists()


def test_an_image_that_was_changed_is_refused(tmp_path: Path) -> None:
    """So is one that is gone."""
    place = place_of(tmp_path / "set")
    place.write(a_set(), IMAGES)
    first, second = a_set().hosts
    (tmp_path / first.image.replace(":", "-")).write_bytes(b"two")
    (tmp_path / second.image.replace(":", "-")).unlink()

    with pytest.raises(FormatError, match="not the one of the manifest"):
        place.image(first)
    with pytest.raises(CkptreeError, match="there is no file"):
        place.image(second)


def test_a_folder_that_is_not_there_is_named_before_any_host_is_asked(tmp_path: Path) -> None:
    """The question for a set of the name comes first."""
    with (
        sets.opened(f"{tmp_path}/none/set") as place,
        pytest.raises(StoreError, match=f"^there is no folder {tmp_path}/none: make it first$"),
    ):
        place.present()


def test_a_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    """So is a file that is no set."""
    with pytest.raises(CkptreeError, match="there is no file"):
        place_of(tmp_path / "set").read()
    (tmp_path / "set").write_bytes(b"{}")
    with pytest.raises(FormatError, match=r"set: set\.format"):
        place_of(tmp_path / "set").read()


@pytest.mark.parametrize("name", ["", "-", "folder/", "..", "nats://bucket"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    """The message has the forms."""
    with pytest.raises(UsageError, match="nats://BUCKET/NAME"), sets.opened(name):
        pass


class Registry(FolderStore):
    """A store that cannot refuse to replace an object, as a registry. Something may happen before each write of a name.

    Args:
        folder: of its objects.
        before: by the name of an object.
    """

    def __init__(self, folder: Path, before: dict[str, Callable[[], object]]) -> None:
        super().__init__(folder)
        self.before = before

    def put(self, name: str, data: bytes) -> None:
        """Write an object."""
        self.before.pop(name, lambda: None)()
        super().put(name, data)

    def create(self, name: str, data: bytes) -> None:  # noqa: ARG002 - a store has it
        """Refuse, as a registry does."""
        raise StoreError("there is no such operation")


def in_registry(folder: Path, before: dict[str, Callable[[], object]] | None = None) -> SetPlace:
    """Return the place of the set `set` in a registry."""
    return SetPlace(Registry(folder, before or {}), "set", "oci://set", creates=False)


@pytest.mark.parametrize("moment", ["set", "set.sig"])
def test_two_requests_of_one_id_leave_a_set_with_its_own_signature(tmp_path: Path, moment: str) -> None:
    """Also where a registry lets the one replace what the other has written, at whatever moment."""
    other = replace(a_set(), at_ns=8)
    place = in_registry(tmp_path, {moment: lambda: in_registry(tmp_path).write(other, IMAGES, b"of the other")})
    place.write(a_set(), IMAGES, b"of this one")

    left = place.read_bytes()
    assert place.signature(left) == {7: b"of this one", 8: b"of the other"}[place.read().at_ns]
    assert [place.image(each) for each in place.read().hosts] == list(IMAGES.values())


def test_one_who_is_replaced_in_a_registry_is_told(tmp_path: Path) -> None:
    """The other request has written between the look and the end of this one's writing."""
    place = in_registry(tmp_path)
    store = place.store

    class Late(Registry):
        def get(self, name: str, most: int = MOST_BYTES) -> bytes:
            if name == "set" and not done:
                done.append(name)
                store.put("set", manifest.dumps(a_set("y")))
            return super().get(name, most)

    done: list[str] = []
    with pytest.raises(SetExistsError, match="request y"):
        place._replace(store=Late(tmp_path, {})).write(a_set(), IMAGES)
    assert place.read().id == "y"


def test_a_signature_beside_the_name_counts_where_the_manifest_has_none_of_its_own(tmp_path: Path) -> None:
    """As ssh-keygen makes one by hand."""
    place = in_registry(tmp_path)
    place.write(a_set(), IMAGES)
    assert place.signature(place.read_bytes()) is None
    place.store.put("set.sig", b"by hand")
    assert place.signature(place.read_bytes()) == b"by hand"
