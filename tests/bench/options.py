# SPDX-License-Identifier: Apache-2.0
"""The command line of a measurement: allowed numbers, required rights, and the end by a signal."""

import argparse
import math
import os
from collections.abc import Sequence

from tests.support.dying import end_by_signals

_ROOM = 400
"""Numbers that a storm needs beside its idle tasks: after the first round the kernel reserves the lowest 300."""


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
