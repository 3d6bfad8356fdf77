# SPDX-License-Identifier: Apache-2.0
"""A history replays the records of a number's kin where it can, and all records where it must: the answer is the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.recorder import answers, kin
from agent.recorder.history import NumberHistory
from agent.recorder.past import Enquirer
from agent.recorder.recording import Recording
from agent.recorder.replay import Replayer
from agent.table.stream import Stream
from tests.bench import longrecording
from tests.support.examples import examples
from tests.support.histories import unlike
from tests.support.taped import a_recording

_EACH = 37


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list to which each replay of the kin's records adds False, and each that turns out unfit True."""
    found: list[bool] = []

    def noted(method: Callable[..., Any], value: bool) -> Callable[..., Any]:  # noqa: FBT001 - it is what is noted
        def called(*arguments: Any) -> Any:
            found.append(value)
            return method(*arguments)

        return called

    monkeypatch.setattr(Replayer, "narrow", noted(Replayer.narrow, value=False))
    monkeypatch.setattr(NumberHistory, "_widen", noted(NumberHistory._widen, value=True))
    return found


def test_a_history_replays_few_of_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a busy host; the replay of all records is compared."""
    longrecording.make(tmp_path, 6000, 300, interval=2500)
    numbers, fed, feed = range(310, 1500, 4 * _EACH), [0], Stream.feed

    def counted(stream: Stream, data: memoryview | bytes, at: int) -> None:
        fed[-1] += 1
        feed(stream, data, at)

    monkeypatch.setattr(Stream, "feed", counted)
    for number in numbers:
        answers.history(Recording(tmp_path), {"pid": number}, Enquirer())
    fed.append(0)
    monkeypatch.setattr(kin, "_MOST", 1)
    for number in numbers:
        answers.history(Recording(tmp_path), {"pid": number}, Enquirer())

    assert fed[0] < fed[1] // 3


def test_a_history_of_a_busy_host_hardly_replays_anything_twice(tmp_path: Path, begun: list[bool]) -> None:
    """Of threads, orphans, and numbers that are taken again."""
    longrecording.make(tmp_path, 6000, 300, pid_max=1000, interval=2500)

    assert unlike(Recording(tmp_path), range(310, 1000, _EACH)) == {}
    assert sum(begun) < len(begun) // 4


def test_a_history_is_the_same_where_a_replay_turns_out_unfit(tmp_path: Path, begun: list[bool]) -> None:
    """By sweeps and pid namespaces that die; others of the same recordings are fit."""
    for seed in range(3, 3 + examples(6)):
        place = tmp_path / str(seed)
        place.mkdir()
        a_recording(place, seed, runs=1, steps=40, marks=0.15, losses=0.0)

        assert unlike(Recording(place)) == {}, seed
    assert 0 < sum(begun) < len(begun) - sum(begun)


def test_a_host_of_many_relatives_has_all_records_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[bool]
) -> None:
    """Where they are too many to be told from the others."""
    monkeypatch.setattr(kin, "_MOST", 1)
    longrecording.make(tmp_path, 3000, 100, pid_max=1000, interval=700)

    assert unlike(Recording(tmp_path), range(310, 1000, _EACH)) == {}
    assert not begun
