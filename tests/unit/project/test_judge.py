# SPDX-License-Identifier: Apache-2.0
"""The judge of torn captures, on logs made by hand: true captures are accepted, each kind of tear is found."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.judge import Capture, Finding, Judge, Row, Verdict, gaps, smallest_cover
from tests.bench.stormlog import ALWAYS, Change, Kind, Life, StormLog

ROOT = Life(10, 10, Kind.ROOT, 0, 0, 0, 1, ALWAYS, ALWAYS, sid=10, pgid=10)
ROOT_ROW = Row(10, 10, 1, 10, 10, zombie=False, start_lo=0, start_hi=0)


def a_process(tid: int, birth: int, death: int, gone: int, **more: Any) -> Life:
    """Return a child of the root, its stamps 2 apart: requested at birth, present at birth + 2, and likewise at its
    end.
    """
    life = Life(tid, tid, Kind.PROCESS, 0, 0, birth, birth + 2, gone, gone + 2, death, gone + 2, sid=10, pgid=10)
    return life._replace(**more)


def a_judge(*lives: Life, stop_ns: int = ALWAYS) -> Judge:
    """Return a judge of the root and these lives; each leads itself unless it is a thread."""
    owned = [life if life.kind is Kind.THREAD else life._replace(leader=i) for i, life in enumerate((ROOT, *lives))]
    return Judge(StormLog(tuple(owned), stop_ns))


def a_row(life: Life, **more: Any) -> Row:
    """Return a row that shows a life as at its birth."""
    start = life.birth_lo + 1
    row = Row(life.tid, life.tgid, 10, life.sid, life.pgid, zombie=False, start_lo=start, start_hi=start)
    return row._replace(**more)


def judged(judge: Judge, *rows: Row, t0: int = 400, t1: int = 500, widen_ns: int = 0) -> Verdict:
    """Return the verdict on the root and these rows."""
    return judge.judge(Capture((ROOT_ROW, *rows), t0, t1, closed=True), widen_ns=widen_ns)


def facts(verdict: Verdict) -> list[tuple[int, str]]:
    """Return the numbers and facts of the clash."""
    return [(finding.tid, finding.fact) for finding in verdict.clash]


LONG_LIVED = a_process(20, 100, 900, 950)
EARLY = a_process(21, 300, 420, 430)
LATE = a_process(22, 450, 900, 950)


def test_a_true_set_is_accepted_with_the_instants_that_fit() -> None:
    """EARLY is shown alive, LATE is not yet: the instants are from the window's begin until EARLY is surely gone."""
    verdict = judged(a_judge(LONG_LIVED, EARLY, LATE), a_row(LONG_LIVED), a_row(EARLY))

    assert verdict == Verdict(torn=False, feasible=(400, 432), fresh=True, clash=())


def test_either_is_accepted_while_a_birth_is_under_way() -> None:
    """The log does not know the state between the call of clone() and its return."""
    judge = a_judge(a_process(20, 399, 900, 950)._replace(birth_hi=501))

    assert not judged(judge).torn
    assert not judged(judge, a_row(judge._life(1))).torn


def test_a_task_shown_after_its_end_beside_one_born_later_is_torn() -> None:
    """EARLY was gone at 432, LATE was requested at 450."""
    verdict = judged(a_judge(EARLY, LATE), a_row(EARLY), a_row(LATE))

    assert verdict.torn
    assert verdict.feasible is None
    assert facts(verdict) == [(22, "shown, not asked for before"), (21, "shown, gone by")]
    assert [(f.lo, f.hi) for f in verdict.clash] == [(-1, 450), (432, ALWAYS + 1)]


def test_a_missing_task_beside_one_born_later_is_torn() -> None:
    """LATE is shown, so it is 450 or later, and LONG_LIVED was there all the time."""
    verdict = judged(a_judge(LONG_LIVED, LATE), a_row(LATE))

    assert facts(verdict) == [(20, "missing, surely there between")]


