# SPDX-License-Identifier: Apache-2.0
"""A short run of the fuzzer of recordings; ``make fuzz-recording`` is the long one."""

from tests.fuzz.fuzz_recording import run


def test_changed_recordings_give_the_true_state_or_say_that_something_is_missing() -> None:
    """A hundred inputs are enough for both."""
    found = run(120, 20.0, 2026)

    assert "told" in found
