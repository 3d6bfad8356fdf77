# SPDX-License-Identifier: Apache-2.0
"""The messages about a rebuild that failed."""

import errno
import os
from pathlib import Path

import pytest

from agent.errors import HostError
from agent.restart.planning.plan import Plan
from agent.restart.planning.search import decide
from agent.restart.rebuild.failure import failure
from agent.restart.rebuild.helperabi import Message, Reason, Setup
from exporters.criu import criutree
from exporters.criu.imagefolder import ImageFolder
from tests.support import criuimages

HELPER = Path("helper")


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """The plan of a small tree."""
    criuimages.written("subtree", tmp_path)
    return decide(criutree.load(ImageFolder(tmp_path)), pidns=True, any_numbers=False)[1]


@pytest.mark.parametrize(("user", "named"), [(0, True), (1000, False)])
def test_a_root_that_cannot_map_itself_is_told_which_capability_it_lacks(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, user: int, *, named: bool
) -> None:
    """Container runtimes leave a root a few capabilities, and CAP_SETFCAP may not be one."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    message = Message(0, Reason.SETUP, Setup.IDMAP, len(plan.steps), errno.EPERM)
    error = failure(message, plan, HELPER)

    assert isinstance(error, HostError)
    assert "no CAP_SYS_ADMIN, and the ids of the user namespace for the tree cannot be mapped: EPERM" in str(error)
    assert ("CAP_SETFCAP" in str(error)) == named
