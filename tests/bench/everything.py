# SPDX-License-Identifier: Apache-2.0
"""``make bench``: all measurements, one after the other, each with its rivals in the same run, in one report.

``python -m tests.bench.everything [--write] [--long]`` from the repository's root, as root. With --write the tables go
between the marks of docs/benchmarks.md, and a picture beside it.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import bench_snapshot
from tests.bench.figures import median, table
from tests.bench.options import add_write, parsed
from tests.bench.report import TOP, draw, lines, splice
from tests.support.dying import die_with_parent

Figures = dict[str, Any]

# The measurements: modules beside this one, with their options. The default form ends within ten minutes.
RUNS: dict[str, tuple[str, ...]] = {
    "bench_snapshot": ("--rounds", "16"),
    "bench_hooks": ("--pairs", "15"),
    "bench_table": (),
    "bench_events": (),
    "bench_footprint": (),
    "bench_rebuild": ("--rounds", "11"),
}
SHORT: dict[str, tuple[str, ...]] = {
    "bench_snapshot": ("--tasks", "20", "--rounds", "1"),
    "bench_hooks": ("--pairs", "1", "--share", "0.02"),
    "bench_table": ("--forks", "500", "--replays", "1"),
    "bench_events": ("--lives", "100", "--rounds", "1"),
    "bench_footprint": ("--forks", "2000", "--tasks", "100", "--seconds", "0.5"),
    "bench_rebuild": ("--tasks", "20", "--rounds", "1"),
}
"""Options of a run too short for valid figures, which only shows that the measurements work."""
LONG: dict[str, tuple[str, ...]] = {"bench_footprint": ("--forks", "10000000"), "bench_snapshot": ("--rounds", "101")}


def run(name: str, options: Sequence[str]) -> Figures:
    """Run one measurement; return its figures."""
    print(f"bench: {name} {' '.join(options)}", file=sys.stderr, flush=True)
    begun = time.monotonic()
    command = [sys.executable, "-m", f"tests.bench.{name}", *options, "--json"]
    with subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent) as ran:
        try:
            out, _ = ran.communicate()
        except BaseException:
            ran.terminate()  # and wait for its end, in which the measurement ends its processes
            raise
    if ran.returncode:
        sys.exit(ran.returncode)
    print(f"bench: {name} took {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
    figures: Figures = json.loads(out)
    return figures


def _spread(figures: Figures) -> str:
    return f"{figures['median_ms']:.2f} ({figures['q1_ms']:.2f} .. {figures['q3_ms']:.2f})"


def _times(figures: Figures, *, upwards: bool) -> str:
    shares = figures["share"], *sorted((figures["share_q1"], figures["share_q3"]), reverse=upwards)
    return "{:.1f} ({:.1f} .. {:.1f})".format(*(1 / share if upwards else share for share in shares))


def snapshots(figures: Figures) -> str:
    """Return the table of the durations of all methods, with their ratios."""
    places = list(figures)
    rows = [[name, *(_spread(figures[place][name]) for place in places)] for name in figures[places[0]]]
    for words, name, upwards in (
        ("C scan of /proc, times ckptree", bench_snapshot.PROC, True),
        ("ckptree, times the bare iterator", bench_snapshot.ITERATOR, False),
        ("both again at once, ckptree, times the bare iterator", bench_snapshot.ITERATOR_AGAIN, False),
    ):
        rows.append([words, *(_times(figures[place][name], upwards=upwards) for place in places)])
    return table(("ms: median (quartiles)", *places), rows)


def picture(figures: Figures) -> str:
    """Draw the durations as curves, for trees without other tasks beside them."""
    names = (bench_snapshot.DAEMON, bench_snapshot.ITERATOR, bench_snapshot.PROC, bench_snapshot.PSUTIL)
    curves = {
        name: {
            float(place.split()[0]): figures[place][name]["median_ms"] for place in figures if place.endswith("tasks")
        }
        for name in names
    }
    return lines("One capture of a quiet tree", curves, ("tasks", "ms"), own="ckptree")


CALLS = {
    "fork": "fork, exit, wait",
    "vfork": "vfork, exit, wait",
    "exec": "vfork, exec, exit, wait",
    "thread": "thread, exit, join",
}


def hooks(figures: Figures) -> str:
    """Return the cost for the watched processes, and the kernel's own figures for each program."""
    rows = [
        [
            CALLS.get(name, name),
            f"{one['bare_ns']:,.0f}",
            f"{one['added_ns']:+,.0f}",
            f"{one['added_q1_ns']:+,.0f} .. {one['added_q3_ns']:+,.0f}",
        ]
        for name, one in figures["calls"].items()
    ]
    loops = table(("ns per call", "unwatched", "added, median", "quartiles"), rows)
    programs = ", ".join(f"`{name}` {ns:.0f}" for name, ns in figures["programs"].items())
    return f"{loops}\n\nOf that, the programs themselves, in ns a run as the kernel counts: {programs}."


