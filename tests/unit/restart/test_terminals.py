# SPDX-License-Identifier: Apache-2.0
"""The programs that must not have the caller's terminal."""

import os
import pty
from pathlib import Path

import pytest

from agent.model import Capabilities
from agent.restart.rebuild import terminals
from agent.restart.rebuild.helperabi import Rights
from agent.restart.rebuild.terminals import Caller

FULL = (1 << 41) - 1
ROOT = Caller(0, 0, frozenset({0}), FULL, no_new_privs=False)
USER = Caller(1000, 1000, frozenset({1000, 27}), 0, no_new_privs=False)
ALL = Capabilities(0, FULL, FULL, FULL, 0)
NONE = Capabilities(0, 0, 0, FULL, 0)
AS_ROOT = Rights(0, 0, 0, 0, (), ALL, no_new_privs=False, umask=0)
AS_USER = Rights(1000, 1000, 1000, 1000, None, NONE, no_new_privs=False, umask=0)


@pytest.mark.parametrize(
    ("own", "rights"),
    [
        (ROOT, AS_ROOT._replace(uid=1000)),
        (ROOT, AS_ROOT._replace(euid=1000)),
        (ROOT, AS_ROOT._replace(caps=Capabilities(0, 1, 1, FULL, 0))),
        (ROOT, AS_ROOT._replace(no_new_privs=True)),
        (ROOT, AS_ROOT._replace(bound_only=True, caps=Capabilities(0, 0, 0, 1, 0))),
        (USER, AS_USER._replace(no_new_privs=True)),
        (USER, AS_USER._replace(gid=100)),
        (USER, AS_USER._replace(groups=(1000,))),
    ],
)
def test_a_program_with_fewer_rights_is_known(own: Caller, rights: Rights) -> None:
    """Whichever of them it lacks."""
    assert own.exceeds(rights)


@pytest.mark.parametrize(
    ("own", "rights"),
    [
        (ROOT, None),
        (ROOT, AS_ROOT),
        (ROOT, AS_ROOT._replace(gid=100)),
        (ROOT, AS_ROOT._replace(bound_only=True)),
        (USER, AS_USER),
        (USER, AS_USER._replace(groups=(1000, 27, 4))),
    ],
)
def test_a_program_with_the_same_rights_or_more_is_no_such_program(own: Caller, rights: Rights | None) -> None:
    """Groups are anyone's who may set them."""
    assert not own.exceeds(rights)


def test_a_terminal_is_within_reach_as_a_stream_or_as_the_controlling_one(tmp_path: Path) -> None:
    """The second has no stream, but a number in /proc."""
    screen, line = pty.openpty()
    saved = os.dup(0)
    try:
        os.dup2(line, 0)
        assert 0 in terminals.streams()
        assert terminals.within_reach()
    finally:
        os.dup2(saved, 0)
        for each in (screen, line, saved):
            os.close(each)
    (tmp_path / "self").mkdir()
    for number, has_one in (("34816", True), ("0", bool(terminals.streams()))):
        (tmp_path / "self" / "stat").write_text(f"7 (a) b) S 1 7 7 {number} 7 0")
        assert terminals.within_reach(tmp_path) == has_one


def test_output_goes_to_its_terminal_whole_and_in_order() -> None:
    """Both output streams of one terminal share a pipe."""
    screen, line = pty.openpty()
    saved = [os.dup(stream) for stream in range(3)]
    try:
        for stream in range(3):
            os.dup2(line, stream)
        relay = terminals.Relay()
        assert sorted(relay.ends) == [0, 1, 2]
        assert relay.ends[1] == relay.ends[2]
        assert os.read(relay.ends[0], 1) == b""
        out = os.dup(relay.ends[1])
        relay.start()
        os.write(out, b"a" * 1000)
        os.close(out)
        relay.finish()
    finally:
        for stream, old in enumerate(saved):
            os.dup2(old, stream)
        for each in (line, *saved):
            os.close(each)
    assert os.read(screen, 4096) == b"a" * 1000
    os.close(screen)
