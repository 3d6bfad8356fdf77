# SPDX-License-Identifier: Apache-2.0
"""Signals that end the program at any moment: no traceback appears."""

import os
import signal
import time

import pytest

from agent import __main__, errors
from exporters import registry
from tests.support.builders import a_snapshot, a_task
from tests.support.interrupted import DELAYS_S, begun


# Each command waits for its input or for a lock, so none ends before the last of the delays.
@pytest.mark.parametrize(
    "verb", [("show", "-"), ("check", "-"), ("convert", "-", "-"), ("plan", "-"), ("restart", "-")]
)
@pytest.mark.slow
def test_an_interrupt_at_any_moment_is_no_traceback(verb: tuple[str, ...]) -> None:
    """A terminal signals the whole group. Some modules turn an interrupt of their import into another error."""
    for delay in DELAYS_S:
        with begun(*verb) as process:
            time.sleep(delay)
            os.killpg(process.pid, signal.SIGINT)
            out, said = process.communicate(timeout=60)

        assert (process.returncode, out, said) == (130, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_other_signals_end_it_as_they_end_any_program(number: signal.Signals) -> None:
    """The program prints nothing and dies by the signal itself."""
    for delay in DELAYS_S[::4]:
        with begun("show", "-") as process:
            time.sleep(delay)
            process.send_signal(number)
            out, said = process.communicate(timeout=60)

        assert (process.returncode, out, said) == (-number, b"", b"")


def test_a_reader_that_goes_away_ends_each_verb_by_the_signal() -> None:
    """As in a shell's pipeline; without a word."""
    data = registry.image(a_snapshot([(1,)], [a_task(1, 0)]), "json")
    for verb in (("show", "-"), ("convert", "-", "-", "-f", "json"), ("check", "-", "--json")):
        with begun(*verb) as process:
            assert process.stdout is not None
            process.stdout.close()
            process.stdout = None
            _, said = process.communicate(data, timeout=60)

        assert (process.returncode, said) == (-signal.SIGPIPE, b"")


def test_an_inherited_sigint_that_is_ignored_stays_so() -> None:
    """`nohup` and a shell's `&` leave it so: a job in the background must not react to ^C."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with begun("show", "-") as process:
            for delay in DELAYS_S[:6]:
                time.sleep(delay)
                process.send_signal(signal.SIGINT)
            out, said = process.communicate(b"", timeout=60)
    finally:
        signal.signal(signal.SIGINT, before)

    assert process.returncode == 8
    assert (out, b"Traceback" in said) == (b"", False)


def test_the_program_and_its_verbs_have_one_code_for_an_interrupt() -> None:
    """The program itself knows it before anything is imported."""
    assert __main__.INTERRUPTED == errors.INTERRUPTED == errors.SIGNALLED + signal.SIGINT