def test_the_clash_is_the_smallest_one() -> None:
    """Two of many findings are enough."""
    others = [a_process(30 + n, 440 + n, 900, 950) for n in range(9)]
    verdict = judged(a_judge(EARLY, *others), a_row(EARLY), *(a_row(life) for life in others))

    assert facts(verdict) == [(38, "shown, not asked for before"), (21, "shown, gone by")]


def test_a_set_that_was_true_outside_the_window_only_is_stale() -> None:
    """In the narrow window the capture is torn; in the wide one some instant fits, and the capture is not fresh."""
    judge = a_judge(a_process(20, 100, 360, 380))
    row = a_row(judge._life(1))

    assert judged(judge, row).torn
    assert judged(judge, row, widen_ns=100) == Verdict(torn=False, feasible=(300, 382), fresh=False, clash=())


def test_an_unknown_task_is_torn_in_a_tree_and_ignored_on_a_host() -> None:
    """A whole host has tasks that are not the storm's."""
    rows = (ROOT_ROW, Row(77, 77, 1, 77, 77, start_lo=50, start_hi=50))

    assert a_judge().judge(Capture(rows, 400, 500, closed=True)).torn
    assert not a_judge().judge(Capture(rows, 400, 500)).torn


def test_a_task_shown_twice_is_torn() -> None:
    """No task exists twice at any instant."""
    verdict = judged(a_judge(LONG_LIVED), a_row(LONG_LIVED), a_row(LONG_LIVED))

    assert facts(verdict) == [(20, "shown twice")]


def test_a_reused_number_is_told_apart_by_its_start() -> None:
    """Two lives have the number 20: the row is of the first, which is gone; the second is missing."""
    first, second = a_process(20, 100, 200, 210), a_process(20, 250, 900, 950)
    judge = a_judge(first, second)

    assert not judged(judge, a_row(second)).torn
    assert judged(judge, a_row(first)).torn
    assert not judged(judge, a_row(second, start_lo=250, start_hi=259)).torn


def test_a_row_without_a_start_is_matched_by_time() -> None:
    """psutil shows no start for threads."""
    judge = a_judge(a_process(20, 100, 200, 210), a_process(20, 250, 900, 950))

    assert not judged(judge, a_row(judge._life(2), start_lo=None, start_hi=None)).torn


@pytest.mark.parametrize(("zombie", "torn"), [(False, False), (True, True)])
def test_nothing_is_a_zombie_before_it_dies(zombie: bool, torn: bool) -> None:  # noqa: FBT001
    """The task lives until 900."""
    assert judged(a_judge(LONG_LIVED), a_row(LONG_LIVED, zombie=zombie)).torn is torn


@pytest.mark.parametrize(("zombie", "torn"), [(False, True), (True, False)])
def test_nothing_is_alive_after_it_was_seen_dead(zombie: bool, torn: bool) -> None:  # noqa: FBT001
    """The task is dead at 300, seen as a zombie at 350, and reaped at 800."""
    life = a_process(20, 100, 300, 800)._replace(zombie_hi=350)

    assert judged(a_judge(life), a_row(life, zombie=zombie)).torn is torn


def test_a_leader_may_look_dead_while_its_thread_takes_its_place() -> None:
    """A thread runs execve() from 420 to 440."""
    life = LONG_LIVED._replace(exec_lo=420, exec_hi=440)

    assert judged(a_judge(life), a_row(life, zombie=True)).feasible == (420, 440)


def test_the_old_leader_may_show_under_the_threads_number_during_exec() -> None:
    """The row has the leader's start and the thread's number."""
    leader = LONG_LIVED._replace(exec_lo=420, exec_hi=440)
    thread = Life(21, 20, Kind.THREAD, 0, 1, 300, 302, 410, 440, 410)
    judge = a_judge(leader, thread)
    swapped = a_row(leader, tid=21, zombie=True)

    assert judged(judge, a_row(leader), swapped).feasible == (420, 440)
    assert judged(judge, a_row(leader), swapped, t0=450).torn


