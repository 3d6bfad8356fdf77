# SPDX-License-Identifier: Apache-2.0
"""The end of a restart that fails in a way that nobody has foreseen: its exit code is not taken for the root's."""

import errno
from typing import NoReturn

import pytest

from agent.cli import restartverb


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Have each restart fail with an error."""

    def fail(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(restartverb, "_restart", fail)


def test_an_unforeseen_error_of_a_restart_with_contents_is_told_and_is_not_the_roots_status(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """1 is a status that the root of the tree may have."""
    failing(monkeypatch, KeyError(5))
    with pytest.raises(SystemExit) as ended:
        restartverb.restart("criu:images")

    told = capfd.readouterr().err
    assert ended.value.code == restartverb.OWN_FAILURE
    assert "test_restartverb.py" in told  # where it was
    assert told.splitlines()[-1].startswith("ckptree: restart has a fault, KeyError: 5")


def test_an_output_that_takes_nothing_is_told_and_is_not_the_roots_status(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The line of --json is written before the tasks run."""
    failing(monkeypatch, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(SystemExit) as ended:
        restartverb.restart("tree.ckpt", run="argv")

    told = capfd.readouterr().err
    assert ended.value.code == restartverb.OWN_FAILURE
    assert told == "ckptree: cannot write to standard output, which is full or closed: No space left on device\n"


def test_an_unforeseen_error_where_no_status_is_the_roots_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python tells it, with exit code 1."""
    failing(monkeypatch, KeyError(5))
    with pytest.raises(KeyError):
        restartverb.restart("tree.ckpt")
