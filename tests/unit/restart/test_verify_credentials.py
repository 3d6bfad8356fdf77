# SPDX-License-Identifier: Apache-2.0
"""The comparison of a filled task's credentials with those of its image: the kernel's own lines of this process."""

import os
from pathlib import Path
from typing import Any

import pytest

from agent.restart.contents.verifycredentials import verify_credentials
from exporters.criu import criuschema

ACTOR = 7
LOW = 0xFFFFFFFF


def own() -> Any:
    """Return the credentials of this process as CRIU writes them."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    users, groups = (list(map(int, lines[name].split())) for name in ("Uid", "Gid"))
    sets = {
        name.lower().replace("cap", "cap_"): [int(lines[name], 16) & LOW, int(lines[name], 16) >> 32]
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    }
    names = ("uid", "euid", "suid", "fsuid"), ("gid", "egid", "sgid", "fsgid")
    ids = dict(zip((*names[0], *names[1]), users + groups, strict=True))
    given, fixed = list(map(int, lines["Groups"].split())), int(lines["NoNewPrivs"])
    return criuschema.messages()["creds_entry"](**ids, **sets, secbits=0, groups=given, no_new_privs=fixed)


def found(creds: Any, pid: int = 0) -> list[str]:
    """Return the differences of this process from credentials."""
    return verify_credentials([(ACTOR, pid or os.getpid(), creds)], "task {}".format)


def test_a_task_with_the_credentials_of_its_image_has_no_difference() -> None:
    """One that /proc does not show is passed over."""
    assert found(own()) == []
    assert verify_credentials([(ACTOR, 0, own())], "task {}".format) == []


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("euid", 4242, "the user ids"),
        ("fsuid", 4242, "the user ids"),
        ("sgid", 4242, "the group ids"),
        ("groups", [4242, 4243], "instead of 4242 4243"),
        ("cap_inh", [1 << 5, 1], "the inheritable capabilities none instead of CAP_KILL, CAP_MAC_OVERRIDE"),
        ("cap_prm", [1 << 6, 0], "the permitted capabilities"),
        ("cap_eff", [1 << 6, 0], "the effective capabilities"),
        ("cap_bnd", [1 << 6, 0], "the bounding capabilities"),
        ("cap_amb", [1 << 6, 0], "the ambient capabilities"),
    ],
)
def test_each_credential_that_differs_is_named(field: str, value: Any, said: str) -> None:
    """With what the kernel says, and what the image has."""
    creds = own()
    if isinstance(value, list):
        creds.ClearField(field)
        getattr(creds, field).extend(value)
    else:
        setattr(creds, field, value)

    (line,) = found(creds)

    assert line.startswith("task 7: has the ")
    assert said in line


def test_a_task_without_no_new_privs_and_one_that_is_gone_are_named() -> None:
    """A process has it for ever, so here the image is the one without."""
    creds = own()
    creds.no_new_privs ^= 1

    assert found(creds)[0].startswith("task 7: has no_new_privs ")
    assert found(own(), pid=(1 << 22) + 1) == ["task 7: there is no such task"]
