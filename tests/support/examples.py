# SPDX-License-Identifier: Apache-2.0
"""The settings with which Hypothesis draws examples."""

import os
from typing import Final

from hypothesis import HealthCheck, Phase, settings

QUICK: Final = "CKPTREE_QUICK"
"""The variable that `make check` sets: a test draws a tenth of its examples."""


def examples(count: int) -> int:
    """Return the number of examples that a test draws, of the number that `make test` draws."""
    return max(count // 10, 3) if os.environ.get(QUICK) else count


# The duration of an example depends on the machine and not on the code.
patient = settings(deadline=None, max_examples=examples(100), suppress_health_check=[HealthCheck.too_slow])
"""Settings for whole snapshots, which are slow to draw, above all on a busy machine."""

unexplained = settings(
    patient,
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""Settings for programs of a simulated kernel; to explain a failure, Hypothesis would run them too often."""