def test_a_session_shown_too_early_or_too_late_is_torn() -> None:
    """setsid(), called at 600 and returned at 602, clashes only with a window that does not reach it."""
    life = LONG_LIVED._replace(sids=(Change(600, 602, 20),), pgids=(Change(600, 602, 20),))
    judge = a_judge(life)

    assert not judged(judge, a_row(life)).torn
    assert facts(judged(judge, a_row(life, sid=20))) == [(20, "session 20")]
    assert judged(judge, a_row(life, sid=20, pgid=20), t1=700).feasible == (600, 700)
    assert facts(judged(judge, a_row(life, pgid=20), t0=650, t1=700)) == [(20, "session 10")]
    assert judged(judge, a_row(life, sid=20), t1=700).feasible == (600, 602)


def test_a_session_and_a_birth_that_exclude_each_other_are_torn() -> None:
    """The row has the old session, which ended at 432, beside LATE of 450."""
    life = LONG_LIVED._replace(sids=(Change(430, 432, 20),))

    assert facts(judged(a_judge(life, LATE), a_row(life), a_row(LATE))) == [
        (22, "shown, not asked for before"),
        (20, "session 10"),
    ]


def test_groups_follow_each_other() -> None:
    """The groups are 10, then 30 at 420, then 20 at 460; 40 never occurs."""
    life = LONG_LIVED._replace(pgids=(Change(420, 422, 30), Change(460, 462, 20)))
    judge = a_judge(life)

    assert [judged(judge, a_row(life, pgid=pgid)).feasible for pgid in (10, 30, 20, 40)] == [
        (400, 422),
        (420, 462),
        (460, 500),
        None,
    ]


def test_a_threads_session_and_group_are_its_leaders() -> None:
    """Threads have no such ids of their own."""
    leader = LONG_LIVED._replace(sids=(Change(300, 302, 20),), pgids=(Change(300, 302, 20),))
    thread = Life(21, 20, Kind.THREAD, 0, 1, 200, 202, 900, 950, 900, sid=10, pgid=10)
    judge = a_judge(leader, thread)
    leading = a_row(leader, sid=20, pgid=20)

    assert not judged(judge, leading, a_row(thread, sid=20, pgid=20)).torn
    assert judged(judge, leading, a_row(thread)).torn
    assert judged(judge, leading, a_row(thread, tgid=21, sid=20, pgid=20)).torn


def test_a_child_is_handed_to_the_root_when_its_parent_dies() -> None:
    """The parent dies at 420 and is reaped by 432: before, the child is its own; after, the root's; between, either."""
    orphan = a_process(22, 350, 900, 950, parent=1)
    judge = a_judge(EARLY, orphan)

    assert judged(judge, a_row(EARLY), a_row(orphan, ppid=21)).feasible == (400, 432)
    assert judged(judge, a_row(EARLY, zombie=True), a_row(orphan, ppid=10)).feasible == (420, 432)
    assert judged(judge, a_row(orphan, ppid=10)).feasible == (430, 500)
    assert judged(judge, a_row(orphan, ppid=21), t0=440).torn
    assert judged(judge, a_row(EARLY), a_row(orphan, ppid=10), t1=415).torn
    assert judged(judge, a_row(orphan, ppid=5), t0=440).torn


def test_an_orphan_is_its_subreapers_until_that_dies_too() -> None:
    """The parent dies between 420 and 430, the subreaper between 460 and 470; then the child is the root's."""
    subreaper = a_process(23, 300, 460, 470)
    orphan = a_process(22, 350, 900, 950, parent=1, heir=2)
    judge = a_judge(EARLY, subreaper, orphan)

    assert judged(judge, a_row(EARLY), a_row(subreaper), a_row(orphan, ppid=21)).feasible == (400, 432)
    assert judged(judge, a_row(subreaper), a_row(orphan, ppid=23)).feasible == (430, 472)
    assert judged(judge, a_row(orphan, ppid=10)).feasible == (470, 500)
    assert judged(judge, a_row(EARLY), a_row(subreaper), a_row(orphan, ppid=23), t1=415).torn
    assert judged(judge, a_row(subreaper), a_row(orphan, ppid=10), t1=455).torn
    assert judged(judge, a_row(orphan, ppid=23), t0=480).torn


