# SPDX-License-Identifier: Apache-2.0
"""The messages about a rebuild that failed."""

import errno
import os
from pathlib import Path

import pytest

from agent.errors import HostError
from agent.restart.planning.plan import Plan
from agent.restart.planning.search import decide
from agent.restart.rebuild.failure import failure, remedy
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


def test_a_helper_of_another_version_is_named_with_what_to_do(plan: Plan) -> None:
    """It reads no plan of another version, and no system call has failed."""
    error = str(failure(Message(0, Reason.SETUP, Setup.PROGRAM, len(plan.steps), 0), plan, HELPER))

    assert error == "helper is of another version, and cannot read this plan: `make setup` compiles it"


def test_a_helper_of_a_package_comes_from_the_package_again(tmp_path: Path) -> None:
    """A package has no `make`."""
    assert remedy(tmp_path) == "install the package ckptree again"


@pytest.mark.parametrize(("number", "name"), [(11, "SIGSEGV"), (33, "signal 33")])
def test_a_signal_that_ends_no_process_here_has_its_name(plan: Plan, number: int, name: str) -> None:
    """Its number, where it has no name."""
    error = str(failure(Message(0, Reason.SURVIVED, value=number), plan, HELPER))

    assert error.endswith(f": {name} does not end it here")
