# SPDX-License-Identifier: Apache-2.0
"""Calls on the planner's model of the kernel."""

from collections.abc import Callable

import pytest

from agent.model import WaitStatus
from agent.restart.planning.kernelmodel import CallRefusedError, Kernel
from agent.table.objects import TaskStruct


def refused(call: Callable[[], object]) -> str:
    """Return the errno of a refused call."""
    with pytest.raises(CallRefusedError) as caught:
        call()
    return caught.value.errno


def dead(kernel: Kernel, task: TaskStruct, status: int = 0) -> TaskStruct:
    """Let the task exit, and return it."""
    kernel.exit(task, WaitStatus(status))
    return task
