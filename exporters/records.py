# SPDX-License-Identifier: Apache-2.0
"""The records that a checkpoint image is made of, whatever is in them.

    record = u32 type, u32 len, body

``len`` counts its own eight bytes, nothing pads a record, and all is little endian. `Cursor` walks over them: it
believes a length only where the bytes are there, so that no file, however made, costs more than its own size.
"""

import struct

from exporters.findings import Finding

HEADER, ARCH, CONTAINER, BUFFER, LSM_INFO = 1, 2, 3, 4, 7
PIDS, TREE, EXTENSION, TAIL, ERROR = 101, 102, 8101, 9001, 9999

HEAD_BYTES = 8
"""What each record begins with: its type and its length."""

HEAD_MAGIC = 0x00FEED0CC0A2D200
"""What follows in the first record of an image, HEADER."""

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
"""What each type is called."""


def head(kind: int, length: int) -> bytes:
    """The head of a record with a body of so many bytes."""
    return _HEAD.pack(kind, HEAD_BYTES + length)


def record(kind: int, body: bytes) -> bytes:
    """One whole record."""
    return head(kind, len(body)) + body


class Cursor:
    """The place in the file, and the records from there on. Lengths are believed only where the bytes are there.

    What is wrong goes to `report`. This cursor stops at the first error; one that goes on (exporters.framing) lets the
    same reading find all of them. Who reads must therefore go on sensibly after a report, and after a body that is not
    of the size it asked for; where it can't, the report comes from `record`, and this is the cursor's to solve.

    Attributes:
        at: where the next record begins.
        whole: the last record was there, with all its bytes; always so where a cursor stops at errors.
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
        """Bytes further on, fewer where the file ends; nothing is taken."""
        return self._data[self.at + skip : self.at + skip + size]

    def report(self, found: Finding) -> None:
        """Take note of a finding; raises FormatError where it is an error."""
        if found.severity == "error":
            raise found.error()
        self.notes.append(f"{found.path} {found.message}")

    def next(self, wanted: int = TAIL) -> int:
        """Type of the next record; `wanted` is what to call it where there is none."""
        found = self._end(wanted)
        if found:
            raise found.error()
        return self._head()[0]

    def record(self, wanted: int, size: int | None = None, limit: int | None = None) -> tuple[int, bytes]:
        """Take the next record: where it is, and its body, which must be `size` long, or at most `limit`."""
        found = self._obstacle(wanted, size, limit)
        if found:
            raise found.error()
        return self._take()

    def _take(self) -> tuple[int, bytes]:
        start = self.at
        self.at = start + self._head()[1]
        return start, self._data[start + HEAD_BYTES : self.at]

    def _head(self) -> tuple[int, int]:
        """Type and length of the next record."""
        kind, length = _HEAD.unpack_from(self._data, self.at)
        return kind, length

    def _end(self, wanted: int) -> Finding | None:
        if self.left < HEAD_BYTES:
            return Finding("truncated", "file", f"ends where {_name(wanted)} should begin", self.at)
        return None

    def _obstacle(self, wanted: int, size: int | None, limit: int | None) -> Finding | None:
        """Why the next record can't be taken as what is wanted."""
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
            text = f"is {length}, but the file ends after {self.left}"
            return Finding("truncated", f"{name}.len", text, length_at)
        return None

    def _gave_up(self) -> Finding:
        """An ERROR record: the writer failed and says why in the string that follows."""
        wrong = self._obstacle(ERROR, None, None)
        if wrong:
            return wrong
        # The text is for people, so whatever is there will do.
        raw = self.ahead(self._head()[1] + HEAD_BYTES, _ERROR_TEXT_BYTES).partition(b"\0")[0]
        text = f"the checkpoint failed when it was written: {raw.decode('utf-8', 'backslashreplace')!r}"
        return Finding("writer-failed", "ERROR", text, self.at)


def _name(kind: int) -> str:
    return NAMES.get(kind, f"a record of type {kind}")
