# SPDX-License-Identifier: Apache-2.0
"""The storm's log: reader and header agree, the log of a real storm is sound, and its judge is reliable."""

import ctypes as ct
import subprocess
import time
from bisect import bisect
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.bench import compiled, scanners
from tests.bench.idle_tree import IdleTree
from tests.bench.judge import Judge
from tests.bench.storm import Storm
from tests.bench.stormlog import ALWAYS, LIFE_FIELDS, Change, Kind, Life, StormLog, _changes


@pytest.mark.slow
def test_the_reader_agrees_with_the_header(tmp_path: Path) -> None:
    """The compiler gives offsets, sizes and kinds."""

    class Mirror(ct.Structure):
        _fields_ = LIFE_FIELDS

    checks = [f'_Static_assert(sizeof(struct life) == {ct.sizeof(Mirror)}, "size");']
    for name, _ in LIFE_FIELDS:
        offset = getattr(Mirror, name).offset
        checks.append(f'_Static_assert(__builtin_offsetof(struct life, {name}) == {offset}, "{name}");')
    checks += [f'_Static_assert(KIND_{kind.name} == {kind.value}, "{kind.name}");' for kind in Kind]
    checks.append(f'_Static_assert(KIND_COUNT == {len(Kind)}, "count");')
    source = tmp_path / "check.c"
    source.write_text(f'#include "{compiled.HERE}/storm_log.h"\n' + "\n".join(checks))

    subprocess.run(["gcc", "-fsyntax-only", str(source)], check=True)


def test_parent_and_child_asking_for_one_group_is_one_change() -> None:
    """It may hold from the earlier call on, and holds after the earlier return."""
    assert _changes(7, 9, (0, 0, 20, 30, 10, 40)) == ((), (Change(10, 30, 9),))


def test_a_call_that_never_returned_may_have_worked_at_any_time() -> None:
    """The caller died in it."""
    assert _changes(7, 9, (0, 0, 0, 0, 10, 0)) == ((), (Change(10, ALWAYS, 9),))


def test_a_new_session_is_a_new_group() -> None:
    """Both have the number of the task."""
    assert _changes(7, 9, (10, 20, 0, 0, 0, 0)) == ((Change(10, 20, 7),), (Change(10, 20, 7),))


@pytest.fixture(scope="module")
def slow_storm() -> tuple[StormLog, list[scanners.Scan]]:
    """Return the log of a slow storm, and scans of it, some of them during a stop of all its tasks."""
    scans = []
    with Storm(idle=20, rate=60) as storm:
        for _ in range(4):
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                scans += [scanners.scan_proc(), scanners.scan_psutil()]
            with stopped(storm):
                scans += [scanners.scan_proc(), scanners.scan_psutil()]
        scans.append(scanners.scan_proc())
    return storm.log, scans


@contextmanager
def stopped(storm: Storm) -> Iterator[None]:
    """Stop all tasks of a storm, so that nothing happens meanwhile on a machine of any speed."""
    root = psutil.Process(storm.root)
    deadline = time.monotonic() + 60
    still = 0
    while still < 2:  # a task that is stopped now may have made a child after the first list; the next list has it
        moving = [each for each in (root, *root.children(recursive=True)) if not _is_still(each)]
        assert time.monotonic() < deadline, moving
        still = 0 if moving else still + 1
        for process in moving:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
    yield
    for process in (root, *root.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # the first tasks to continue end some of the others
            process.resume()


def _is_still(process: psutil.Process) -> bool:
    """Return True for a task that changes no more by itself."""
    try:
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def moments(life: Life) -> list[int]:
    """Return all stamps of a life."""
    changes = [stamp for change in life.sids + life.pgids for stamp in change[:2]]
    return [*life[5:13], *changes]


@pytest.mark.slow
def test_stamps_of_a_life_are_in_order(slow_storm: tuple[StormLog, list[scanners.Scan]]) -> None:
    """The order is birth, then end, each from may to must."""
    for life in filter(None, slow_storm[0].lives):
        assert life.birth_lo <= life.birth_hi <= life.must_end
        assert life.birth_lo < life.death_lo
        assert min(life.must_end, life.zombie_hi) <= life.gone_hi
        assert life.zombie_hi <= life.gone_hi


@pytest.mark.slow
def test_a_scan_during_which_nothing_happened_is_never_torn(slow_storm: tuple[StormLog, list[scanners.Scan]]) -> None:
    """The tree has zombies, orphans, sessions and groups, and the judge raises no false alarm."""
    log, scans = slow_storm
    judge = Judge(log)
    stamps = sorted(stamp for life in log.lives if life for stamp in moments(life))
    calm = [scan.capture() for scan in scans if bisect(stamps, scan.begun_ns) == bisect(stamps, scan.ended_ns)]

    assert len(calm) >= 8
    assert [judge.judge(capture).clash for capture in calm if judge.covers(capture)] == [()] * len(calm)


@pytest.mark.slow
def test_a_scan_with_a_row_too_many_or_too_few_is_torn(slow_storm: tuple[StormLog, list[scanners.Scan]]) -> None:
    """The scans are the same, with a row added or removed: the judge can fail."""
    log, scans = slow_storm
    judge = Judge(log)
    idle = {life.tid for life in log.lives if life and life.kind is Kind.IDLE}
    gone = next(life for life in log.lives if life and life.gone_hi < scans[-1].begun_ns - 1_000_000)
    last = scans[-1].capture()
    missing = last._replace(rows=[row for row in last.rows if row.tid != min(idle)])
    ghost = last.rows[0]._replace(tid=gone.tid, tgid=gone.tgid, start_lo=gone.birth_hi, start_hi=gone.birth_hi)

    assert judge.judge(missing).torn
    assert judge.judge(last._replace(rows=[*last.rows, ghost])).torn


@pytest.mark.slow
def test_an_idle_tree_has_the_size_asked_for_and_goes() -> None:
    """Processes are three levels deep, with threads."""
    with IdleTree(60, breadth=3, threads=2) as tree:
        rows = scanners.scan_proc().rows()
        family = {tree.root}
        while more := {row.tgid for row in rows if row.tgid and row.ppid in family} - family:
            family |= more
        tasks = [row.tid for row in rows if row.tgid in family]
    left = {row.tid for row in scanners.scan_proc().rows()}

    assert len(tasks) == 60
    assert not left.intersection(tasks)
