# SPDX-License-Identifier: Apache-2.0
"""A short form of ``make bench``: every measurement runs, and its figures become tables."""

import json
from pathlib import Path

import pytest

from tests.bench import bench_snapshot, everything
from tests.bench.report import PAGE


def test_all_that_is_measured_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every method and every kind of call has its line; nothing took no time."""
    before = PAGE.read_bytes()
    code = everything.main(["--short", "--keep", str(tmp_path / "figures.json")])
    said = capsys.readouterr().out
    found = json.loads((tmp_path / "figures.json").read_text())

    assert code == 0
    assert found.keys() == everything.RUNS.keys()
    for name, figures in found["bench_snapshot"]["20 tasks"].items():
        assert f"| {name} " in said
        assert 0 < figures["q1_ms"] <= figures["median_ms"] <= figures["q3_ms"]
    assert all(f"| {words} " in said for words in everything.CALLS.values())
    assert bench_snapshot.DAEMON in everything.picture(found["bench_snapshot"])
    assert PAGE.read_bytes() == before
