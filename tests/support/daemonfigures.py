# SPDX-License-Identifier: Apache-2.0
"""A daemon's answer to ``metrics``, with every figure there is."""

from typing import Any, Final

HISTOGRAM: Final = {"buckets": [[0.001, 2], [0.01, 3]], "count": 5, "sum": 1.25}
FIGURES: Final[dict[str, Any]] = {
    "ok": True,
    "version": "1.2.3",
    "uptime_s": 12.5,
    "records": {"fork": 3, "exec": 0},
    "lost": {"ring-full": 7},
    "withheld": 8,
    "allowed_per_second": 500,
    "ring": {"bytes": 4096, "pending_bytes": 8, "most_pending_bytes": 9},
    "table": {"tasks": {"running": 4, "zombie": 1}, "pids": 6, "namespaces": 2},
    "sweeps": {"start": 1},
    "anomalies": {},
    "repairs": 1,
    "assumed_births": 5,
    "snapshots": 11,
    "snapshot_seconds": HISTOGRAM,
    "hooks": {"fork": ["raw_tracepoint:task_newtask"], "reap": []},
    "programs": {"on_fork": {"runs": 3, "run_s": 0.5, "recursion_misses": 1}},
    "clients": {
        "connected": 1,
        "most_connected": 2,
        "accepted": 2,
        "turned_away": {"all": 3},
        "expired": {},
        "sent_bytes": 4,
    },
    "requests": {"snapshot": 1},
    "refused": {},
    "subscribers": 1,
    "events": {"told": 5, "dropped": 6},
    "log_lines_dropped": 0,
    "recording": {
        "folder": "/x",
        "state": "recording",
        "active": 1,
        "bytes": 7,
        "segments": 2,
        "dropped_segments": 3,
        "gaps": 4,
        "tape_bytes": 5,
        "written_bytes": 6,
        "longest_fork_s": 0.125,
    },
    "loop": {
        "turn_seconds": HISTOGRAM,
        "job_seconds": HISTOGRAM,
        "longest_job_s": 0.5,
        "longest_turn_s": 0.25,
        "longest_turn_in": "sweep",
    },
    "of a later version": {"anything": [1]},
}
