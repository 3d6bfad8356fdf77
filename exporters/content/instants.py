# SPDX-License-Identifier: Apache-2.0
"""Points in time as text."""

from datetime import UTC, datetime

from exporters.content.wording import NS_PER_S


def instant(time_ns: int) -> str:
    """Return date and time in UTC as of RFC 3339, to the nanosecond.

    Args:
        time_ns: CLOCK_REALTIME.
    """
    return f"{datetime.fromtimestamp(time_ns // NS_PER_S, UTC):%Y-%m-%dT%H:%M:%S}.{time_ns % NS_PER_S:09}Z"
