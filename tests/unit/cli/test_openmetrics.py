# SPDX-License-Identifier: Apache-2.0
"""The daemon's figures as OpenMetrics, read by Prometheus's own strict parser."""

from typing import Any

import pytest

from agent.cli.openmetrics import Family, Sample, render, text
from tests.support.daemonfigures import FIGURES
from tests.support.scraped import families


def parsed(exposition: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return all samples by name and labels; the parser refuses text that is not OpenMetrics."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families(exposition)
        for sample in family.samples
    }


def test_a_parser_reads_every_figure_as_it_was() -> None:
    """Counters end in _total, histograms have all their parts, and units are part of the names."""
    found = parsed(render(FIGURES))

    def at(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    assert at("ckptree_daemon_info", version="1.2.3") == 1
    assert at("ckptree_uptime_seconds") == 12.5
    assert at("ckptree_records_total", kind="fork") == 3
    assert at("ckptree_lost_records_total", reason="ring-full") == 7
    assert at("ckptree_withheld_changes_total") == 8
    assert at("ckptree_allowed_changes") == 500
    assert at("ckptree_tasks", state="zombie") == 1
    assert at("ckptree_snapshot_seconds_bucket", le="0.01") == 3
    assert at("ckptree_snapshot_seconds_bucket", le="+Inf") == 5
    assert at("ckptree_snapshot_seconds_sum") == 1.25
    assert at("ckptree_program_run_seconds_total", program="on_fork") == 0.5
    assert at("ckptree_hook", feature="fork", hook="raw_tracepoint:task_newtask") == 1
    assert at("ckptree_hook", feature="reap", hook="") == 0
    assert at("ckptree_events_total", fate="dropped") == 6
    assert at("ckptree_longest_job_seconds") == 0.5
    assert at("ckptree_recording_active") == 1
    assert at("ckptree_recording_bytes") == 7
    assert at("ckptree_recording_gaps_total") == 4
    assert at("ckptree_recording_longest_fork_seconds") == 0.125
    assert at("ckptree_most_clients") == 2
    assert len(found) == 57


def test_every_family_says_what_it_is_and_names_its_unit() -> None:
    """A name that ends with a unit has that unit, and no other name has one."""
    found = families(render(FIGURES))

    assert len({family.name for family in found}) == len(found) > 25
    for family in found:
        assert family.documentation.endswith((".", "on.")), family.name
        assert family.unit == next((unit for unit in ("seconds", "bytes") if family.name.endswith(f"_{unit}")), "")


@pytest.mark.parametrize("figures", [{}, {"table": None, "hooks": [], "uptime_s": "long"}, {"ring": {"bytes": True}}])
def test_what_a_daemon_does_not_tell_is_left_out(figures: dict[str, Any]) -> None:
    """The daemon may be of another version."""
    assert render(figures) == "# EOF\n"
    assert parsed(render(figures)) == {}


def test_foreign_text_is_escaped() -> None:
    """A quote, a backslash or a newline ends nothing."""
    value = 'a"b\\c\nd\\n'
    exposition = text([Family("x", "gauge", "A \\ and\na line.", (Sample("", 1, {"of": value}),))])
    (family,) = families(exposition)

    assert family.samples[0].labels == {"of": value}
    assert family.documentation == "A \\ and\na line."
    assert exposition.count("\n") == 4
