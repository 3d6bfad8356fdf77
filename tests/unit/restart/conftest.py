# SPDX-License-Identifier: Apache-2.0
"""A model of the kernel, the init of a namespace in it, and the plan of a small tree."""

import pytest

from agent.model import Snapshot
from agent.restart.planning.kernelmodel import Kernel
from agent.restart.planning.plan import Plan
from agent.restart.planning.search import make_plan
from agent.table.objects import TaskStruct
from tests.support.builders import a_daemon


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


@pytest.fixture
def daemon() -> Snapshot:
    """Return a_daemon()."""
    return a_daemon()


@pytest.fixture
def plan(daemon: Snapshot) -> Plan:
    """Return its plan."""
    return make_plan(daemon)
