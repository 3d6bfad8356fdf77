# SPDX-License-Identifier: Apache-2.0
"""The figures of a stand-by as OpenMetrics, read by Prometheus's own strict parser."""

import re
from pathlib import Path
from typing import Any

import pytest

from agent.cli.standbymetrics import render
from agent.fleet import standbylink
from agent.fleet.lag import Lag
from tests.support.commandline import here
from tests.support.scraped import families

TOP = Path(__file__).parents[3]
KNOWN = {
    "have": 88214,
    "numbering": "boot ring",
    "behind_records": 12,
    "behind_s": 0.5,
    "silent_s": 61.25,
    "relay_ended": True,
    "gap": "a gap",
    "bytes": 4096,
    "segments": 2,
    "gaps": 1,
    "left_out": 3,
    "error": "there is no stream",
}


def told(**changes: Any) -> dict[str, Any]:
    """Return what a stand-by says, with some changes."""
    counts = dict.fromkeys(("bytes", "segments", "gaps", "left_out"), 0)
    return {"host": "new", "of": "old", "root": "7", "error": "", **counts, **Lag().told(0.0), **changes}


def figures(said: dict[str, Any]) -> dict[str, float]:
    """Return all samples by name; each has the label of the host."""
    found = {}
    for family in families(render(said)):
        assert family.documentation.endswith(".")
        for sample in family.samples:
            assert sample.labels["of"] == "old"
            found[sample.name.removeprefix("ckptree_standby_")] = sample.value
    return found


def test_every_figure_is_as_the_standby_tells_it() -> None:
    """A state is 1 or 0."""
    assert figures(told(**KNOWN)) == {
        "info": 1,
        "following": 0,
        "record": 88214,
        "behind_records": 12,
        "behind_seconds": 0.5,
        "silent_seconds": 61.25,
        "relay_ended": 1,
        "behind_gap": 1,
        "bytes": 4096,
        "segments": 2,
        "gaps_total": 1,
        "left_out_messages_total": 3,
    }


def test_what_a_standby_does_not_know_is_left_out() -> None:
    """As before the first word of its host."""
    found = figures(told())

    assert found["following"] == 1
    assert not {"record", "behind_records", "behind_seconds", "silent_seconds", "relay_ended"} & found.keys()


def test_the_page_names_every_figure() -> None:
    """In one paragraph, without the common beginning of their names."""
    text = (TOP / "docs/standby.md").read_text()
    named = set(re.findall(r"`(?:ckptree_standby|…)_(\w+)`", text))

    assert named == figures(told(**KNOWN)).keys() - {"info"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--standby", "old"], 3, "no stand-by of old runs on"),
        (["--standby", "a b"], 2, "host"),
        ([], 2, "add --standby HOST"),
        (["--standby", "old", "--socket", "x"], 2, "leave out --socket"),
    ],
)
def test_what_cannot_be_asked_is_named(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    """Nothing is printed."""
    ran = here("metrics", "--record", tmp_path, *words)

    assert (ran.returncode, ran.stdout) == (code, b"")
    assert said in ran.stderr.decode()


def test_the_verb_prints_what_the_standby_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An answer of another version is named."""
    monkeypatch.setattr(standbylink, "ask", lambda *_: told(**KNOWN))
    ran = here("metrics", "--standby", "old", "--record", tmp_path)
    monkeypatch.setattr(standbylink, "ask", lambda *_: {"have": 1})
    other = here("metrics", "--standby", "old", "--record", tmp_path)

    assert ran.returncode == 0
    assert ran.stdout.decode() == render(told(**KNOWN))
    assert (other.returncode, b"the stand-by is of another version" in other.stderr) == (1, True)
