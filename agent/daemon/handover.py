# SPDX-License-Identifier: Apache-2.0
"""The handover from one daemon to the next, through the service manager's store: the kernel side, and the memory.

The daemon stores, each under its own name: every descriptor of the kernel side, right after loading, so that they
survive a crash; then a *manifest*, with the identities of the descriptors and the arguments of the loading; and, at an
orderly end, the *memory* (agent.capture.memorywriter). A missing manifest means that some descriptors are missing too.

The next daemon takes the descriptors if it would load the same, and if every one is the object that the manifest names.
Otherwise it closes all of them, and the manager drops them too: no program of another edition stays attached.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

from agent.capture.loading import Loaded
from agent.daemon.servicemanager import Manager
from agent.errors import CkptreeError
from agent.record import NamedTuple
from bpf import syscall
from bpf.edition import edition

_PREFIX = "ckptree/"
_MANIFEST = _PREFIX + "manifest"
_MEMORY = _PREFIX + "memory"
_MAX_BYTES = 1 << 30  # the memory of four million tasks, a kernel's maximum, takes less
_SETTLE_S = 5.0


class UnfitError(CkptreeError):
    """A stored kernel side, or memory, that this daemon cannot use."""


class Order(NamedTuple):
    """The arguments with which the kernel side is loaded.

    Attributes:
        programs: the edition of the programs.
        ring_bytes, without: as in Probes.
    """

    programs: str
    ring_bytes: int
    without: tuple[str, ...]


class Inheritance(NamedTuple):
    """The kernel side and the memory of the last daemon.

    Attributes:
        loaded: the kernel side; None: none was stored, or it is of no use.
        memory: of its watch; None after a crash.
        refusal: the reason why the stored kernel side is of no use; empty where none was stored, or it is used.
    """

    loaded: Loaded | None = None
    memory: bytes | None = None
    refusal: str = ""


def order(ring_bytes: int, without: Sequence[str] = ()) -> Order:
    """Return the arguments with which this daemon would load the kernel side."""
    return Order(edition(), ring_bytes, tuple(without))


def leave(manager: Manager, loaded: Loaded, by: Order) -> None:
    """Store the kernel side with the manager."""
    if not manager.listens:
        return
    for name, descriptor in loaded.descriptors.items():
        if not manager.store(_stored_as(name), descriptor):
            return  # without a manifest the next daemon closes the descriptors stored so far
    identities = {name: syscall.identity(descriptor) for name, descriptor in loaded.descriptors.items()}
    said = {"hooks": loaded.hooks, "tried": loaded.tried, "missing": loaded.missing}
    _store(manager, _MANIFEST, json.dumps({"order": by, "descriptors": identities, **said}).encode())


def leave_memory(manager: Manager, memory: bytes) -> bool:
    """Store a memory with the manager; return True if the manager has confirmed it."""
    return _store(manager, _MEMORY, memory) and manager.settle(_SETTLE_S)


def forget_memory(manager: Manager) -> None:
    """Drop the stored memory: it has been read, and the ring has moved on."""
    manager.forget(_MEMORY)


def take(manager: Manager, by: Order) -> Inheritance:
    """Return the kernel side and memory of the last daemon, where this daemon can use them."""
    left = [(name, descriptor) for name, descriptor in manager.passed.stored if name.startswith(_PREFIX)]
    if not left:
        return Inheritance()
    try:
        return _taken(left, by)
    except UnfitError as error:
        for name, descriptor in left:
            os.close(descriptor)
            manager.forget(name)
        return Inheritance(refusal=str(error))


def _taken(left: list[tuple[str, int]], by: Order) -> Inheritance:
    found = dict(left)
    if len(found) < len(left):
        raise UnfitError("some names came twice")
    manifest = found.pop(_MANIFEST, None)
    memory = found.pop(_MEMORY, None)
    if manifest is None:
        raise UnfitError("it is not all there")
    document = _document(_read(manifest))
    _compare(document["order"], by)
    named: dict[str, int] = {}
    for name, identity in document["descriptors"].items():
        descriptor = found.pop(_stored_as(name), None)
        if descriptor is None:
            raise UnfitError(f"the manager has not kept all of it: {name} is missing")
        if syscall.identity(descriptor) != identity:
            raise UnfitError(f"{name} is another one: {syscall.identity(descriptor)} instead of {identity}")
        named[name] = descriptor
    if found:
        raise UnfitError(f"there is more than there should be: {', '.join(found)}")
    loaded = Loaded(named, document["hooks"], document["tried"], document["missing"])
    data = None if memory is None else _read(memory)
    for descriptor in (manifest, memory):
        if descriptor is not None:
            os.close(descriptor)
    return Inheritance(loaded, data)


def _compare(left: Any, by: Order) -> None:
    if not isinstance(left, list) or len(left) != len(by):
        raise UnfitError("its manifest is of another version")
    programs, ring_bytes, without = left
    if programs != by.programs:
        raise UnfitError("it is of another version of ckptree")
    if ring_bytes != by.ring_bytes:
        raise UnfitError(f"its ring has {ring_bytes} bytes, and {by.ring_bytes} are configured")
    if without != list(by.without):
        raise UnfitError("it was loaded with other features")


def _document(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
        if {"order", "descriptors", "hooks", "tried", "missing"} <= document.keys() and isinstance(
            document["descriptors"], dict
        ):
            return dict(document)
    except (ValueError, AttributeError) as error:
        raise UnfitError(f"its manifest cannot be read: {error}") from error
    raise UnfitError("its manifest is of another version")


def _stored_as(name: str) -> str:
    """Return the name in the store, which must have no colon."""
    return _PREFIX + name.replace(":", "/")


def _store(manager: Manager, name: str, data: bytes) -> bool:
    descriptor = os.memfd_create(name)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as out:
            out.write(data)
        return manager.store(name, descriptor)
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> bytes:
    """Read a file in memory; return no bytes where it is too large, or no such file."""
    try:
        size = os.fstat(descriptor).st_size
        return os.pread(descriptor, size, 0) if size <= _MAX_BYTES else b""
    except OSError:
        return b""
