# SPDX-License-Identifier: Apache-2.0
"""Sets in stores: a manifest under the name of the set, and images beside it under their hashes.

The manifest is written last, and only if there is none of its name: a reader finds a set whole or not at all, and a
set that is there never changes. Of writers of one name at the same time the first wins; the others find out whose set
it is by its id. A signature (``NAME.sig``) covers the bytes of the manifest, and with the hashes in it every image. The
writer who has won adds it then: a set without its signature is taken for one that is not signed.

An OCI registry cannot refuse to replace a tag. There each signature has a name of its own, by the hash of the manifest
that it covers, and is written first: whichever of two manifests stays, its signature is that of its own bytes. Two
requests of one id have the same images, for relays do the work of an id once: so either manifest is the set.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.errors import CkptreeError, FormatError, UsageError
from agent.fleet import manifest
from agent.fleet.folderstore import FolderStore
from agent.fleet.manifest import FleetSet, HostImage
from agent.fleet.stores import address as addresses
from agent.fleet.stores import opening
from agent.fleet.stores.store import MOST_BYTES, Closing, ExistsError, MissingError, Stored, StoreError, bound
from agent.record import NamedTuple

if TYPE_CHECKING:
    from agent.fleet.stores.address import Address
    from agent.fleet.stores.store import ObjectStore

SIGNATURE = ".sig"
_FEW: Final = 16
_AT_ONCE: Final = 8
_MOST_SIGNATURE = 64 << 10


class SetExistsError(CkptreeError):
    """A set of another request that has the name already (exit code 1).

    Args:
        of: id of that request.
        shown: address of the set.
    """

    def __init__(self, of: str, shown: str) -> None:
        super().__init__(f"{shown} is a set already, of the request {of}: a set is never replaced. Name another")


class SetPlace(NamedTuple):
    """A place of a set.

    Attributes:
        store: where it is.
        name: of its manifest there.
        shown: its address, for messages.
        creates: False where the store cannot refuse to replace an object: an OCI registry.
        again: opens the store once more, for several writes at the same time; None: it cannot be.
    """

    store: "ObjectStore"
    name: str
    shown: str
    creates: bool
    again: "Callable[[], ObjectStore] | None" = None

    def beside(self, image: str) -> str:
        """Return the name of an image's object, by its hash."""
        folder, slash, _ = self.name.rpartition("/")
        return f"{folder}{slash}{image.replace(':', '-')}"

    def read_bytes(self) -> bytes:
        """Return the bytes of the manifest.

        Raises:
            CkptreeError: there is none, or the store does not answer.
        """
        return self.store.get(self.name, manifest.MOST_BYTES)

    def read(self) -> FleetSet:
        """Return the set.

        Raises:
            CkptreeError: there is none, the store does not answer, or it is no manifest.
        """
        return self.parsed(self.read_bytes())

    def parsed(self, data: bytes) -> FleetSet:
        """Read a manifest of this place; an error names the place."""
        try:
            return manifest.loads(data)
        except FormatError as error:
            raise FormatError(f"{self.shown}: {error.path}", error.message) from error

    def signature(self, data: bytes) -> bytes | None:
        """Return the signature of the manifest; None where there is none.

        Args:
            data: the bytes of the manifest.
        """
        for name in (*(() if self.creates else (self._own_signature(data),)), self.name + SIGNATURE):
            if self.store.head(name) is not None:
                return self.store.get(name, _MOST_SIGNATURE)
        return None

    def _own_signature(self, data: bytes) -> str:
        """Return the name of the signature of just these bytes of a manifest."""
        return self.beside(manifest.hash_of(data)) + SIGNATURE

    def image(self, of: HostImage) -> bytes:
        """Return a host's image.

        Raises:
            FormatError: its bytes are others than the manifest says.
            CkptreeError: it is not there, or the store does not answer.
        """
        data = self.store.get(self.beside(of.image))
        if len(data) != of.size or manifest.hash_of(data) != of.image:
            raise FormatError(
                f"{self.shown}: {of.host}", f"the stored image is not the one of the manifest, {of.image}"
            )
        return data

    def present(self) -> FleetSet | None:
        """Return the set; None where there is none of the name."""
        return None if self.store.head(self.name) is None else self.read()

    def write(self, made: FleetSet, images: Mapping[str, bytes], signed: bytes | None = None) -> None:
        """Write a set: images, manifest, signature.

        Args:
            made: the set.
            images: bytes by hash.
            signed: signature of the manifest's bytes; None: it has none.

        Raises:
            SetExistsError: there is another set of the name.
            CkptreeError: the store does not answer, or is full. There is no set then.
        """
        self._put(images)
        data = manifest.dumps(made)
        if signed is not None and not self.creates:
            self.store.put(self._own_signature(data), signed)
        there = self._created(data)
        if there is None:
            if signed is not None:
                self.store.put(self.name + SIGNATURE, signed)
        elif there.id != made.id:
            raise SetExistsError(there.id, self.shown)

    def _put(self, images: Mapping[str, bytes]) -> None:
        """Put the images that are not there, some of them at the same time where there are many."""
        opened_again = self.again
        if opened_again is None or len(images) <= _FEW:
            self._put_into(self.store, images.items())
            return
        pairs = list(images.items())

        def put(first: int) -> None:
            with opened_again() as store:
                self._put_into(store, pairs[first::_AT_ONCE])

        with ThreadPoolExecutor(_AT_ONCE) as threads:
            for _ in threads.map(put, range(_AT_ONCE)):
                pass

    def _put_into(self, store: "ObjectStore", images: Iterable[tuple[str, bytes]]) -> None:
        for image, data in images:
            name = self.beside(image)
            if self.creates:
                with suppress(ExistsError):  # its name is its hash
                    store.create(name, data)
            elif store.head(name) is None:
                store.put(name, data)

    def _created(self, data: bytes) -> FleetSet | None:
        """Write the manifest; return the set that is there already."""
        if not self.creates:
            there = self.present()
            if there is None:
                self.store.put(self.name, data)
                left = self.read_bytes()
                there = None if left == data else self.parsed(left)
            return there
        try:
            self.store.create(self.name, data)
        except ExistsError:
            return self.read()
        return None


