# SPDX-License-Identifier: Apache-2.0
"""The names of signals, for messages and documents."""

import signal


def signal_name(number: int) -> str:
    """Return the name of a signal, as kill -l prints it; "none" for 0, the number if it has no name."""
    if not number:
        return "none"
    if signal.SIGRTMIN < number < signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def signal_in_words(number: int) -> str:
    """Return a signal for a sentence: its name, "signal 33" where it has none, "no signal" for 0."""
    name = signal_name(number)
    return f"signal {name}" if name.isdecimal() else name if number else "no signal"
