# SPDX-License-Identifier: Apache-2.0
"""The daemon's configuration: what is taken, and how each mistake is named."""

import mmap
from dataclasses import asdict
from pathlib import Path

import pytest

from agent.config import Config, load
from agent.errors import UsageError


def written(directory: Path, text: str) -> Path:
    """A configuration file of that text."""
    path = directory / "ckptree.toml"
    path.write_text(text)
    return path


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    """No key is required."""
    assert load(written(tmp_path, "")) == Config()


def test_the_defaults_are_allowed_values(tmp_path: Path) -> None:
    """What holds when nothing is said can also be said."""
    defaults = asdict(Config())
    text = "\n".join(
        f'{key} = "{value}"' if isinstance(value, (Path, str)) else f"{key} = {value}"
        for key, value in defaults.items()
    )

    assert load(written(tmp_path, text)) == Config()


def test_every_key_is_taken(tmp_path: Path) -> None:
    """Numbers in any of TOML's notations."""
    path = written(
        tmp_path,
        """
        ring_bytes = 0x100_0000
        drain_interval_ms = 7
        sweep_interval_s = 60  # a minute
        socket = "/run/other.sock"
        socket_mode = 0o660
        group = "adm"
        """,
    )

    assert load(path) == Config(1 << 24, 7, 60, Path("/run/other.sock"), 0o660, "adm")


@pytest.mark.parametrize(
    "line",
    [
        f"ring_bytes = {mmap.PAGESIZE}",
        f"ring_bytes = {1 << 31}",
        "drain_interval_ms = 1",
        "drain_interval_ms = 10000",
        "sweep_interval_s = 1",
        "sweep_interval_s = 86400",
        f"socket = '/{'x' * 106}'",
        "socket_mode = 0o000",
        "socket_mode = 0o777",
    ],
)
def test_a_value_at_its_limit_is_allowed(tmp_path: Path, line: str) -> None:
    """Each bound belongs to the range."""
    load(written(tmp_path, line))


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        (f"ring_bytes = {mmap.PAGESIZE // 2}", "a power of two from"),
        (f"ring_bytes = {3 * mmap.PAGESIZE}", "a power of two from"),
        (f"ring_bytes = {1 << 32}", "a power of two from"),
        ("ring_bytes = -4096", "a power of two from"),
        ("ring_bytes = '4 MiB'", "a power of two from"),
        ("ring_bytes = 4096.0", "a power of two from"),
        ("drain_interval_ms = 0", "an integer from 1 to 10000"),
        ("drain_interval_ms = 10001", "an integer from 1 to 10000"),
        ("drain_interval_ms = true", "an integer from 1 to 10000"),
        ("sweep_interval_s = 0", "an integer from 1 to 86400"),
        ("sweep_interval_s = 86401", "an integer from 1 to 86400"),
        ("sweep_interval_s = [30]", "an integer from 1 to 86400"),
        ("socket = 'ckptree.sock'", "an absolute path"),
        ("socket = ''", "an absolute path"),
        ("socket = '/run/'", "an absolute path"),
        ('socket = "/run/\\u0000"', "an absolute path"),
        (f"socket = '/{'x' * 107}'", "at most 107 bytes"),
        (f"socket = '/{'é' * 54}'", "at most 107 bytes"),
        ("socket = 5", "an absolute path"),
        ("socket_mode = 0o1000", "an octal integer from 0o000 to 0o777"),
        ("group = 7", "the name of a group"),
        (f'group = "{"g" * 257}"', "the name of a group"),
        ("socket_mode = '0600'", "an octal integer from 0o000 to 0o777"),
        ("[sweep_interval_s]", "an integer from 1 to 86400"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(tmp_path: Path, line: str, allowed: str) -> None:
    """The message names the file, the key and the range."""
    path = written(tmp_path, line)
    key = line.strip("[]").split(" ")[0]

    with pytest.raises(UsageError) as caught:
        load(path)

    assert str(caught.value).startswith(f"{path}: {key}: ")
    assert allowed in str(caught.value).partition("; it must be ")[2]
    assert caught.value.exit_code == 2


def test_a_wrong_value_is_shown_as_the_file_has_it(tmp_path: Path) -> None:
    """TOML's true is not Python's True."""
    with pytest.raises(UsageError, match="drain_interval_ms: true is not allowed"):
        load(written(tmp_path, "drain_interval_ms = true"))


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("ring_byte", "did you mean ring_bytes?"),
        ("sweep-interval-s", "did you mean sweep_interval_s?"),
        ("sockets", "did you mean socket?"),
        ("colour", "there are ring_bytes, drain_interval_ms, sweep_interval_s, socket, socket_mode, group"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known(tmp_path: Path, key: str, hint: str) -> None:
    """A misspelt key would otherwise be a default that nobody asked for."""
    path = written(tmp_path, f"{key} = 1")

    with pytest.raises(UsageError) as caught:
        load(path)

    assert str(caught.value) == f"{path}: {key}: no such key; {hint}"


@pytest.mark.parametrize("content", [b"ring_bytes", b"\xff = 1", b"socket_mode = 1\nsocket_mode = 2"])
def test_what_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    """The message names the file, and the cause is kept."""
    path = tmp_path / "ckptree.toml"
    path.write_bytes(content)

    with pytest.raises(UsageError, match="is no TOML file") as caught:
        load(path)

    assert caught.value.__cause__ is not None


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    """Whoever names a file means it."""
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load(tmp_path / "absent.toml")
