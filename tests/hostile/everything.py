# SPDX-License-Identifier: Apache-2.0
"""``make hostile``: the daemon's service to root beside each attack, and beside four at once.

``python -m tests.hostile.everything [--seconds S] [ATTACK[+ATTACK...]...]`` from the repository's root, as root. The
exit code is 1 if a promise was broken; the last column names it.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.bench.figures import table
from tests.hostile.measure import ATTACKS, PROMISED, Outcome, measure
from tests.live.daemons import a_daemon

FOUR = ("flip-group", "reaps", "follows-a-chain", "connects")
HOGGED = ("connects", "burns")
HEAD = (
    "beside", "snapshots", "median ms", "p99 ms", "worst ms", "lost", "longest turn ms", "most MB", "MB before", "MB after",
    "untold", "verdict",
)  # fmt: skip


def row(outcome: Outcome) -> tuple[str, ...]:
    """Return an outcome as a row of the table."""
    return (
        outcome.attack,
        str(outcome.snapshots),
        *(f"{value:.1f}" for value in (outcome.median_ms, outcome.p99_ms, outcome.worst_ms)),
        str(outcome.lost),
        f"{outcome.longest_turn_ms:.0f}",
        *(f"{value:.1f}" for value in (outcome.resident_mb, outcome.before_mb, outcome.after_mb)),
        str(outcome.untold),
        "; ".join(outcome.failings(PROMISED)) or "kept",
    )


def main() -> int:
    """Print the table; each attack has a daemon of its own. Return the exit code."""
    parser = argparse.ArgumentParser(prog="make hostile")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("attacks", nargs="*", default=["none", *ATTACKS, "+".join(HOGGED), "+".join(FOUR)])
    arguments = parser.parse_args()
    rows = []
    failed = False
    for name in arguments.attacks:
        print(f"hostile: {name}", file=sys.stderr, flush=True)
        kinds = () if name == "none" else tuple(name.split("+"))
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            with a_daemon(Path(folder)) as daemon:
                outcome = measure(daemon.socket, daemon.process.pid, kinds, arguments.seconds)
        rows.append(row(outcome))
        failed = failed or bool(outcome.failings(PROMISED))
    print(table(HEAD, rows))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
