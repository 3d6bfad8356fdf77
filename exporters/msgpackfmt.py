# SPDX-License-Identifier: Apache-2.0
"""Snapshot <-> msgpack: the document (exporters.document) as one map and nothing behind it.

    file = map; the keys of every map are sorted

The keys and what they mean are those of JSON. But msgpack has bytes, so comm, argv, cwd and env are bytes, as the
kernel has them, and not their text; the reader takes the text too. Sorted, the same snapshot is the same file, whoever
writes it. The reader takes the keys in any order.
"""

from agent.model import Snapshot
from exporters.document import from_document, to_document
from exporters.packed import pack, unpack


def dumps(snapshot: Snapshot) -> bytes:
    """The msgpack of a snapshot."""
    return pack({key: _sorted_rows(value) for key, value in sorted(to_document(snapshot).items())})


def loads(data: bytes) -> Snapshot:
    """The snapshot of a msgpack document; FormatError for anything else."""
    return from_document(unpack(data, "document"))


def _sorted_rows(value: object) -> object:
    """A list of maps with the keys of each in order; below that they are, and so is what is no such list."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [dict(sorted(row.items())) for row in value]
    return value
