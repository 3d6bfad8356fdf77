# SPDX-License-Identifier: Apache-2.0
"""Rules for a check of any bytes."""

from agent.errors import FormatError
from exporters import registry
from exporters.checking.check import check
from exporters.content.findings import RULES

BEYOND_READERS = {
    "session-leader-group",
    "owner-is-thread",
    "session-owner",
    "group-sessions",
    "inherited-session",
    "container-root",
    "root-depth",
    "nesting-parent",
    "namespace-level",
    "namespace-fit",
    "birth-creator",
    "thread-group",
    "exited-parent",
    "zombie-leader",
    "dead-leader",
    "exit-code",
    "duplicate-number",
    "shared-memory",
}
"""Error rules of which no reader checks at least a part."""


def judged(data: bytes) -> list[str]:
    """Return the names of the errors in a check's findings.

    Assert that each finding has a known rule and lies in the file, that findings are in order, and that the reader
    agrees.
    """
    findings = check(data)
    offsets = [found.offset or 0 for found in findings]
    for found in findings:
        assert found.name in RULES
        assert found.text
        assert 0 <= (found.offset or 0) <= len(data), found
    assert offsets == sorted(offsets)
    errors = [found.name for found in findings if found.severity == "error"]
    refused = None
    try:
        registry.load(data)
    except FormatError as error:
        refused = error
    assert errors if refused else set(errors) <= BEYOND_READERS, (refused, findings)
    return errors
