# SPDX-License-Identifier: Apache-2.0
"""The daemon's figures (agent.daemon.metrics) as OpenMetrics text, version 1.0.0, which Prometheus and others scrape.

    exposition = family* "# EOF" newline
    family     = "# TYPE " name " " type newline ["# UNIT " name " " unit newline] "# HELP " name " " text newline
    sample*
    sample     = name suffix ["{" label "=" quoted {"," label "=" quoted} "}"] " " number newline

A counter's samples end in ``_total``, a name ends in its unit, and in texts backslash, newline and quote are escaped.
Figures of a daemon that this version does not know are left out, and so is a family whose figures the daemon lacks.
"""

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final

from agent.record import NamedTuple

CONTENT_TYPE: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

Labels = Mapping[str, str]
_NO_LABELS: Final[Labels] = MappingProxyType({})


class Sample(NamedTuple):
    """A figure.

    Attributes:
        suffix: behind the family's name.
        value: of the figure.
        labels: to tell it from other figures of the family.
    """

    suffix: str
    value: float
    labels: Labels = _NO_LABELS


class Family(NamedTuple):
    """Figures of one meaning.

    Attributes:
        name: with its unit, without the suffix of the type.
        kind: ``gauge``, ``counter``, ``histogram`` or ``info``.
        help: a sentence.
        samples: at least one, or the family is left out.
        unit: of all of them.
    """

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]
    unit: str = ""


def text(families: Iterable[Family]) -> str:
    """Return the exposition of families."""
    lines = []
    for family in families:
        if family.samples:
            lines.append(f"# TYPE {family.name} {family.kind}\n")
            if family.unit:
                lines.append(f"# UNIT {family.name} {family.unit}\n")
            lines.append(f"# HELP {family.name} {_escaped(family.help)}\n")
            lines += [_line(family.name, sample) for sample in family.samples]
    return "".join((*lines, "# EOF\n"))


def _line(name: str, sample: Sample) -> str:
    labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in sample.labels.items())
    return f"{name}{sample.suffix}" + (f"{{{labels}}}" if labels else "") + f" {sample.value!r}\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def render(figures: Mapping[str, Any]) -> str:
    """Return a daemon's answer to ``metrics`` as text."""
    return text(_families(_Figures(figures)))


