# SPDX-License-Identifier: Apache-2.0
"""A short run of the fuzzer of CRIU's folders; ``make fuzz-criu`` is the long one."""

from tests.fuzz.fuzz_criu import run


def test_changed_folders_are_read_or_refused() -> None:
    """A hundred folders are enough to get each kind of end."""
    found = run(200, 5.0, 2026)

    assert {"sound", "findings", "FormatError", "forecast", "no forecast", "contents: refused"} <= found.keys()
