# SPDX-License-Identifier: Apache-2.0
"""A short run of the fuzzer of recordings; ``make fuzz-recording`` is the long one."""

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
ENDS = ("a state", "a state, named", "a time", "a time, named", "events", "lives")


@pytest.mark.slow
def test_changed_recordings_give_the_true_state_or_say_that_something_is_missing() -> None:
    """Each kind of end is reached, and no fault. The audit of a process cannot be ended, so it is one of its own."""
    options = ("-runs=1500", "-max_total_time=60", "-seed=2026")
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.fuzz_recording", *options],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert [end for end in ENDS if f" {end}\n" not in done.stdout] == []
