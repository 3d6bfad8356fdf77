# SPDX-License-Identifier: Apache-2.0
"""A short run of the fuzzer of requests; ``make fuzz-api`` is the long one."""

from tests.fuzz.fuzz_api import run


def test_mutated_requests_are_answered_or_refused_and_leave_nothing_behind() -> None:
    """Some hundred clients are enough to get each kind of answer."""
    found = run(800, 5.0, 2026)

    assert {"ok", "events", "protocol", "usage", "not-permitted", "no-such-root", "version"} <= found.keys()
