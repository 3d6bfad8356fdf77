# SPDX-License-Identifier: Apache-2.0
"""What a scenario is: a script that makes a tree, and what of it to capture."""

from collections.abc import Callable
from typing import NamedTuple

from agent.model import Mode
from tests.live.treeprog import Tree

CONTAINER = "fork 0 1 newpid; setsid 1;"
"""The usual root: node 1, init of a new pid namespace and leader of its session and group."""


class Target(NamedTuple):
    """What to capture. `leaks` are the nodes because of which mode container must be refused."""

    root: int = 1
    mode: Mode = "container"
    leaks: tuple[int, ...] = ()


Scenario = Callable[[Tree], Target]
SCENARIOS: dict[str, Scenario] = {}


def scenario(make: Scenario) -> Scenario:
    """Enter a scenario under its name."""
    SCENARIOS[make.__name__] = make
    return make
