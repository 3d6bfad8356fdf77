# SPDX-License-Identifier: Apache-2.0
"""The figures of a stand-by (agent.fleet.standby) as OpenMetrics text: what it has, and how far behind its host it is.

What a stand-by does not know, such as how far behind it is before the first word of its host, is left out.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.cli.openmetrics import Family, Sample, text
from agent.errors import CkptreeError, NoDaemonError
from agent.fleet import lag, standbylink


def ask(place: Path, host: str) -> dict[str, Any]:
    """Return what the stand-by that keeps a folder says of itself.

    Args:
        place: the folder.
        host: that it follows, for messages.

    Raises:
        NoDaemonError: none runs.
        CkptreeError: it does not answer, or this user may not ask it.
    """
    told = standbylink.ask(place, {"do": "tell"})
    if told is None:
        raise NoDaemonError(
            f"no stand-by of {host} runs on {place}: `ckptree relay --follow {host} ROOT` is one; --record names its folder"
        )
    try:
        return lag.checked(told)
    except ValueError as error:
        raise CkptreeError(f"{place}: the stand-by is of another version: {error}") from error


def render(told: Mapping[str, Any]) -> str:
    """Return the answer of a stand-by as text."""
    return text(_families(told))


def _families(told: Mapping[str, Any]) -> Iterator[Family]:
    of = {"of": str(told["of"])}

    def sample(value: float | None, suffix: str = "") -> tuple[Sample, ...]:
        return () if value is None else (Sample(suffix, value, of),)

    yield Family(
        "ckptree_standby", "info", "The stand-by.",
        (Sample("_info", 1, {**of, "root": str(told["root"]), "numbering": str(told["numbering"] or "")}),),
    )  # fmt: skip
    yield Family(
        "ckptree_standby_following", "gauge", "1 where it takes what comes; 0 where something keeps it from that.",
        sample(int(not told["error"])),
    )  # fmt: skip
    yield Family(
        "ckptree_standby_record", "gauge", "The number of the last record that it has; numbers may begin anew.",
        sample(told["have"]),
    )  # fmt: skip
    yield Family(
        "ckptree_standby_behind_records", "gauge", "Records that the host's daemon had and the stand-by has not.",
        sample(told["behind_records"]),
    )  # fmt: skip
    yield Family(
        "ckptree_standby_behind_seconds", "gauge", "Age at most of the oldest of these records.",
        sample(told["behind_s"]), "seconds",
    )  # fmt: skip
    yield Family(
        "ckptree_standby_silent_seconds", "gauge", "Time since the last word of the host.",
        sample(told["silent_s"]), "seconds",
    )  # fmt: skip
    yield Family(
        "ckptree_standby_relay_ended", "gauge", "1 where the last word of the host's relay was that it ends in order.",
        sample(None if told["relay_ended"] is None else int(told["relay_ended"])),
    )  # fmt: skip
    yield Family(
        "ckptree_standby_behind_gap", "gauge", "1 where what it has stands before a gap, up to the next keyframe.",
        sample(int(bool(told["gap"]))),
    )  # fmt: skip
    yield Family("ckptree_standby_bytes", "gauge", "Size of its copy.", sample(told["bytes"]), "bytes")
    yield Family("ckptree_standby_segments", "gauge", "Files of its copy.", sample(told["segments"]))
    yield Family("ckptree_standby_gaps", "counter", "Gaps in its copy.", sample(told["gaps"], "_total"))
    yield Family(
        "ckptree_standby_left_out_messages", "counter", "Messages that made no sense.",
        sample(told["left_out"], "_total"),
    )  # fmt: skip