class _Figures:
    """Figures by path, any of which may be missing."""

    def __init__(self, figures: Mapping[str, Any]) -> None:
        self._figures = figures

    def at(self, path: str) -> Any:
        """Return the figure at keys with dots between them; None where this daemon lacks it."""
        found: Any = self._figures
        for key in path.split("."):
            if not isinstance(found, Mapping) or key not in found:
                return None
            found = found[key]
        return found

    def gauge(self, path: str) -> tuple[Sample, ...]:
        """Return a gauge."""
        value = self.at(path)
        return (Sample("", value),) if _is_number(value) else ()

    def gauges(self, path: str, label: str) -> tuple[Sample, ...]:
        """Return a gauge for each key of a map."""
        return tuple(Sample("", value, {label: key}) for key, value in self._numbers(path))

    def counter(self, path: str) -> tuple[Sample, ...]:
        """Return a counter."""
        return tuple(sample._replace(suffix="_total") for sample in self.gauge(path))

    def counters(self, path: str, label: str) -> tuple[Sample, ...]:
        """Return a counter for each key of a map."""
        return tuple(sample._replace(suffix="_total") for sample in self.gauges(path, label))

    def each_counter(self, path: str, label: str, key: str) -> tuple[Sample, ...]:
        """Return a counter for each map of a map: its value under a key."""
        maps = self.at(path)
        found = [(name, one.get(key)) for name, one in maps.items()] if isinstance(maps, Mapping) else []
        return tuple(Sample("_total", value, {label: name}) for name, value in found if _is_number(value))

    def histogram(self, path: str) -> tuple[Sample, ...]:
        """Return buckets, count and sum of a histogram."""
        found = self.at(path)
        if not isinstance(found, Mapping):
            return ()
        buckets = [Sample("_bucket", count, {"le": repr(float(bound))}) for bound, count in found["buckets"]]
        count = found["count"]
        return (
            *buckets,
            Sample("_bucket", count, {"le": "+Inf"}),
            Sample("_count", count),
            Sample("_sum", found["sum"]),
        )

    def _numbers(self, path: str) -> list[tuple[str, float]]:
        found = self.at(path)
        return [(key, value) for key, value in found.items() if _is_number(value)] if isinstance(found, Mapping) else []


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _families(of: _Figures) -> Iterator[Family]:
    hooks = of.at("hooks")
    used = hooks.items() if isinstance(hooks, Mapping) else ()
    version = of.at("version")
    yield Family(
        "ckptree_daemon", "info", "The daemon's program.",
        (Sample("_info", 1, {"version": version}),) if isinstance(version, str) else (),
    )  # fmt: skip
    yield Family(
        "ckptree_uptime_seconds", "gauge", "Time since the daemon began to watch.", of.gauge("uptime_s"), "seconds"
    )
    yield Family("ckptree_tasks", "gauge", "Tasks in the table, by state.", of.gauges("table.tasks", "state"))
    yield Family("ckptree_pids", "gauge", "Pid objects in the table.", of.gauge("table.pids"))
    yield Family("ckptree_pid_namespaces", "gauge", "Pid namespaces in the table.", of.gauge("table.namespaces"))
    yield Family("ckptree_records", "counter", "Records of the kernel side, by kind.", of.counters("records", "kind"))
    yield Family("ckptree_lost_records", "counter", "Records that were lost, by reason.", of.counters("lost", "reason"))
    yield Family(
        "ckptree_withheld_changes", "counter", "Changes that went beyond a user's allowance; a sweep finds them.",
        of.counter("withheld"),
    )  # fmt: skip
    yield Family(
        "ckptree_allowed_changes", "gauge", "The allowance of each user, changes in a second.",
        of.gauge("allowed_per_second"),
    )  # fmt: skip
    yield Family("ckptree_ring_bytes", "gauge", "Size of the ring buffer.", of.gauge("ring.bytes"), "bytes")
    yield Family(
        "ckptree_ring_pending_bytes",
        "gauge",
        "Bytes that wait in the ring buffer.",
        of.gauge("ring.pending_bytes"),
        "bytes",
    )
    yield Family(
        "ckptree_ring_most_pending_bytes", "gauge", "The most bytes that have waited in the ring buffer.",
        of.gauge("ring.most_pending_bytes"), "bytes",
    )  # fmt: skip
    yield Family(
        "ckptree_sweeps", "counter", "Comparisons of the whole table, by cause.", of.counters("sweeps", "cause")
    )
    yield Family(
        "ckptree_anomalies", "counter", "Differences from the kernel that no event explained, by kind.",
        of.counters("anomalies", "kind"),
    )  # fmt: skip
    yield Family("ckptree_repairs", "counter", "Tasks that a comparison repaired.", of.counter("repairs"))
    yield Family("ckptree_assumed_births", "counter", "Tasks without an observed birth.", of.counter("assumed_births"))
    yield Family("ckptree_snapshots", "counter", "Snapshots taken.", of.counter("snapshots"))
    yield Family(
        "ckptree_snapshot_seconds", "histogram", "Time from a request to the bytes of its snapshot.",
        of.histogram("snapshot_seconds"), "seconds",
    )  # fmt: skip
    yield Family(
        "ckptree_turn_seconds", "histogram", "Time of a turn of the daemon's loop, away from ring and clients.",
        of.histogram("loop.turn_seconds"), "seconds",
    )  # fmt: skip
    yield Family(
        "ckptree_longest_turn_seconds", "gauge", "The longest turn.", of.gauge("loop.longest_turn_s"), "seconds"
    )
    yield Family(
        "ckptree_job_seconds",
        "histogram",
        "Time of a job beside the loop: a sweep, or a snapshot of many tasks.",
        of.histogram("loop.job_seconds"),
        "seconds",
    )
    yield Family("ckptree_longest_job_seconds", "gauge", "The longest job.", of.gauge("loop.longest_job_s"), "seconds")
    yield Family(
        "ckptree_most_clients",
        "gauge",
        "The most clients that have been connected.",
        of.gauge("clients.most_connected"),
    )
    yield Family("ckptree_clients", "gauge", "Clients connected.", of.gauge("clients.connected"))
    yield Family("ckptree_connections", "counter", "Connections accepted.", of.counter("clients.accepted"))
    yield Family(
        "ckptree_connections_turned_away", "counter", "Connections not taken, by reason.",
        of.counters("clients.turned_away", "reason"),
    )  # fmt: skip
    yield Family(
        "ckptree_connections_expired", "counter", "Connections that the daemon closed, by reason.",
        of.counters("clients.expired", "reason"),
    )  # fmt: skip
    yield Family("ckptree_sent_bytes", "counter", "Bytes sent to clients.", of.counter("clients.sent_bytes"), "bytes")
    yield Family("ckptree_requests", "counter", "Requests, by verb.", of.counters("requests", "verb"))
    yield Family(
        "ckptree_refused_requests", "counter", "Requests not fulfilled, by error.", of.counters("refused", "error")
    )
    yield Family("ckptree_subscribers", "gauge", "Clients subscribed to live events.", of.gauge("subscribers"))
    yield Family("ckptree_events", "counter", "Live events, told or dropped.", of.counters("events", "fate"))
    yield Family(
        "ckptree_log_lines_dropped", "counter", "Lines that the log had no room for.", of.counter("log_lines_dropped")
    )
    yield Family(
        "ckptree_recording_active", "gauge", "1 where everything is recorded; 0 where the recording has stopped.",
        of.gauge("recording.active"),
    )  # fmt: skip
    yield Family("ckptree_recording_bytes", "gauge", "Size of the recording.", of.gauge("recording.bytes"), "bytes")
    yield Family("ckptree_recording_segments", "gauge", "Files of the recording.", of.gauge("recording.segments"))
    yield Family(
        "ckptree_recording_dropped_segments", "counter", "Oldest files that were dropped to keep its bounds.",
        of.counter("recording.dropped_segments"),
    )  # fmt: skip
    yield Family("ckptree_recording_gaps", "counter", "Gaps in the recording.", of.counter("recording.gaps"))
    yield Family(
        "ckptree_recording_tape_bytes", "counter", "Bytes recorded, before compression.",
        of.counter("recording.tape_bytes"), "bytes",
    )  # fmt: skip
    yield Family(
        "ckptree_recording_longest_fork_seconds", "gauge", "The longest time the loop took to begin a keyframe.",
        of.gauge("recording.longest_fork_s"), "seconds",
    )  # fmt: skip
    yield Family(
        "ckptree_program_runs", "counter", "Runs of each BPF program; 0 unless kernel.bpf_stats_enabled is on.",
        of.each_counter("programs", "program", "runs"),
    )  # fmt: skip
    yield Family(
        "ckptree_program_run_seconds", "counter", "Time in each BPF program; 0 unless kernel.bpf_stats_enabled is on.",
        of.each_counter("programs", "program", "run_s"), "seconds",
    )  # fmt: skip
    yield Family(
        "ckptree_program_recursion_misses", "counter", "Runs that the kernel skipped.",
        of.each_counter("programs", "program", "recursion_misses"),
    )  # fmt: skip
    yield Family(
        "ckptree_hook", "gauge", "1 for each hook in force; 0 where none works, and the sweeps find the change.",
        tuple(
            Sample("", int(bool(hook)), {"feature": feature, "hook": hook})
            for feature, names in used
            for hook in names or [""]
        ),
    )  # fmt: skip
