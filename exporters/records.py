# SPDX-License-Identifier: Apache-2.0
"""The records that a checkpoint image is made of, whatever is in them.

    record = u32 type, u32 len, body

``len`` counts its own eight bytes, nothing pads a record, and all is little endian. `Cursor` walks over them: it
believes a length only where the bytes are there, so that no file, however made, costs more than its own size.
"""

import struct

from agent.errors import FormatError

HEADER, ARCH, CONTAINER, BUFFER, LSM_INFO = 1, 2, 3, 4, 7
PIDS, TREE, EXTENSION, TAIL, ERROR = 101, 102, 8101, 9001, 9999

HEAD_BYTES = 8
"""What each record begins with: its type and its length."""

_HEAD = struct.Struct("<II")
_ERROR_TEXT_BYTES = 200
_OLD_TREE_LEN = 16

_NAMES = {
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


def record(kind: int, body: bytes) -> bytes:
    """One whole record."""
    return _HEAD.pack(kind, HEAD_BYTES + len(body)) + body


class Cursor:
    """The place in the file, and the records from there on. Lengths are believed only where the bytes are there."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    @property
    def left(self) -> int:
        """Bytes from here to the end of the file."""
        return len(self._data) - self.at

    def ahead(self, skip: int, size: int) -> bytes:
        """Bytes further on, fewer where the file ends; nothing is taken."""
        return self._data[self.at + skip : self.at + skip + size]

    def next(self, wanted: int = TAIL) -> int:
        """Type of the next record; `wanted` is what to call it where there is none."""
        if len(self._data) - self.at < HEAD_BYTES:
            raise FormatError("file", f"ends where {_name(wanted)} should begin", self.at)
        kind: int = _HEAD.unpack_from(self._data, self.at)[0]
        return kind

    def record(self, wanted: int, size: int | None = None, limit: int | None = None) -> tuple[int, bytes]:
        """Take the next record: where it is, and its body, which must be `size` long, or at most `limit`."""
        start, name = self.at, _name(wanted)
        kind = self.next(wanted)
        if kind == ERROR and wanted != ERROR:
            raise self.gave_up()
        if kind != wanted:
            raise FormatError(name, f"expected here, not {_name(kind)}", start)
        length: int = _HEAD.unpack_from(self._data, start)[1]
        if length < HEAD_BYTES:
            raise FormatError(f"{name}.len", f"is {length}, but the record's own head takes {HEAD_BYTES}", start + 4)
        if size is not None and length != HEAD_BYTES + size:
            text = f"is {length} and must be {HEAD_BYTES + size}"
            if (wanted, length) == (PIDS, _OLD_TREE_LEN):
                text = (
                    "is 16: this image is older than pids objects (its record 101 is the tree, of bare pid numbers) "
                    "and cannot be read; images with pids objects have 24 here"
                )
            raise FormatError(f"{name}.len", text, start + 4)
        if limit is not None and length > HEAD_BYTES + limit:
            raise FormatError(f"{name}.len", f"is {length} and may be {HEAD_BYTES + limit} at most", start + 4)
        left = len(self._data) - start
        if length > left:
            raise FormatError(f"{name}.len", f"is {length}, but the file ends after {left}", start + 4)
        self.at = start + length
        return start, self._data[start + HEAD_BYTES : self.at]

    def gave_up(self) -> FormatError:
        """The error for an ERROR record: the writer failed and says why in the string that follows."""
        start = self.at
        self.record(ERROR)
        # The text is for people, so whatever is there will do.
        raw = self.ahead(HEAD_BYTES, _ERROR_TEXT_BYTES).partition(b"\0")[0]
        text = raw.decode("utf-8", "backslashreplace")
        return FormatError("ERROR", f"the checkpoint failed when it was written: {text!r}", start)


def _name(kind: int) -> str:
    return _NAMES.get(kind, f"a record of type {kind}")
