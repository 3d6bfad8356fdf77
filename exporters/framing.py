# SPDX-License-Identifier: Apache-2.0
"""The cursor that goes on: every finding of one pass over an image, where the plain one stops at the first.

What it does about a record that can't be taken as what is wanted:

    the file ends               it is noted once; what is there of the body counts, and all later records are empty
    another type                what is wanted follows before anything that is due later: this is in the way, and is
                                passed over; else what is wanted is missing: it is read as empty, and nothing is taken
    a wrong length              the record is taken as it is
    framing lost                (a length below 8, bytes of another machine, an older format, a writer that failed)
                                nothing behind this place means anything: all later records are empty

A body that is not of the size asked for is the reader's cue to say nothing about what is in it. Every byte is taken at
most once, and each of the grammar's dozen records is looked for at most once, so the cost is that of the file's size.
"""

from collections import Counter
from dataclasses import replace

from exporters.findings import Finding
from exporters.records import ARCH, CONTAINER, EXTENSION, HEAD_BYTES, HEADER, LSM_INFO, PIDS, TAIL, TREE, Cursor

# When each record is due. BUFFERs stand between all of them.
_DUE = {kind: n for n, kind in enumerate((HEADER, ARCH, CONTAINER, LSM_INFO, PIDS, TREE, EXTENSION, TAIL))}

_LOST = ("record-head", "big-endian", "pre-patch-image", "writer-failed")


LISTED = 10_000
"""Findings of one rule that are kept: a file of a hundred million wrong rows has as many."""


class Collector(Cursor):
    """A cursor that raises nothing."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._found: dict[tuple[str, int | None, str], Finding] = {}
        self._counts: Counter[str] = Counter()
        self._unlisted: dict[str, Finding] = {}
        self._over = False
        self._due = -1
        self._surprise = -1  # where a record was that nobody wanted

    def findings(self) -> list[Finding]:
        """All of them so far by offset; of each rule the first thousands, and then one that says how many more."""
        more = [
            replace(first, message=f"{self._counts[name] - LISTED} more of {name} from here on, not listed", pids=())
            for name, first in self._unlisted.items()
        ]
        return sorted([*self._found.values(), *more], key=lambda found: (found.offset or 0, found.name))

    def report(self, found: Finding) -> None:
        """Take note of any finding; what framing and the rules behind it both find is one, in the framing's words."""
        if found.name == "unexpected-record":
            told, self._surprise = self._surprise, self.at
            if told == self.at:
                return
        key = (found.name, found.offset, found.path)
        if key not in self._found:
            self._counts[found.name] += 1
            if self._counts[found.name] <= LISTED:
                self._found[key] = found
            else:
                self._unlisted.setdefault(found.name, found)
        if found.name in _LOST:
            self._stop()

    def next(self, wanted: int = TAIL) -> int:
        """Type of the next record; TAIL, which ends every loop, where there is none."""
        if not self._over:
            end = self._end(wanted)
            if end is None:
                return self._head()[0]
            self.report(end)
            self._stop()
        return TAIL

    def record(self, wanted: int, size: int | None = None, limit: int | None = None) -> tuple[int, bytes]:
        """Take the next record: where it is, and its body, which may be of any size."""
        due = _DUE.get(wanted, self._due)
        self.whole = False
        while not self._over and (found := self._obstacle(wanted, size, limit)) is not None:
            self.report(found)
            if found.name in ("truncated", "record-length"):
                return self._take()
            if found.name in _LOST:
                break
            if not HEAD_BYTES <= self._head()[1] <= self.left:
                self._stop()  # no record either
                break
            following = self._find(wanted, due)
            if following is None:
                return self.at, b""
            self.at = following
        if self._over:
            return self.at, b""
        self._due = due
        return self._take()

    def _find(self, wanted: int, due: int) -> int | None:
        """Where the wanted record is, if it comes before any that is due later: others are in its way."""
        here = self.at
        found = None
        while self._end(wanted) is None:
            kind, length = self._head()
            if kind == wanted:
                found = self.at
            if kind == wanted or _DUE.get(kind, -1) > due or length < HEAD_BYTES:
                break
            self.at += length
        self.at = here
        return found

    def _take(self) -> tuple[int, bytes]:
        start = self.at
        if self.left < HEAD_BYTES or self._head()[1] > self.left:
            self._stop()
            return start, self._data[start + HEAD_BYTES :]
        self.whole = True
        return super()._take()

    def _stop(self) -> None:
        """Take nothing from here on."""
        self._over = True
        self.at = len(self._data)
