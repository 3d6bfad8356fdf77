# SPDX-License-Identifier: Apache-2.0
"""Some of the hooks, loaded and held without a reader of their records, for the cost of a call that makes no record.

``python -m tests.bench.held [FEATURE]...`` loads all but the named ones, says so by a line, and holds them until its
standard input ends.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_REPOSITORY = Path(__file__).parents[2]


@contextmanager
def held(without: tuple[str, ...]) -> Iterator[list[str]]:
    """Hold the hooks by these names while the block runs."""
    command = [sys.executable, "-m", "tests.bench.held", *without]
    with subprocess.Popen(command, cwd=_REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        if holder.stdin is None or holder.stdout is None:
            raise RuntimeError("no pipes to the process that holds the hooks")
        yield holder.stdout.readline().split()
        holder.stdin.close()


def _hold(without: list[str]) -> None:
    from agent.capture.probes import Probes  # the process that measures must not have it

    probes = Probes(1 << 20, without)
    print(*sorted({hook for hooks in probes.hooks.values() for hook in hooks}), flush=True)
    sys.stdin.read()
    probes.close()


if __name__ == "__main__":
    _hold(sys.argv[1:])