def others(found: dict[str, Figures]) -> str:
    """Return the other measurements, one line each."""
    daemon, rate, rebuild = found["bench_footprint"], found["bench_table"], found["bench_rebuild"]["ns"]
    life = {case: median(values) for case, values in found["bench_events"]["us"].items()}
    bare, built = (median(values) / 1e6 for values in rebuild.values())
    rows = [
        ["daemon ready, programs compiled before", f"{daemon['start_ms']:.0f} ms"],
        ["resident memory of the daemon, without the ring", f"{daemon['resident_mb']:.1f} MB"],
        ["memory for each live task", f"{daemon['bytes_per_task']:.0f} bytes"],
        [f"memory grown by {daemon['forks']:,.0f} forks", f"{daemon['grown_by_forks_kb']:.0f} KB"],
        [
            f"CPU of the daemon, {daemon['storm_records_per_s']:,.0f} records a second of a storm at full rate",
            f"{100 * daemon['storm_cpu_share']:.1f} % of a core, {daemon['storm_cpu_us_per_record']:.2f} us each",
        ],
        ["records the table takes, from ring bytes, one core", f"{rate['median']:,.0f} a second"],
        *(
            [f"birth, exec, exit and reap of a process: {case}", f"{us:.1f} us of the daemon"]
            for case, us in life.items()
        ),
        ["within a restart of 1000 tasks, from the first clone3() to the last", f"{built:.0f} ms"],
        ["a bare loop of clone3() with set_tid, for as many", f"{bare:.0f} ms: {bare / built:.2f} times that"],
    ]
    return table(("", "figure"), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all measurements once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_write(parser, picture=True)
    parser.add_argument("--long", action="store_true", help="ten million forks, a hundred rounds")
    parser.add_argument("--short", action="store_true", help="a trial run without valid figures")
    parser.add_argument("--tasks", default="100,1000,5000,20000", help="sizes of trees")
    parser.add_argument("--keep", type=Path, help="where to keep the figures as JSON")
    options = parsed(parser, arguments)
    if options.keep and not options.keep.parent.is_dir():
        parser.error(f"--keep {options.keep}: there is no such folder")
    if options.short and options.write:
        parser.error("--short says nothing that might be written")
    more = {"bench_snapshot": ("--tasks", options.tasks)}
    extent = SHORT if options.short else LONG if options.long else {}
    found = {name: run(name, (*given, *more.get(name, ()), *extent.get(name, ()))) for name, given in RUNS.items()}
    if options.keep:
        options.keep.write_text(json.dumps(found, indent=1))
    texts = {
        "bench-snapshot": snapshots(found["bench_snapshot"]),
        "bench-hooks": hooks(found["bench_hooks"]),
        "bench-others": others(found),
    }
    print("\n\n".join(texts.values()))
    if options.write:
        texts["bench-snapshot"] = f"![Time of one capture](snapshot.svg)\n\n{texts['bench-snapshot']}"
        for name, text in texts.items():
            splice(text, name)
        draw("snapshot", picture(found["bench_snapshot"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
