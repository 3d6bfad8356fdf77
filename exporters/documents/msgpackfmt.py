# SPDX-License-Identifier: Apache-2.0
"""Snapshot <-> msgpack: the document (exporters.documents.document) as one map without anything behind it.

    file = map; the keys of every map are sorted

The keys and their meaning are those of JSON. msgpack has bytes, so comm, argv, cwd and env are the kernel's bytes and
not their text; the reader takes the text too. Sorted keys give equal snapshots equal files. The reader takes the keys
in any order.
"""

from agent.model import Snapshot
from exporters.documents.document import from_document, to_document
from exporters.image.packed import pack, unpack


def dumps(snapshot: Snapshot) -> bytes:
    """Return the msgpack of a snapshot."""
    return pack({key: _sorted_rows(value) for key, value in sorted(to_document(snapshot).items())})


def loads(data: bytes) -> Snapshot:
    """Return the snapshot of a msgpack document; FormatError for any other bytes."""
    return from_document(unpack(data, "document"))


def _sorted_rows(value: object) -> object:
    """Sort the keys of each map in a list of maps; return any other value as it is. Deeper maps are sorted already."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [dict(sorted(row.items())) for row in value]
    return value
