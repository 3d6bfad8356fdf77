# SPDX-License-Identifier: Apache-2.0
"""The judge of torn snapshots: it decides if a captured set of tasks was ever true.

Theory ------ A capture claims that at one instant the tree was exactly these rows. The storm's log rules out instants:

* a shown task rules out all before it was asked for and all after it was seen to be gone;
* a task that is not shown rules out the time for which it was surely there;
* a shown session, group, parent or state rules out the time for which the task surely had another.

Each finding is an open interval. If they cover the whole window in which the capture was taken, no such instant exists
and the capture is *torn*. The proof is the smallest number of findings that cover it: most often two, "X is shown, gone
by a" and "Y is missing, there since b", where b < a is false.

The judge is mild: where the log leaves a question open, the judge accepts. A capture that it calls torn is torn.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tests.bench.stormlog import ALWAYS, Change, Kind, Life, StormLog

BUCKET_NS = 20_000_000
LONG_NS = 50 * BUCKET_NS
"""Lives longer than this, in ns, are compared with each capture, shorter ones only with captures in their buckets."""


class Row(NamedTuple):
    """One captured task or thread; a field is None if the method does not read it.

    Attributes:
        tid, tgid, ppid, sid, pgid: numbers in the initial namespace. ppid is a process, never a thread.
        zombie: it is shown as dead: zombie or dead leader.
        start_lo, start_hi: between these, CLOCK_BOOTTIME ns, it was born: equal, or a clock tick apart.
    """

    tid: int
    tgid: int | None = None
    ppid: int | None = None
    sid: int | None = None
    pgid: int | None = None
    zombie: bool | None = None
    start_lo: int | None = None
    start_hi: int | None = None


class Capture(NamedTuple):
    """A set of rows and the time of the capture.

    Attributes:
        rows: the captured rows.
        t0, t1: CLOCK_BOOTTIME ns before the capture was asked for, and after it was there.
        closed: every row claims to be of the storm's tree. Otherwise the capture is of the whole host, and rows of
            tasks that the log does not know are other people's.
    """

    rows: Sequence[Row]
    t0: int
    t1: int
    closed: bool = False


class Finding(NamedTuple):
    """The reason why the capture cannot be of any instant strictly between lo and hi."""

    lo: int
    hi: int
    tid: int
    fact: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of the judge.

    Attributes:
        torn: no instant of the widened window fits.
        feasible: the first interval of instants that fit, None if torn.
        fresh: one of the instants that fit lies within the window itself.
        clash: the smallest set of findings that no instant survives; empty unless torn.
    """

    torn: bool
    feasible: tuple[int, int] | None
    fresh: bool
    clash: tuple[Finding, ...]


def gaps(findings: Iterable[Finding], lo: int, hi: int) -> Iterator[tuple[int, int]]:
    """Yield the parts of [lo, hi] that the findings leave, in order. Ends count as left, because stamps are not
    exact.
    """
    reach = lo
    for finding in sorted(findings):
        if finding.lo >= hi:
            break
        if finding.lo >= reach:
            yield reach, finding.lo
        reach = max(reach, finding.hi)
    if reach <= hi:
        yield reach, hi


def smallest_cover(findings: Iterable[Finding], lo: int, hi: int) -> tuple[Finding, ...]:
    """Return the fewest findings that leave nothing of [lo, hi]; all together must leave nothing."""
    ordered = sorted(findings)
    cover: list[Finding] = []
    reach, best, at = lo, None, 0
    while reach <= hi:
        while at < len(ordered) and ordered[at].lo < reach:
            if best is None or ordered[at].hi > best.hi:
                best = ordered[at]
            at += 1
        if best is None or best.hi <= reach:
            raise ValueError("the findings leave a gap")
        cover.append(best)
        reach = best.hi
    return tuple(cover)


def _not_in(allowed: Sequence[tuple[int, int]], tid: int, fact: str) -> Iterator[Finding]:
    """Yield findings for the complement of a few intervals."""
    reach = -1
    for lo, hi in sorted(allowed):
        if lo > reach:
            yield Finding(reach, lo, tid, fact)
        reach = max(reach, hi)
    if reach < ALWAYS:
        yield Finding(reach, ALWAYS + 1, tid, fact)


def _held(value: int, first: int, changes: tuple[Change, ...]) -> list[tuple[int, int]]:
    """Return the intervals in which an id that was `first` at birth and then changed may have been `value`."""
    allowed = []
    since = -1
    for now, change in zip((first, *(c.value for c in changes)), (*changes, Change(ALWAYS, ALWAYS, 0)), strict=True):
        if now == value:
            allowed.append((since, change.hi))
        since = change.lo
    return allowed


