# SPDX-License-Identifier: Apache-2.0
"""OpenMetrics text as Prometheus's own parser reads it, which refuses what is none."""

from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families


def families(exposition: str) -> list[Any]:
    """Each with name, type, unit, documentation and samples."""
    return list(text_string_to_metric_families(exposition))  # type: ignore[no-untyped-call]  # the package has no types
