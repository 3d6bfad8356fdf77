# SPDX-License-Identifier: Apache-2.0
"""The manifest of a set: which hosts' images belong together, and how far apart in time they are.

A manifest has names and hashes and no image, so that it is small. An image stands in the same store under its hash: a
reader of the manifest knows which bytes to expect. docs/ckptree-set.schema.json is the schema of the document,
and docs/fleet.md explains it. The bytes of a manifest are always the same for the same set: they can be signed.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agent import foreignjson
from agent.errors import FormatError
from agent.fleet.clocks import Offset
from agent.record import NamedTuple

FORMAT: Final = "ckptree-set"
VERSION: Final = 1
_SINGLE: Final = "`ckptree show` reads a single image"
MOST_BYTES: Final = 16 << 20
"""Bound of a manifest: 1000 hosts take 0.5 MB."""
_LEAST: Final = -(1 << 63)  # of times and counts
HASH: Final = re.compile(r"sha256:[0-9a-f]{64}")
"""The hash of an image or of a list of contents, as a manifest has it."""


def hash_of(data: bytes) -> str:
    """Return the hash under which an image is stored: ``sha256:`` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class HostContents(NamedTuple):
    """The contents of the programs of a host's tree: a folder of CRIU's images in a store.

    Attributes:
        store: where the folder is, as folders.list_address takes it.
        listed: hash of the list of its files, from `hash_of`: it covers every byte of them.
        size: of all files, bytes.
    """

    store: str
    listed: str
    size: int

    @property
    def digits(self) -> str:
        """The hash of the list, hexadecimal."""
        return self.listed.removeprefix("sha256:")


@dataclass(frozen=True, slots=True)
class HostImage:
    """A host's part of a set.

    Attributes:
        host: its name.
        root: the ROOT that was asked for there.
        image: hash of the image, from `hash_of`.
        size: of the image, bytes.
        tasks: count of tasks in it.
        before_ns, after_ns: the image is true at an instant between them, by the host's CLOCK_REALTIME.
        clock: offset of that clock.
        complete: False where the image is incomplete, for the `reasons`.
        reasons: for people.
        boot_id, kernel, version: of the host, and of its ckptree.
        contents: of the programs; None: the set has the tree alone. The image is the tree.ckpt among them then.
    """

    host: str
    root: str
    image: str
    size: int
    tasks: int
    before_ns: int
    after_ns: int
    clock: Offset
    complete: bool
    reasons: tuple[str, ...] = ()
    boot_id: str = ""
    kernel: str = ""
    version: str = ""
    contents: HostContents | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """A host that was expected and is not in the set.

    Attributes:
        host: its name.
        reason: for people.
    """

    host: str
    reason: str


@dataclass(frozen=True, slots=True)
class FleetSet:
    """A set: images of several hosts that were taken for one request.

    Attributes:
        id: of the request.
        at_ns: the instant at which all were to be taken, by the requester's CLOCK_REALTIME.
        hosts: those that are there, by name.
        missing: those that are not, by name.
        job: the job whose hosts these are, as ``slurm:7.0``; empty for none.
    """

    id: str
    at_ns: int
    hosts: tuple[HostImage, ...]
    missing: tuple[Missing, ...] = ()
    job: str = ""

    @property
    def skew_ns(self) -> int:
        """The longest time between the instants of two images, nanoseconds; bounds of the clocks are counted in."""
        if not self.hosts:
            return 0
        first = min(each.clock.here(each.before_ns) - each.clock.bound_ns for each in self.hosts)
        last = max(each.clock.here(each.after_ns) + each.clock.bound_ns for each in self.hosts)
        return max(0, last - first)

    @property
    def complete(self) -> bool:
        """True where no host is missing, and each image is complete."""
        return not self.missing and all(each.complete for each in self.hosts)


