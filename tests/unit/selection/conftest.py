# SPDX-License-Identifier: Apache-2.0
"""A simulated kernel and the table of its records."""

import pytest

from tests.support.watched import Watched, watched


@pytest.fixture
def pair() -> Watched:
    """Return a kernel with its init, and a table that watches it."""
    return watched()
