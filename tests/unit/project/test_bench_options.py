# SPDX-License-Identifier: Apache-2.0
"""The command lines of the measurements: invalid values are refused before the measurement."""

import os
from collections.abc import Callable, Sequence

import pytest

from tests.bench import (
    bench_daemon,
    bench_footprint,
    bench_hooks,
    bench_plan,
    bench_rebuild,
    bench_snapshot,
    bench_start,
    bench_table,
    bench_verbs,
    everything,
    loss,
    soak,
    torture,
)

Main = Callable[[Sequence[str]], object]


@pytest.mark.parametrize(
    ("main", "words", "complaint"),
    [
        (torture.main, "--storms 0", "--storms: 0: expected 1 or more"),
        (torture.main, "--pid-max -5", "--pid-max: -5: expected 0 or more"),
        (torture.main, "--idle 500 --pid-max 600", "--pid-max 600: 500 idle tasks and a storm take 900"),
        (torture.main, "--snapshots 2000", "--snapshots: 1000 at most"),
        (soak.main, "--duration 0", "--duration: 0: expected more than 0"),
        (loss.main, "--seconds nan", "--seconds: nan: expected more than 0"),
        (bench_snapshot.main, "--tasks 10,x", "--tasks: invalid sizes value: '10,x'"),
        (bench_hooks.main, "--pairs 0", "--pairs: 0: expected 1 or more"),
        (bench_footprint.main, "--tasks 0", "--tasks: 0: expected 1 or more"),
        (everything.main, "--keep /nowhere/x", "--keep /nowhere/x: there is no such folder"),
        (everything.main, "--short --write", "--short says nothing that might be written"),
    ],
)
def test_a_number_that_nothing_can_be_measured_with_is_refused(
    main: Main, words: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message comes before the first storm and has the name of the option."""
    if os.geteuid():
        pytest.skip("only root gets as far as some of these")
    with pytest.raises(SystemExit) as ended:
        main(words.split())

    assert ended.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    "main", [torture.main, soak.main, loss.main, everything.main, bench_snapshot.main, bench_hooks.main]
)
def test_who_may_not_measure_is_told_so_in_a_line(
    main: Main, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No traceback of a failed system call appears."""
    monkeypatch.setattr("os.geteuid", lambda: 65534)
    with pytest.raises(SystemExit) as ended:
        main([])

    assert ended.value.code == 5
    assert capsys.readouterr().err.endswith("run it as root\n")


def test_all_measurements_have_a_command_line_of_that_kind() -> None:
    """No measurement parses its options by itself."""
    for module in (bench_daemon, bench_plan, bench_rebuild, bench_start, bench_table, bench_verbs):
        assert "parsed" in vars(module)
