# SPDX-License-Identifier: Apache-2.0
"""Reading and writing objects in a process of its own, which is a new interpreter and ends with the errand.

The caller gets no connection, no thread of a library and no credentials that were read; so it can confine itself or
fork. A library with threads does not survive a fork, so the process is not a forked one.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgpack

from agent import interpreter
from agent.errors import CkptreeError, FormatError, HostError, UsageError
from agent.fleet.stores import address as addresses
from agent.fleet.stores.store import MOST_BYTES, MissingError, StoreError

if TYPE_CHECKING:
    from agent.fleet.stores.address import Address
    from agent.fleet.stores.store import ObjectStore

_PROGRAM: Final = "from agent.fleet.stores.errand import main; main()"
_ERRORS: Final[dict[str, type[CkptreeError]]] = {
    each.__name__: each for each in (CkptreeError, StoreError, MissingError, UsageError, HostError)
}


def fetch(place: "Address", server: str | None, optional: Mapping[str, int] | None = None) -> dict[str, bytes]:
    """Read an object, and others that may lie in the same store.

    Args:
        place: address of the object.
        server: of NATS; None: that of the environment.
        optional: names of others, with the bounds of their sizes in bytes.

    Returns:
        The bytes by name; of the others, those that are there.

    Raises:
        CkptreeError: as opening.opened and ObjectStore.get do.
    """
    bounds = {place.name: MOST_BYTES, **(optional or {})}
    return _sent(place, {"get": bounds, "server": server})


def store(place: "Address", server: str | None, objects: Mapping[str, bytes]) -> None:
    """Write objects into one store, one after the other, each in place of one that has the name.

    Args:
        place: address of an object in the store.
        server: of NATS; None: that of the environment.
        objects: bytes by name.

    Raises:
        CkptreeError: as opening.opened and ObjectStore.put do.
    """
    _sent(place, {"put": dict(objects), "server": server})


def store_folder(place: "Address", server: str | None, folder: Path) -> None:
    """Write a folder of files into a store, as `folders.put_named` does.

    Raises:
        CkptreeError: as folders.put_named does.
    """
    _sent(place, {"put_folder": os.fspath(folder.absolute()), "server": server})


def store_hashed_folder(place: "Address", server: str | None, folder: Path) -> str:
    """Write a folder of files into a store, as `folders.put_folder` does; return the hash of its list.

    Args:
        place: an address beside which the list and its pieces go.
        server: of NATS; None: that of the environment.
        folder: it has files alone.

    Raises:
        CkptreeError: as folders.put_folder does.
    """
    found = _sent(place, {"hash_folder": os.fspath(folder.absolute()), "server": server})
    return found["digits"].decode()


def verify_folder(place: "Address", server: str | None) -> str:
    """Read all of a folder in a store, and keep nothing; return the hash of its list.

    Raises:
        CkptreeError: as folders.verify does.
    """
    return _sent(place, {"verify_folder": True, "server": server})["digits"].decode()


def fetch_folder(place: "Address", server: str | None, target: Path) -> None:
    """Read a folder of files from a store, as `folders.get_named` does.

    Raises:
        CkptreeError: as folders.get_named does.
    """
    _sent(place, {"get_folder": os.fspath(target.absolute()), "server": server})


def _sent(place: "Address", errand: dict[str, Any]) -> dict[str, bytes]:
    """Send a process on an errand; return what it has read."""
    ran = subprocess.run(
        interpreter.command(_PROGRAM),
        input=msgpack.packb({"address": str(place), **errand}),
        stdout=subprocess.PIPE,
        check=False,
    )
    found: dict[str, bytes] = found_in(ran.stdout, place, ran.returncode)
    return found


def found_in(data: bytes, place: "Address", code: int | None) -> dict[str, Any]:
    """Return what a process has found on its errand.

    Args:
        data: its answer, from `answer_to`.
        place: where it was.
        code: its exit code.

    Raises:
        CkptreeError: the error in the answer, or there is no answer.
    """
    try:
        answer = msgpack.unpackb(data, max_bin_len=len(data))
        error, found = answer["error"], answer["found"]
    except Exception:  # noqa: BLE001 - msgpack raises exceptions of many kinds
        raise CkptreeError(f"{place}: the process that reaches its store has ended with {code}") from None
    if error is not None:
        kind, *words = error
        raise FormatError(*words) if kind == FormatError.__name__ else _ERRORS.get(kind, CkptreeError)(*words)
    return dict(found)


def answer_to(work: Callable[[], Mapping[str, Any]]) -> bytes:
    """Return the answer of a process that does some work: what the work has found, or its error."""
    answer: dict[str, Any] = {"error": None, "found": {}}
    try:
        answer["found"] = work()
    except FormatError as error:
        answer["error"] = [FormatError.__name__, error.path, error.message]
    except CkptreeError as error:
        named = next(each.__name__ for each in type(error).__mro__ if each.__name__ in _ERRORS)
        answer["error"] = [named, str(error)]
    packed: bytes = msgpack.packb(answer)
    return packed


def main() -> None:
    """Do the errand that standard input holds, and write the answer to standard output."""
    for number in (signal.SIGINT, signal.SIGTERM):  # there is nothing to tidy up
        signal.signal(number, signal.SIG_DFL)
    data = sys.stdin.buffer.read()
    errand = msgpack.unpackb(data, max_bin_len=len(data))
    sys.stdout.buffer.write(answer_to(lambda: _done(addresses.parse(errand["address"]), errand)))
    sys.stdout.buffer.flush()
    os._exit(0)  # threads of a library are not waited for


def _done(place: "Address", errand: dict[str, Any]) -> dict[str, bytes]:
    from agent.fleet.stores import folders, progress
    from agent.fleet.stores.opening import opened

    found: dict[str, bytes] = {}
    with opened(place, errand["server"]) as opened_store:
        if "put_folder" in errand:
            told = progress.reporting(str(place), "stored")
            folders.put_named(opened_store, place.name, Path(errand["put_folder"]), told)
        if "get_folder" in errand:
            told = progress.reporting(str(place), "fetched")
            folders.get_named(opened_store, place.name, Path(errand["get_folder"]), report=told)
        if "hash_folder" in errand:
            prefix = folders.prefix_of(place.name)
            told = progress.reporting(f"the dump for {opened_store.address}", "stored")
            found["digits"] = folders.put_folder(opened_store, Path(errand["hash_folder"]), prefix, told).encode()
        if "verify_folder" in errand:
            found["digits"] = folders.verify(opened_store, place.name, progress.reporting(str(place), "read")).encode()
        for name, data in errand.get("put", {}).items():
            opened_store.put(name, data)
        for name, most in errand.get("get", {}).items():
            data = _read(opened_store, name, most, required=name == place.name)
            if data is not None:
                found[name] = data
    return found


def _read(source: "ObjectStore", name: str, most: int, *, required: bool) -> bytes | None:
    try:
        return source.get(name, most)
    except MissingError:
        if required:
            raise
        return None
