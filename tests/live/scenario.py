# SPDX-License-Identifier: Apache-2.0
"""Scenarios: a script that makes a tree, and the part of it to capture."""

from collections.abc import Callable
from typing import NamedTuple

from agent.model import Mode
from tests.live.treeprog import Tree

CONTAINER = "fork 0 1 newpid; setsid 1;"
"""The usual root: node 1, init of a new pid namespace and leader of its session and group."""


class Target(NamedTuple):
    """The root and mode of a capture. Because of the nodes in `leaks` the capture must be refused as a container."""

    root: int = 1
    mode: Mode = "container"
    leaks: tuple[int, ...] = ()


Scenario = Callable[[Tree], Target]
SCENARIOS: dict[str, Scenario] = {}


def scenario(make: Scenario) -> Scenario:
    """Enter a scenario under its name."""
    SCENARIOS[make.__name__] = make
    return make
