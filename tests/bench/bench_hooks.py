# SPDX-License-Identifier: Apache-2.0
"""Measurement of the cost of the hooks: loops of system calls with and without the daemon, in turn.

``python -m tests.bench.bench_hooks [--pairs 15] [--json]`` from the repository's root, as root. The machine's own speed
drifts by more than the hooks cost, so only neighbours are compared: the figure is the median of the differences of
pairs.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bpf.hooks import FEATURES
from tests.bench.compiled import compiled
from tests.bench.figures import median, quantile, table
from tests.bench.held import held
from tests.bench.options import amount, parsed, positive
from tests.bench.watcher import Watcher

CALLS = {"fork": 1500, "vfork": 4000, "exec": 400, "thread": 4000, "setpgid": 100_000, "getppid": 500_000}
"""Calls per loop: about a fifth of a second, short against the drift."""

_share = 1.0  # of these
_STATISTICS_RING = 1 << 24  # the ring has no reader while a loop runs

OPTIONAL = tuple(feature.name for feature in FEATURES if not feature.required)
KINDS = {
    "getppid, raw tracepoints alone": OPTIONAL,
    "getppid, and one system call's tracepoint": tuple(name for name in OPTIONAL if name != "setsid"),
    "getppid, all": (),
}
"""Features to leave out, by the kind of hook that is then loaded, as far as this kernel has it."""


def loop_ns(name: str) -> float:
    """Return the duration of one call in ns, measured once."""
    command = [str(compiled("bench_hooks")), name, str(max(1, int(CALLS[name] * _share)))]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run(pairs: int, watcher: Watcher) -> dict[str, list[tuple[float, float]]]:
    """Return pairs of (without, with) for each loop; every other pair is measured in reverse order."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CALLS}
    for n in range(pairs):
        sides: dict[bool, dict[str, float]] = {}
        for watched in (bool(n % 2), not n % 2):
            if watched:
                watcher.start()
            try:
                sides[watched] = {name: loop_ns(name) for name in CALLS}
            finally:
                watcher.stop()
        for name, pair in found.items():
            pair.append((sides[False][name], sides[True][name]))
    return found


def run_kinds(pairs: int) -> dict[str, list[tuple[float, float]]]:
    """Return (without, with) for a call that has no hook, with one kind of hook after the other loaded."""
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for _ in range(pairs):
        for kind, without in KINDS.items():
            bare = loop_ns("getppid")
            with held(without):
                found[kind].append((bare, loop_ns("getppid")))
    return found


def run_programs() -> dict[str, float]:
    """Return the kernel's own figure for each program, in ns for a run, while the loops run: medians of frequent
    programs.
    """
    from agent.capture.probes import Probes  # only after the loops above

    switch = Path("/proc/sys/kernel/bpf_stats_enabled")
    before = switch.read_text()
    probes = Probes(_STATISTICS_RING)
    try:
        switch.write_text("1")
        for name in CALLS:
            loop_ns(name)
            probes.ring.drain(lambda _data, _at: None)
        found = {}
        for name, fd in probes._descriptors.items():
            words = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
            runs = int(words.get("run_cnt", 0))
            if name.startswith("program:") and runs >= min(CALLS.values()) * _share:
                found[name.removeprefix("program:")] = int(words["run_time_ns"]) / runs
        return found
    finally:
        switch.write_text(before)
        probes.close()


def summary(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Return the median without, the median of the differences, and the quartiles of the differences."""
    differences = [watched - bare for bare, watched in pairs]
    return {
        "bare_ns": median(bare for bare, _ in pairs),
        "added_ns": median(differences),
        "added_q1_ns": quantile(differences, 0.25),
        "added_q3_ns": quantile(differences, 0.75),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it once."""
    global _share
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=positive, default=15)
    parser.add_argument("--share", type=amount, default=1.0, help="share of the calls of each loop, for a trial")
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout")
    options = parsed(parser, arguments)
    _share = options.share
    watcher = Watcher()
    found = run(options.pairs, watcher) | run_kinds(options.pairs)
    figures = {name: summary(pairs) for name, pairs in found.items()}
    programs = run_programs()
    if options.json:
        print(json.dumps({"calls": figures, "programs": programs}))
        return 0
    head = ("call", "ns unwatched", "ns added", "quartiles", "share")
    cells = [
        [
            name,
            f"{f['bare_ns']:.0f}",
            f"{f['added_ns']:+.0f}",
            f"{f['added_q1_ns']:+.0f} .. {f['added_q3_ns']:+.0f}",
            f"{100 * f['added_ns'] / f['bare_ns']:.1f} %",
        ]
        for name, f in figures.items()
    ]
    print(table(head, cells))
    print()
    print(table(("program", "ns a run, by the kernel"), [[name, f"{ns:.0f}"] for name, ns in programs.items()]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
