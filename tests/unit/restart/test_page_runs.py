# SPDX-License-Identifier: Apache-2.0
"""Runs of pages in little memory: they come back as they were."""

import tracemalloc
from pathlib import Path

from agent.restart.contents.pageruns import PAGE, PageRun, PageRuns

FILES = Path("a"), Path("b")
RUNS = [PageRun(number << 20, (number % 7 + 1) * PAGE, FILES[number % 2], number * PAGE) for number in range(1000)]


def test_runs_come_back_as_they_were() -> None:
    """One by one, as a part, and all; the files are those that were named."""
    runs = PageRuns(RUNS)

    assert list(runs) == RUNS
    assert runs[17:400] == RUNS[17:400]
    assert (runs[3], runs[-1], len(runs)) == (RUNS[3], RUNS[-1], 1000)
    assert runs.size == sum(run.size for run in RUNS)
    assert runs.files == [*FILES]
    assert list(runs.addresses) == [run.address for run in RUNS]
    assert (list(PageRuns()), PageRuns().size, PageRuns().files) == ([], 0, [])


def test_a_run_takes_some_bytes() -> None:
    """As an object it would take more than a hundred."""
    tracemalloc.start()
    try:
        runs = PageRuns(PageRun(number << 20, PAGE, FILES[0], number * PAGE) for number in range(100_000))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(runs) == 100_000
    assert taken < 40 * len(runs)
