# SPDX-License-Identifier: Apache-2.0
"""``make hostile``: what root gets of a daemon beside each attack, and beside four at once.

``python -m tests.hostile.everything [--seconds S] [ATTACK[+ATTACK...]...]`` from the repository's root, as root.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.bench.figures import table
from tests.hostile.measure import ATTACKS, Outcome, measure
from tests.live.daemons import a_daemon

FOUR = ("flip-group", "reaps", "follows-a-chain", "connects")
HEAD = ("beside", "snapshots", "median ms", "p99 ms", "worst ms", "lost", "longest turn ms", "resident MB", "untold")


def row(outcome: Outcome) -> tuple[str, ...]:
    """An outcome as a line of the table."""
    return (
        outcome.attack,
        str(outcome.snapshots),
        *(f"{value:.1f}" for value in (outcome.median_ms, outcome.p99_ms, outcome.worst_ms)),
        str(outcome.lost),
        f"{outcome.longest_turn_ms:.0f}",
        f"{outcome.resident_mb:.1f}",
        str(outcome.untold),
    )


def main() -> None:
    """Print the table; each attack has a daemon of its own."""
    parser = argparse.ArgumentParser(prog="make hostile")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("attacks", nargs="*", default=["none", *ATTACKS, "+".join(FOUR)])
    arguments = parser.parse_args()
    rows = []
    for name in arguments.attacks:
        print(f"hostile: {name}", file=sys.stderr, flush=True)
        kinds = () if name == "none" else tuple(name.split("+"))
        with tempfile.TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            with a_daemon(Path(folder)) as daemon:
                rows.append(row(measure(daemon.socket, daemon.process.pid, kinds, arguments.seconds)))
    print(table(HEAD, rows))


if __name__ == "__main__":
    main()
