# SPDX-License-Identifier: Apache-2.0
"""The command line of a measurement: allowed numbers, required rights, and the end by a signal."""

import argparse
import math
import os
from collections.abc import Sequence

from tests.support.dying import end_by_signals

_ROOM = 400
"""Numbers that a storm needs beside its idle tasks: after the first round the kernel reserves the lowest 300."""

_SMALL_RING = 1 << 16


def natural(text: str) -> int:
    """Parse an integer of 0 or more."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 or more")
    return number


def positive(text: str) -> int:
    """Parse an integer of 1 or more."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return number


def amount(text: str) -> float:
    """Parse a finite number above 0."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected more than 0")
    return number


def sizes(text: str) -> list[int]:
    """Parse a list of sizes, as in 100,1000."""
    return [positive(word) for word in text.split(",")]


def add_storm(
    parser: argparse.ArgumentParser, *, pause_ms: float, between: str, idle: int = 200, rate: int = 0
) -> None:
    """Add the options of a measurement in storms, with these defaults; `between` says what the pause is between."""
    parser.add_argument("--idle", type=natural, default=idle, help="tasks that sleep beside the storm")
    parser.add_argument("--rate", type=natural, default=rate, help="births per second; 0: all the machine can do")
    parser.add_argument("--workers", type=natural, default=0, help="processes that make the storm; 0: two per CPU")
    parser.add_argument("--pid-max", type=natural, default=2000, help="numbers of the second kind of storm")
    parser.add_argument("--pause-ms", type=float, default=pause_ms, help=f"between two {between}")


def add_write(parser: argparse.ArgumentParser, *, picture: bool = False) -> None:
    """Add the option that keeps the figures; `picture`: and one of them."""
    what = (
        "figures into docs/benchmarks.md, and a picture beside it"
        if picture
        else "put the figures into docs/benchmarks.md"
    )
    parser.add_argument("--write", action="store_true", help=what)


def kinds_of_storm(options: argparse.Namespace, small_ring: str = "") -> dict[str, tuple[int, str]]:
    """Return the storms that a measurement runs in: for each its name, its pid_max and the daemon's settings.

    Args:
        options: those of `add_storm`.
        small_ring: further settings where the ring is so small that records are lost.
    """
    return {
        "all numbers free": (0, ""),
        f"no more than {options.pid_max} numbers": (options.pid_max, ""),
        f"a ring of {_SMALL_RING >> 10} KB": (0, f"ring_bytes = {_SMALL_RING}\n{small_ring}"),
    }


def parsed(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None, *, root: bool = True
) -> argparse.Namespace:
    """Return the options, and let a signal end every block from here on.

    Args:
        parser: of the measurement. One with ``pid_max`` has ``idle``, too.
        arguments: of the command line; None: of this process.
        root: True if the measurement needs root.
    """
    options = parser.parse_args(arguments)
    if getattr(options, "pid_max", 0) and options.pid_max < options.idle + _ROOM:
        parser.error(f"--pid-max {options.pid_max}: {options.idle} idle tasks and a storm take {options.idle + _ROOM}")
    if root and os.geteuid():
        parser.exit(5, f"{parser.prog}: not permitted: this loads BPF, or makes pid namespaces: run it as root\n")
    end_by_signals()
    return options
