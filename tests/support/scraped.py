# SPDX-License-Identifier: Apache-2.0
"""OpenMetrics text as Prometheus's own parser reads it; the parser refuses invalid text."""

from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families


def families(exposition: str) -> list[Any]:
    """Return the families, each with name, type, unit, documentation and samples."""
    return list(text_string_to_metric_families(exposition))  # type: ignore[no-untyped-call]  # the package has no types
