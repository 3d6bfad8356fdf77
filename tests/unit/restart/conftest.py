# SPDX-License-Identifier: Apache-2.0
"""A model of the kernel, and the init of a namespace in it."""

import pytest

from agent.restart.planning.kernelmodel import Kernel
from agent.table.objects import TaskStruct


@pytest.fixture
def kernel() -> Kernel:
    """Return a kernel with only a guard."""
    return Kernel()


@pytest.fixture
def top(kernel: Kernel) -> TaskStruct:
    """Return the init of a namespace, leader of its session."""
    init = kernel.clone(kernel.guard, (1,), newpid=True)
    kernel.setsid(init)
    return init
