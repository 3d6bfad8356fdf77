# SPDX-License-Identifier: Apache-2.0
"""The common setup of all tests: they depend on no setting of the process that starts them."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from agent.cli import confinement
from tests.support.examples import patient

# A shell starts a background job with SIGINT and SIGQUIT ignored, nohup starts one with SIGHUP ignored; the processes of a
# test would inherit that. A handler that does nothing is not inherited over exec(), and leaves this process as deaf.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for _ignored in (signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_ignored) is signal.SIG_IGN:
        signal.signal(_ignored, lambda _number, _frame: None)

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