def dumps(made: FleetSet) -> bytes:
    """Return a set's manifest."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "id": made.id,
        "at_ns": made.at_ns,
        "skew_ns": made.skew_ns,
        "job": made.job or None,
        "hosts": [_host(each) for each in made.hosts],
        "missing": [{"host": each.host, "reason": each.reason} for each in made.missing],
    }
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _host(each: HostImage) -> dict[str, Any]:
    contents = {} if each.contents is None else {"contents": contents_document(each.contents)}
    return contents | {
        "host": each.host,
        "root": each.root,
        "image": each.image,
        "bytes": each.size,
        "tasks": each.tasks,
        "before_ns": each.before_ns,
        "after_ns": each.after_ns,
        "clock_offset_ns": each.clock.ns,
        "clock_bound_ns": each.clock.bound_ns,
        "complete": each.complete,
        "reasons": list(each.reasons),
        "boot_id": each.boot_id,
        "kernel": each.kernel,
        "ckptree": each.version,
    }


def contents_document(of: HostContents) -> dict[str, Any]:
    """Return contents as the manifest has them."""
    return {"store": of.store, "list": of.listed, "bytes": of.size}


def read_contents(document: object, path: str) -> HostContents | None:
    """Read contents of a manifest; None for none.

    Raises:
        FormatError: they make no sense.
    """
    if document is None:
        return None
    listed = _text(document, "list", path)
    if not HASH.fullmatch(listed):
        raise FormatError(f"{path}.list", "expected sha256: and 64 hexadecimal digits")
    return HostContents(_text(document, "store", path), listed, _number(document, "bytes", path))


def loads(data: bytes) -> FleetSet:
    """Read a manifest. Keys that are not known here are passed over.

    Raises:
        FormatError: it is none, or of another version.
    """
    try:
        document = foreignjson.loads(data)
    except UnicodeDecodeError:
        raise FormatError("set", f"it is no JSON (its bytes are no text), and no set: {_SINGLE}") from None
    except ValueError as error:
        why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise FormatError("set", f"it is no JSON ({why}), and no set: {_SINGLE}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise FormatError("set.format", f"expected {FORMAT}: this is no set of images: {_SINGLE}")
    if document.get("version") != VERSION:
        raise FormatError("set.version", f"expected {VERSION}: it is of another version of ckptree")
    hosts = tuple(_read_host(each, f"set.hosts[{at}]") for at, each in enumerate(_list(document, "hosts", "set")))
    missing = tuple(
        Missing(_text(each, "host", f"set.missing[{at}]"), _text(each, "reason", f"set.missing[{at}]"))
        for at, each in enumerate(_list(document, "missing", "set"))
    )
    if len({each.host for each in hosts}) != len(hosts):
        raise FormatError("set.hosts", "a host is there twice")
    job = document.get("job")
    return FleetSet(
        _text(document, "id", "set"),
        _number(document, "at_ns", "set"),
        hosts,
        missing,
        job if isinstance(job, str) else "",
    )


def _read_host(each: object, path: str) -> HostImage:
    image = _text(each, "image", path)
    if not HASH.fullmatch(image):
        raise FormatError(f"{path}.image", "expected sha256: and 64 hexadecimal digits")
    complete = _value(each, "complete", path)
    if not isinstance(complete, bool):
        raise FormatError(f"{path}.complete", "expected true or false")
    return HostImage(
        host=_text(each, "host", path),
        root=_text(each, "root", path),
        image=image,
        size=_number(each, "bytes", path),
        tasks=_number(each, "tasks", path),
        before_ns=_number(each, "before_ns", path),
        after_ns=_number(each, "after_ns", path),
        clock=Offset(_number(each, "clock_offset_ns", path), _number(each, "clock_bound_ns", path)),
        complete=complete,
        reasons=tuple(str(reason) for reason in _list(each, "reasons", path)),
        boot_id=_text(each, "boot_id", path),
        kernel=_text(each, "kernel", path),
        version=_text(each, "ckptree", path),
        contents=read_contents(each.get("contents") if isinstance(each, dict) else None, f"{path}.contents"),
    )


def _value(document: object, key: str, path: str) -> object:
    if not isinstance(document, dict):
        raise FormatError(path, "expected a map")
    if key not in document:
        raise FormatError(f"{path}.{key}", "it is missing")
    found: object = document[key]
    return found


def _text(document: object, key: str, path: str) -> str:
    found = _value(document, key, path)
    if not isinstance(found, str):
        raise FormatError(f"{path}.{key}", "expected a text")
    return found


def _number(document: object, key: str, path: str) -> int:
    found = _value(document, key, path)
    if not isinstance(found, int) or isinstance(found, bool):
        raise FormatError(f"{path}.{key}", "expected an integer")
    if not _LEAST <= found < -_LEAST:
        raise FormatError(f"{path}.{key}", "expected an integer of 64 bits")
    return found


def _list(document: object, key: str, path: str) -> Sequence[object]:
    found = _value(document, key, path)
    if not isinstance(found, list):
        raise FormatError(f"{path}.{key}", "expected a list")
    return found