class Judge:
    """A judge of captures by one log."""

    def __init__(self, log: StormLog) -> None:
        self._lives = log.lives
        self._stop_ns = log.stop_ns
        self._root = next(i for i, life in enumerate(log.lives) if life and life.kind is Kind.ROOT)
        self._by_tid: dict[int, list[int]] = defaultdict(list)
        self._long: set[int] = set()
        self._bucket: dict[int, list[int]] = defaultdict(list)
        for i, life in enumerate(log.lives):
            if life is None:
                continue
            self._by_tid[life.tid].append(i)
            if life.must_end - life.birth_hi > LONG_NS:
                self._long.add(i)
            elif life.birth_hi < life.must_end:
                for bucket in range(life.birth_hi // BUCKET_NS, life.must_end // BUCKET_NS + 1):
                    self._bucket[bucket].append(i)
        for lives in self._by_tid.values():
            lives.sort(key=self._birth)

    def judge(self, capture: Capture, *, widen_ns: int = 0) -> Verdict:
        """Judge one capture in its window, widened on both sides."""
        lo, hi = capture.t0 - widen_ns, capture.t1 + widen_ns
        if hi > self._stop_ns:
            raise ValueError("taken while the storm was being taken down: the log does not tell")
        shown: set[int] = set()
        findings = [f for row in capture.rows for f in self._of_row(row, capture, shown, lo, hi)]
        findings += self._missing(shown, lo, hi)
        left = list(gaps(findings, lo, hi))
        if not left:
            return Verdict(torn=True, feasible=None, fresh=False, clash=smallest_cover(findings, lo, hi))
        fresh = any(a <= capture.t1 and b >= capture.t0 for a, b in left)
        return Verdict(torn=False, feasible=left[0], fresh=fresh, clash=())

    def explain(self, finding: Finding) -> str:
        """Return a finding in words, with the log's entries on the lives of that number near it."""
        bounds = [bound for bound in finding[:2] if 0 < bound < ALWAYS]

        def distance(life: Life) -> int:
            stamps = (life.birth_lo, life.birth_hi, life.death_lo, life.must_end, life.gone_hi)
            return min((abs(stamp - bound) for stamp in stamps for bound in bounds), default=0)

        lives = sorted(map(self._life, self._by_tid.get(finding.tid, ())), key=distance)[:2]
        near = [
            f"{life.kind.name.lower()} of {self._life(life.parent).tid}, born {life.birth_lo}..{life.birth_hi}, "
            f"ends {life.death_lo}..{life.gone_hi}"
            + (f", exec {life.exec_lo}..{life.exec_hi}" if life.exec_lo < ALWAYS else "")
            for life in sorted(lives, key=lambda life: life.birth_lo)
        ]
        return f"{finding.tid} {finding.fact} ({finding.lo}, {finding.hi}) [{'; '.join(near)}]"

    def covers(self, capture: Capture, *, widen_ns: int = 0) -> bool:
        """Return True if the log has enough to judge this capture."""
        return capture.t1 + widen_ns <= self._stop_ns

    def _birth(self, i: int) -> int:
        life = self._lives[i]
        return life.birth_lo if life else 0

    def _life(self, i: int) -> Life:
        life = self._lives[i]
        if life is None:
            raise ValueError(f"life {i} does not exist")
        return life

    def _match(self, row: Row, lo: int, hi: int) -> int | None:
        """Return the life of a row, by number and start, or else by number and time."""
        lives = self._by_tid.get(row.tid, ())
        if row.start_lo is not None and row.start_hi is not None:
            at = bisect_left(lives, row.start_hi + 1, key=self._birth) - 1
            if at >= 0 and self._life(lives[at]).birth_hi >= row.start_lo:
                return lives[at]
            return None
        best, best_overlap = None, 0
        for i in lives:
            life = self._life(i)
            overlap = min(hi, life.gone_hi) - max(lo, life.birth_lo)
            if overlap > best_overlap:
                best, best_overlap = i, overlap
        return best

    def _of_row(self, row: Row, capture: Capture, shown: set[int], lo: int, hi: int) -> Iterator[Finding]:
        i = self._match(row, lo, hi)
        if i is None:
            yield from self._unknown(row, closed=capture.closed)
            return
        life = self._life(i)
        if self._is_another(row, life, closed=capture.closed):
            return
        if i in shown:
            yield Finding(-1, ALWAYS + 1, row.tid, "shown twice")
        shown.add(i)
        if life.birth_lo > lo:
            yield Finding(-1, life.birth_lo, row.tid, "shown, not asked for before")
        if life.gone_hi < hi:
            yield Finding(life.gone_hi, ALWAYS + 1, row.tid, "shown, gone by")
        if row.tgid is not None and row.tgid != life.tgid:
            yield Finding(-1, ALWAYS + 1, row.tid, f"in group {row.tgid}, never was")
        if row.zombie is not None:
            yield from self._state(row, life, lo, hi)
        leader = self._life(life.leader) if life.leader != i else life
        if row.sid is not None and (leader.sids or row.sid != leader.sid):
            yield from _not_in(_held(row.sid, leader.sid, leader.sids), row.tid, f"session {row.sid}")
        if row.pgid is not None and (leader.pgids or row.pgid != leader.pgid):
            yield from _not_in(_held(row.pgid, leader.pgid, leader.pgids), row.tid, f"process group {row.pgid}")
        if row.ppid is not None and life.kind is not Kind.ROOT:
            yield from self._parent(row, life, lo, hi)

    def _state(self, row: Row, life: Life, lo: int, hi: int) -> Iterator[Finding]:
        if row.zombie:
            if life.death_lo > lo:
                allowed = [(life.death_lo, ALWAYS), (life.exec_lo, life.exec_hi)]
                yield from _not_in(allowed, row.tid, "zombie")
        elif life.zombie_hi < min(hi, life.gone_hi):  # else `gone by` is the better finding
            yield Finding(life.zombie_hi, ALWAYS + 1, row.tid, "alive, a zombie by")

    def _is_another(self, row: Row, life: Life, *, closed: bool) -> bool:
        """Return True if a row without a start may be of another task with the same number, before or after."""
        if closed or row.start_lo is not None or row.ppid is None or life.kind is Kind.ROOT:
            return False
        return not self._holders(row.ppid, life)

    def _parent(self, row: Row, life: Life, lo: int, hi: int) -> Iterator[Finding]:
        held = self._holders(row.ppid, life)
        if not held:
            yield Finding(-1, ALWAYS + 1, row.tid, f"child of {row.ppid}, never was")
        elif held[0][0] > lo or held[-1][1] < hi or len(held) > 1:
            yield from _not_in(held, row.tid, f"child of {row.ppid}, while it was another's")

    def _holders(self, ppid: int | None, life: Life) -> list[tuple[int, int]]:
        """Return the intervals in which a task of that number was the parent.

        A child stays with its parent until that may be dead; then it is its heir's, a subreaper's; then the root's.
        """
        held: list[tuple[int, int]] = []
        since = -1
        for index in dict.fromkeys((life.parent, life.heir, self._root)):
            holder = self._life(index)
            until = ALWAYS if index == self._root else min(holder.zombie_hi, holder.gone_hi)
            if holder.tid == ppid:
                held.append((since, until))
            if index == self._root:
                break
            since = max(since, holder.death_lo)
        return held

    def _unknown(self, row: Row, *, closed: bool) -> Iterator[Finding]:
        """Yield the findings on a row that no life matches."""
        for i in self._by_tid.get(row.tid, ()):
            life = self._life(i)
            leader = self._life(life.leader)
            if life.kind is not Kind.THREAD or leader.exec_lo == ALWAYS or row.start_lo is None or row.start_hi is None:
                continue
            if row.start_lo <= leader.birth_hi and row.start_hi >= leader.birth_lo:
                # Linux: de_thread() gives the old leader the thread's number for a moment before it releases it.
                yield from _not_in([(leader.exec_lo, leader.exec_hi)], row.tid, "old leader under a thread's number")
                return
        if closed:
            yield Finding(-1, ALWAYS + 1, row.tid, "shown, not of this tree")

    def _missing(self, shown: set[int], lo: int, hi: int) -> Iterator[Finding]:
        candidates = self._long - shown
        for bucket in range(lo // BUCKET_NS, hi // BUCKET_NS + 1):
            candidates.update(i for i in self._bucket.get(bucket, ()) if i not in shown)
        for i in candidates:
            life = self._life(i)
            if life.birth_hi < hi and life.must_end > lo:
                yield Finding(life.birth_hi, life.must_end, life.tid, "missing, surely there between")
