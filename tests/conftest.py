# SPDX-License-Identifier: Apache-2.0
"""The common setup of all tests: they depend on no setting of the process that starts them."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from agent.cli import confinement
from tests.support.builders import patient

# A shell starts a background job with SIGINT ignored; the processes of a test would inherit that and not be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.pop("CKPTREE_SOCKET", None)

# The duration of an example depends on the machine and not on the code.
settings.register_profile("ckptree", patient)
settings.load_profile("ckptree")


@pytest.fixture(scope="session", autouse=True)
def unconfined() -> Iterator[None]:
    """Keep a verb from confining this process, which would lose for good the rights that all other tests need."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(confinement, "confine_root", lambda: None)
        yield
