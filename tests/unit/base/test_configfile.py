# SPDX-License-Identifier: Apache-2.0
"""Configuration files that another user may have written: see agent.configfile."""

import os
from pathlib import Path

import pytest

from agent import config, configfile
from agent.errors import UsageError
from agent.fleet import relaysettings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a configuration that says nothing."""
    found = tmp_path / "ckptree.toml"
    found.write_text("")
    return found


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_a_file_that_its_owner_alone_may_write_is_read(path: Path, mode: int) -> None:
    """The administrator chooses who else reads it: it may have a password."""
    path.write_text("x = 1")
    path.chmod(mode)

    assert configfile.read(path, 5) == b"x = 1"


@pytest.mark.parametrize("read", [config.load, relaysettings.load, config.required_signers, config.trusted_standbys])
@pytest.mark.parametrize("mode", [0o660, 0o606, 0o620, 0o777])
def test_a_file_that_others_may_write_is_refused_with_the_remedy(path: Path, mode: int, read: object) -> None:
    """The writer of a configuration of root's chooses what root starts."""
    path.chmod(mode)

    assert callable(read)
    with pytest.raises(
        UsageError, match=rf"others than its owner may write it \(mode 0{mode:o}\): `chmod go-w {path}`"
    ):
        read(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file away")
def test_root_reads_no_configuration_of_another_user(path: Path) -> None:
    """A user has written it, or may do so any time."""
    os.chown(path, 65534, 65534)

    with pytest.raises(
        UsageError, match=f"belongs to uid 65534, who could have anything done by it: `chown root {path}`"
    ):
        configfile.read(path, 10)


def test_a_stream_is_its_callers(path: Path) -> None:
    """It has no owner who could change it later."""
    assert configfile.read(Path("/dev/null"), 10) == b""
    assert path.exists()


def test_a_file_above_the_bound_is_refused(path: Path) -> None:
    """Nobody writes so much configuration."""
    path.write_bytes(b"#" * 11)

    with pytest.raises(UsageError, match="has more than 10 bytes"):
        configfile.read(path, 10)
