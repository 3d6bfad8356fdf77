# SPDX-License-Identifier: Apache-2.0
"""The cursor that goes on after a fault: it finds all faults of an image in one pass.

Its reaction to a record that is not the wanted one:

    the file ends               the end is reported once; the rest counts as the body, and all later records are empty
    another type                if the wanted record follows before any record that is due later, the records in between
                                are skipped; if not, the wanted record is read as empty, and nothing is taken
    a wrong length              the record is taken with its length
    framing lost                (a length below 8, bytes of another machine, an older format, a writer that failed)
                                nothing behind this place has a meaning: all later records are empty

A reader says nothing about the contents of a body that has not the requested size. Every byte is taken at most once,
and each of the dozen records of the grammar is looked for at most once. So the cost is linear in the size of the file.
"""

from collections import Counter

from agent.record import replace
from exporters.content.findings import Finding
from exporters.image.records import ARCH, CONTAINER, EXTENSION, HEAD_BYTES, HEADER, LSM_INFO, PIDS, TAIL, TREE, Cursor

# The order of the records. BUFFERs stand between all of them.
_DUE = {kind: n for n, kind in enumerate((HEADER, ARCH, CONTAINER, LSM_INFO, PIDS, TREE, EXTENSION, TAIL))}

_LOST = ("record-head", "big-endian", "pre-patch-image", "writer-failed")


LISTED = 10_000
"""Number of findings kept for each rule: a file of a hundred million wrong rows has as many findings."""


class Collector(Cursor):
    """A cursor that collects findings and raises nothing."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._found: dict[tuple[str, int | None, str], Finding] = {}
        self._counts: Counter[str] = Counter()
        self._unlisted: dict[str, Finding] = {}
        self._over = False
        self._due = -1
        self._surprise = -1  # place of the last unexpected record

    def findings(self) -> list[Finding]:
        """Return the findings so far by offset: the first `LISTED` of each rule, then one that counts the rest."""
        more = [
            replace(first, message=f"{self._counts[name] - LISTED} more of {name} from here on, not listed", pids=())
            for name, first in self._unlisted.items()
        ]
        return sorted([*self._found.values(), *more], key=lambda found: (found.offset or 0, found.name))

    def report(self, found: Finding) -> None:
        """Note a finding. If framing and a later rule find the same, the first finding, which is framing's, is kept."""
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
        """Return the type of the next record; TAIL, which ends every loop, at the end of the file."""
        if not self._over:
            end = self._end(wanted)
            if end is None:
                return self._head()[0]
            self.report(end)
            self._stop()
        return TAIL

    def record(self, wanted: int, size: int | None = None, limit: int | None = None) -> tuple[int, bytes]:
        """Take the next record; return its offset and its body, of any size."""
        due = _DUE.get(wanted, self._due)
        self.whole = False
        while not self._over and (found := self._obstacle(wanted, size, limit)) is not None:
            self.report(found)
            if found.name in ("truncated", "record-length"):
                return self._take()
            if found.name in _LOST:
                break
            if not HEAD_BYTES <= self._head()[1] <= self.left:
                self._stop()  # this is no record
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
        """Return the offset of the wanted record if it comes before any record that is due later; None otherwise."""
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
        """End the pass: all later records are empty."""
        self._over = True
        self.at = len(self._data)
