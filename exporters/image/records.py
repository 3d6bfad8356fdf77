# SPDX-License-Identifier: Apache-2.0
"""The framing of a checkpoint image: typed records, one behind the other.

    record = u32 type, u32 len, body

``len`` counts its own eight bytes. Nothing pads a record, and all numbers are little endian. A reader believes a length
only if the file has the bytes, so no file costs more than its own size.
"""

import struct

from exporters.content.findings import Finding

HEADER, ARCH, CONTAINER, BUFFER, LSM_INFO = 1, 2, 3, 4, 7
PIDS, TREE, EXTENSION, TAIL, ERROR = 101, 102, 8101, 9001, 9999

HEAD_BYTES = 8
"""Size in bytes of the head of each record: its type and its length."""

HEAD_MAGIC = 0x00FEED0CC0A2D200
"""The first eight bytes behind the head of an image's first record, HEADER."""

_HEAD = struct.Struct("<II")
_ERROR_TEXT_BYTES = 200
_OLD_TREE_LEN = 16

NAMES = {
    HEADER: "HEADER",
    ARCH: "ARCH",
    CONTAINER: "CONTAINER",
    BUFFER: "BUFFER",
    LSM_INFO: "LSM_INFO",
    PIDS: "PIDS",
    TREE: "TREE",
    EXTENSION: "EXTENSION",
    TAIL: "TAIL",
    ERROR: "ERROR",
}
"""The name of each record type."""


def head(kind: int, length: int) -> bytes:
    """Return the head of a record with a body of `length` bytes."""
    return _HEAD.pack(kind, HEAD_BYTES + length)


def record(kind: int, body: bytes) -> bytes:
    """Return a whole record."""
    return head(kind, len(body)) + body


class Cursor:
    """A place in the file, from which records are read one by one.

    Faults go to `report`. This cursor raises at the first error; one that goes on (exporters.image.framing) lets the
    same reading find all of them. A reader must therefore go on sensibly after a report, and after a body that has not
    the requested size. `record` itself reports a record that cannot be taken.

    Attributes:
        at: byte offset of the next record.
        whole: True if the last record was there with all its bytes; always True for a cursor that stops at errors.
        notes: messages of the warnings so far.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0
        self.whole = True
        self.notes: list[str] = []

    @property
    def left(self) -> int:
        """Bytes from here to the end of the file."""
        return len(self._data) - self.at

    def ahead(self, skip: int, size: int) -> bytes:
        """Return `size` bytes from `skip` bytes further on, fewer at the end of the file; take nothing."""
        return self._data[self.at + skip : self.at + skip + size]

    def report(self, found: Finding) -> None:
        """Note a finding; raise FormatError if it is an error."""
        if found.severity == "error":
            raise found.error()
        self.notes.append(f"{found.path} {found.message}")

    def next(self, wanted: int = TAIL) -> int:
        """Return the type of the next record; `wanted` names the missing one in the error at the end of the file."""
        found = self._end(wanted)
        if found:
            raise found.error()
        return self._head()[0]

    def record(self, wanted: int, size: int | None = None, limit: int | None = None) -> tuple[int, bytes]:
        """Take the next record; return its offset and its body of exactly `size` or at most `limit` bytes."""
        found = self._obstacle(wanted, size, limit)
        if found:
            raise found.error()
        return self._take()

    def _take(self) -> tuple[int, bytes]:
        start = self.at
        self.at = start + self._head()[1]
        return start, self._data[start + HEAD_BYTES : self.at]

    def _head(self) -> tuple[int, int]:
        """Return the type and the length of the next record."""
        kind, length = _HEAD.unpack_from(self._data, self.at)
        return kind, length

    def _end(self, wanted: int) -> Finding | None:
        if self.left < HEAD_BYTES:
            return Finding("truncated", "file", f"ends where {_name(wanted)} should begin", self.at)
        return None

    def _obstacle(self, wanted: int, size: int | None, limit: int | None) -> Finding | None:
        """Return the finding that prevents the next record from being the wanted one; None if it is."""
        end = self._end(wanted)
        if end:
            return end
        name = _name(wanted)
        kind, length = self._head()
        if kind == ERROR and wanted != ERROR:
            return self._gave_up()
        if kind != wanted:
            return Finding("unexpected-record", name, f"expected here, not {_name(kind)}", self.at)
        length_at = self.at + 4
        if length < HEAD_BYTES:
            text = f"is {length}, but the record's own head takes {HEAD_BYTES}"
            return Finding("record-head", f"{name}.len", text, length_at)
        if (kind, length) == (PIDS, _OLD_TREE_LEN) and size is not None:
            text = (
                "is 16: this image is older than pids objects (its record 101 is the tree, of bare pid numbers) "
                "and cannot be read; images with pids objects have 24 here"
            )
            return Finding("pre-patch-image", f"{name}.len", text, length_at)
        if size is not None and length != HEAD_BYTES + size:
            text = f"is {length} and must be {HEAD_BYTES + size}"
            return Finding("record-length", f"{name}.len", text, length_at)
        if limit is not None and length > HEAD_BYTES + limit:
            text = f"is {length} and may be {HEAD_BYTES + limit} at most"
            return Finding("record-length", f"{name}.len", text, length_at)
        if length > self.left:
            text = f"is {length}, but the file is cut short, at byte {len(self._data)}: {self.left} bytes are there"
            return Finding("truncated", f"{name}.len", text, length_at)
        return None

    def _gave_up(self) -> Finding:
        """Return the finding for an ERROR record, with the writer's reason from the string that follows."""
        wrong = self._obstacle(ERROR, None, None)
        if wrong:
            return wrong
        # The text is only shown, so its bytes are not validated.
        raw = self.ahead(self._head()[1] + HEAD_BYTES, _ERROR_TEXT_BYTES).partition(b"\0")[0]
        text = f"the checkpoint failed when it was written: {raw.decode('utf-8', 'backslashreplace')!r}"
        return Finding("writer-failed", "ERROR", text, self.at)


def _name(kind: int) -> str:
    return NAMES.get(kind, f"a record of type {kind}")
