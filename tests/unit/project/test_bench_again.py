# SPDX-License-Identifier: Apache-2.0
"""A short form of the measurement of the daemon's own work for a snapshot."""

import json

import pytest

from tests.bench import bench_again


def test_each_case_takes_time_and_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The figures are medians, in us, for each size of tree."""
    assert bench_again.main(["--tasks", "10,120", "--rounds", "1", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)

    assert list(figures) == ["10 tasks", "120 tasks"]
    assert [list(found) for found in figures.values()] == [
        ["unchanged", "first", "in turn", "storm behind", "storm before"]
    ] * 2
    assert all(took > 0 for found in figures.values() for took in found.values())
