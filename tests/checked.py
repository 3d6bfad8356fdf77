# SPDX-License-Identifier: Apache-2.0
"""What must be true of a check of any bytes at all, whoever thought of them."""

from agent.errors import FormatError
from exporters import registry
from exporters.check import check
from exporters.findings import RULES

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
"""Errors that the readers do without: of these rules at least a part is no reader's."""


def judged(data: bytes) -> list[str]:
    """Names of the errors. Each finding is a rule's and in the file, all are in order, and the reader agrees."""
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
