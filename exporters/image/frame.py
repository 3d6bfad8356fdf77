# SPDX-License-Identifier: Apache-2.0
"""An image but for the few bytes that differ between two snapshots of an unchanged tree: times and completeness.

All other bytes are made, and summed for the checksum, once. `Frame.image` puts the rest between them.
"""

import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

import msgpack

from agent.model import Dialect, Header, Snapshot
from exporters.content.facts import Document, completeness_facts, facts
from exporters.content.hostmap import header_fields
from exporters.content.unknown import Unknown, put
from exporters.image.checksum import Summed
from exporters.image.head import NS_PER_S, SECONDS, as_said, write_around_time
from exporters.image.packed import pack, pack_map_head, pack_pairs
from exporters.image.reading import (
    EXTENSION_HEAD,
    EXTENSION_VERSION,
    PIDS_BODY,
    TAIL_BODY,
    TAIL_MAGIC,
    TREE_BODY,
)
from exporters.image.records import BUFFER, EXTENSION, PIDS, TAIL, TREE, head, record

_PACK: Final[Callable[[object], bytes]] = msgpack.Packer().pack  # one for all: to make one takes longer than to pack
_VARYING: Final = ("boottime_ns", "completeness", "time_ns")  # keys of the facts, in their order there


class Frame:
    """The bytes of one tree's image that do not depend on when a snapshot was taken.

    Args:
        snapshot: of the tree.
        dialect: as in model.Snapshot.
        base: the packed pid objects and tasks of the base.
        rows: the packed lists of the extension, by their keys there.
    """

    def __init__(
        self, snapshot: Snapshot, dialect: Dialect, base: tuple[bytes, bytes], rows: Mapping[str, bytes]
    ) -> None:
        self._of = _fixed(snapshot)
        pids, tasks = base
        count, first = len(snapshot.pids), snapshot.first_tag
        nested = (len(pids) - 8 * count) // 4
        self._before_time, behind = write_around_time(snapshot.header, snapshot.mode)
        offset = first if dialect == "v23" else first - 1
        self._base = (
            b"".join([behind, record(PIDS, PIDS_BODY.pack(count, nested, offset, 0)), head(BUFFER, len(pids))]),
            pids,
            record(TREE, TREE_BODY.pack(len(snapshot.tasks), 0)) + head(BUFFER, len(tasks)),
            tasks,
        )
        before_boottime, before_done, before_time, rest = _runs(snapshot, rows)
        self._begin = b"".join(before_boottime)
        self._sum = zlib.crc32(self._begin)
        self._before_done = b"".join(before_done)
        self._before_last = before_time
        self._summed = Summed(before_time)
        self._rest = b"".join(rest)
        self._length = EXTENSION_HEAD.size + sum(
            map(len, (self._begin, self._before_done, *self._before_last, self._rest))
        )
        self._unknown = unknown_below(snapshot, "completeness")
        self._tail = record(TAIL, TAIL_BODY.pack(TAIL_MAGIC))

    def fits(self, snapshot: Snapshot) -> bool:
        """Return True if a snapshot with the same rows has an image with these bytes."""
        return self._of == _fixed(snapshot)

    def image(self, snapshot: Snapshot) -> bytes:
        """Return the image of a snapshot that fits."""
        time_ns, done = snapshot.time_ns, snapshot.completeness
        known = completeness_facts(done)
        if self._unknown:
            put({"completeness": known}, self._unknown)
        try:
            packed_done = _PACK(known)
        except UnicodeEncodeError:  # a reason has a foreign byte
            packed_done = pack(known)
        proof = _PACK(snapshot.boottime_ns) + self._before_done + packed_done
        time = _PACK(time_ns)
        checksum = self._summed.added(zlib.crc32(proof, self._sum))
        checksum = zlib.crc32(self._rest, zlib.crc32(time, checksum))
        return b"".join(  # one copy: the parts of a large tree are megabytes
            (
                *(self._before_time, SECONDS.pack(time_ns // NS_PER_S), *self._base),
                head(EXTENSION, self._length + len(proof) - len(self._before_done) + len(time)),
                EXTENSION_HEAD.pack(EXTENSION_VERSION, checksum),
                *(self._begin, proof, *self._before_last, time, self._rest, self._tail),
            )
        )


def unknown_below(snapshot: Snapshot, *keys: str) -> Unknown:
    """Return the unknown keys of a snapshot in the maps below these keys of its facts."""
    return {way: values for way, values in snapshot.unknown.items() if way and way[0] in keys}


def _fixed(snapshot: Snapshot) -> tuple[object, ...]:
    """Return all that a frame depends on but the rows; between two snapshots of one selection these are the same
    objects.
    """
    return (
        snapshot.ancestors,
        snapshot.as_of_read,
        snapshot.at,
        snapshot.boot_id,
        snapshot.entered,
        snapshot.first_tag,
        snapshot.header,
        snapshot.mode,
        snapshot.namespaces,
        snapshot.not_rebuildable,
        snapshot.squashed,
    )


def _runs(snapshot: Snapshot, rows: Mapping[str, bytes]) -> list[list[bytes]]:
    """Return the map of all facts, keys sorted, in pieces: up to each of the values that vary, and the rest."""
    known = facts(snapshot, of_pids=False) | {"header": dict(_unsaid(snapshot.header)), "tasks": ()}
    apart = (*rows, "completeness")
    put(known, {way: keys for way, keys in snapshot.unknown.items() if not way or way[0] not in apart})
    runs: list[list[bytes]] = [[pack_map_head(len(known))]]
    short: list[tuple[str, object]] = []
    for key in sorted(known):
        if key in rows or key in _VARYING:
            runs[-1].append(pack_pairs(short) + pack(key))
            short = []
            if key in rows:
                runs[-1].append(rows[key])
            else:
                runs.append([])
        else:
            short.append((key, known[key]))
    runs[-1].append(pack_pairs(short))
    return runs


@lru_cache(maxsize=4)  # a daemon captures the same host again and again
def _unsaid(header: Header) -> Document:
    """Return the header fields that the head's records cannot hold."""
    said = header_fields(as_said(header))
    return {key: value for key, value in header_fields(header).items() if value != said.get(key)}