class FetchedStore(Closing):
    """Objects that were fetched from a store, to be read.

    Args:
        objects: bytes by name.
    """

    def __init__(self, objects: Mapping[str, bytes]) -> None:
        self.address = ""
        self._objects = objects

    def head(self, name: str) -> Stored | None:
        """Return the size of an object; None where it was not there."""
        return Stored(len(self._objects[name]), None) if name in self._objects else None

    def get(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Return an object."""
        data = self._objects.get(name)
        if data is None:
            raise MissingError(f"there is no object {name}")
        bound(name, len(data), most)
        return data

    def put(self, name: str, data: bytes) -> None:  # noqa: ARG002 - a store has it
        """Refuse."""
        raise StoreError(f"{name}: an object that was fetched is not written")

    create = put

    def close(self) -> None:
        """Close nothing."""


def at(where: "Address", store: "ObjectStore") -> SetPlace:
    """Return the place of a set at an address, in a store that is open."""
    return SetPlace(store, where.name, str(where), where.scheme != "oci")


@contextmanager
def opened(name: str, server: str | None = None) -> Iterator[SetPlace]:
    """Open the place of a set for the time of the block.

    Args:
        name: an address of a store, or the path of a file.
        server: of NATS; None: that of the environment.

    Raises:
        UsageError: it is no address.
        CkptreeError: the store cannot be reached.
    """
    if addresses.is_address(name):
        where = addresses.parse(name)
        with opening.opened(where, server) as store:
            yield at(where, store)._replace(again=lambda: opening.opened(where, server))
        return
    path = Path(name)
    if name in ("", "-") or name.endswith("/") or path.name in ("", ".", ".."):
        raise UsageError(
            f"SET {name!r}: expected nats://BUCKET/NAME, s3://BUCKET/KEY, oci://REGISTRY/REPO:TAG or a file"
        )
    addresses.check_file(name)
    yield SetPlace(FolderStore(path.parent), path.name, name, creates=True)