def test_a_capture_during_the_end_is_not_judged() -> None:
    """The log is incomplete from there on."""
    judge = a_judge(stop_ns=450)

    assert not judge.covers(Capture((), 400, 500))
    with pytest.raises(ValueError, match="taken down"):
        judged(judge)


FINDINGS = st.lists(
    st.tuples(st.integers(-2, 12), st.integers(1, 8)).map(lambda p: Finding(p[0], p[0] + p[1], 0, "")), max_size=7
)


def survivors(findings: list[Finding] | tuple[Finding, ...]) -> set[float]:
    """Return the instants of 0, 0.5 .. 10 that no finding rules out."""
    return {t / 2 for t in range(21) if not any(f.lo < t / 2 < f.hi for f in findings)}


@given(FINDINGS)
def test_gaps_are_what_no_finding_rules_out(findings: list[Finding]) -> None:
    """The reference tries every instant."""
    left = list(gaps(findings, 0, 10))

    assert {t / 2 for t in range(21) if any(a <= t / 2 <= b for a, b in left)} == survivors(findings)
    assert all(before[1] < after[0] for before, after in pairwise(left))


@given(FINDINGS)
def test_no_finding_of_the_smallest_cover_can_be_spared(findings: list[Finding]) -> None:
    """The cover rules out everything, and no part of it does."""
    if survivors(findings):
        with pytest.raises(ValueError, match="gap"):
            smallest_cover(findings, 0, 10)
        return
    cover = smallest_cover(findings, 0, 10)

    assert not survivors(cover)
    assert all(survivors(cover[:n] + cover[n + 1 :]) for n in range(len(cover)))


TIMES = st.lists(st.integers(0, 60), min_size=4, max_size=4, unique=True).map(sorted)


@given(st.lists(TIMES, max_size=8), st.integers(1, 60), st.integers(0, 30), st.integers(0, 30))
def test_what_was_true_at_any_instant_is_never_torn(times: list[list[int]], at: int, before: int, after: int) -> None:
    """Lives have exact births, deaths and reaps, each blurred by a stamp before and after; the capture is of one
    instant.
    """
    lives = [
        Life(
            *(100 + n, 100 + n, Kind.PROCESS, 0, 0, birth - 1, birth + 1, reaped - 1, reaped + 1, death - 1, death + 1),
            sid=10,
            pgid=10,
            sids=(Change(session - 1, session + 1, 100 + n),),
        )
        for n, (birth, session, death, reaped) in enumerate(times)
    ]
    rows = [
        a_row(life, zombie=death <= at, sid=life.tid if session <= at else 10)
        for life, (birth, session, death, reaped) in zip(lives, times, strict=True)
        if birth <= at < reaped
    ]

    verdict = judged(a_judge(*lives), *rows, t0=at - before, t1=at + after)

    assert not verdict.torn


def test_of_whom_no_start_is_shown_may_be_somebody_else_with_that_number() -> None:
    """In a capture of the whole host the row is another parent's child: LATE got the number afterwards."""
    judge = a_judge(LONG_LIVED, LATE)
    stranger = Row(LATE.tid, LATE.tgid, 4711, 4711, 4711)
    rows = (ROOT_ROW, a_row(LONG_LIVED), stranger)

    assert not judge.judge(Capture(rows, 400, 440), widen_ns=20).torn
    assert judge.judge(Capture(rows, 400, 440, closed=True), widen_ns=20).torn
    assert judge.judge(Capture((*rows[:2], stranger._replace(ppid=10)), 400, 440), widen_ns=20).torn


def test_a_finding_is_explained_by_the_lives_that_are_nearest_to_it() -> None:
    """One number may have many lives, also long after."""
    lives = [a_process(7, birth, birth + 50, birth + 60) for birth in (100, 1000, 2000, 3000)]
    words = a_judge(*lives).explain(Finding(162, ALWAYS + 1, 7, "shown, gone by"))

    assert "born 100..102" in words
    assert "born 3000" not in words
