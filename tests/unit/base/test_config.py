# SPDX-License-Identifier: Apache-2.0
"""The daemon's configuration: accepted values, and the message for each mistake."""

import mmap
from dataclasses import asdict
from pathlib import Path

import pytest

from agent.config import RECORD, Config, default, load, meanings, required_signers, trusted_standbys
from agent.daemon.settings import parse, parser
from agent.errors import UsageError


def written(directory: Path, text: str) -> Path:
    """Return a configuration file with this text."""
    path = directory / "ckptree.toml"
    path.write_text(text)
    return path


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    """No key is required."""
    assert load(written(tmp_path, "")) == Config()


def test_the_defaults_are_allowed_values(tmp_path: Path) -> None:
    """Each default value can also be written in the file."""
    defaults = asdict(Config())
    text = "\n".join(
        f'{key} = "{value}"' if isinstance(value, (Path, str)) else f"{key} = {default(key)}"
        for key, value in defaults.items()
        if key not in RECORD.values()
    )
    text += '\n[record]\ndir = "/x"\n' + "".join(f"{n} = {default(k)}\n" for n, k in RECORD.items() if n != "dir")

    assert load(written(tmp_path, text)) == Config(record=Path("/x"))


def test_every_key_is_taken(tmp_path: Path) -> None:
    """Numbers may have any of TOML's notations."""
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

    assert str(caught.value).startswith(f"{path}:1: {key}: ")
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
        (
            "colour",
            "there are ring_bytes, drain_interval_ms, sweep_interval_s, socket, socket_mode, group, keep_arguments",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known(tmp_path: Path, key: str, hint: str) -> None:
    """A misspelt key would otherwise leave an unwanted default in force."""
    path = written(tmp_path, f"{key} = 1")

    with pytest.raises(UsageError) as caught:
        load(path)

    assert str(caught.value) == f"{path}:1: {key}: no such key; {hint}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# first\n\nring_bytes = 5", 3),
        ("drain_interval_ms = 1\nring_bytes = 4096\ncolour = 1\n", 3),
        ("ring_bytes = 4096\n\n[sweep_interval_s]\nx = 1", 3),
        ('ring_bytes = 4096\nsocket = """\nring_bytes = 5\n"""\n', 2),
        ("ring_bytes = 4096\n'colour' = [\n  1,\n]\n", 2),
        ("socket_mode = 0o600\ncolour.red = 1", 2),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    """Editors jump to such a line, as for compilers. A value of several lines has the line of its key."""
    path = written(tmp_path, text)

    with pytest.raises(UsageError) as caught:
        load(path)

    assert str(caught.value).startswith(f"{path}:{line}: ")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"ring_bytes", 1),
        (b"\xff = 1", 1),
        (b"# \n# \xff", 2),
        (b"socket_mode = 1\nsocket_mode = 2", 2),
        (b"ring_bytes = 4096\nsocket = [\n", 3),
    ],
)
def test_what_is_no_toml_is_refused_with_its_line(tmp_path: Path, content: bytes, line: int) -> None:
    """The message names the file, and the error keeps its cause."""
    path = tmp_path / "ckptree.toml"
    path.write_bytes(content)

    with pytest.raises(UsageError, match="is no TOML file") as caught:
        load(path)

    assert str(caught.value).startswith(f"{path}:{line}: ")
    assert caught.value.__cause__ is not None


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    """A file that is named must exist."""
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load(tmp_path / "absent.toml")


def test_every_key_has_a_meaning() -> None:
    """Help and manual take the meaning from there."""
    assert list(meanings()) == list(asdict(Config()))
    assert meanings()["socket_mode"].startswith("permissions of the socket: ")
    assert meanings()["ring_bytes"].endswith("without loss.")


def test_the_command_line_has_every_key_and_comes_before_the_file(tmp_path: Path) -> None:
    """A value is written as in the file, but without quotes."""
    path = written(tmp_path, "ring_bytes = 4096\nsweep_interval_s = 7")
    options = ["--sweep-interval-s", "9", "--socket-mode=0o660", "--drain-interval-ms", "1_000", "--socket", "/run/1"]

    assert parse(["--config", str(path), *options]) == Config(4096, 1000, 9, Path("/run/1"), 0o660)
    assert parse([]) == Config()
    assert set(vars(parser().parse_args([]))) == {"config", "compile", *asdict(Config())}


def test_a_relative_socket_on_the_command_line_is_made_absolute_as_the_help_says() -> None:
    """The file is read by a daemon whose folder its author does not know, so a relative path in it is refused."""
    assert parse(["--socket", "own.sock"]).socket == Path("own.sock").absolute()
    help_text = " ".join(parser().format_help().split())
    assert "an absolute path of at most 107 bytes, or a relative one, which is made absolute;" in help_text


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--ring-bytes", "5", "--ring-bytes: 5 is not allowed; it must be a power of two"),
        ("--ring-bytes", "4 MiB", "--ring-bytes: '4 MiB' is not allowed"),
        ("--socket-mode", "0x1ff", "--socket-mode: 0x1ff is not allowed; it must be an octal"),
        ("--socket-mode", "9", "--socket-mode: 9 is not allowed; it must be an octal"),
        ("--socket-mode", "0o7777", "--socket-mode: 0o7777 is not allowed; it must be an octal"),
        ("--socket", "", "--socket: '' is not allowed; it must be an absolute path"),
        ("--socket", "/" + "x" * 107, "at most 107 bytes"),
    ],
)
def test_a_wrong_option_is_refused_by_the_same_rules(option: str, value: str, said: str) -> None:
    """The message has the name of the option."""
    with pytest.raises(UsageError) as caught:
        parse([option, value])

    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["0o640", "640", "0640"])
def test_a_mode_on_the_command_line_is_octal_however_it_is_written(text: str) -> None:
    """chmod reads modes in the same way."""
    assert parse(["--socket-mode", text]).socket_mode == 0o640


@pytest.mark.parametrize("text", ["440", "0x1ff", "0b11"])
def test_a_mode_in_a_file_that_is_not_written_in_octal_is_refused(tmp_path: Path, text: str) -> None:
    """TOML would read 440 as 0o670."""
    with pytest.raises(UsageError) as caught:
        load(written(tmp_path, f"ring_bytes = 4096\nsocket_mode = {text}"))

    assert str(caught.value).endswith(f":2: socket_mode: {int(text, 0)} is not written in octal, as 0o660 is")


def test_the_environments_socket_stands_between_the_command_line_and_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty variable counts as none; a wrong one is named."""
    path = written(tmp_path, "socket = '/run/file'")
    monkeypatch.setenv("CKPTREE_SOCKET", "/run/environment")

    assert parse(["--config", str(path), "--socket", "/run/option"]).socket == Path("/run/option")
    assert parse(["--config", str(path)]).socket == Path("/run/environment")
    monkeypatch.setenv("CKPTREE_SOCKET", "/" + "x" * 107)
    with pytest.raises(UsageError, match=r"^CKPTREE_SOCKET: .*at most 107 bytes"):
        parse([])
    monkeypatch.setenv("CKPTREE_SOCKET", "")
    assert parse(["--config", str(path)]).socket == Path("/run/file")
    assert parse([]) == Config()


def test_a_socket_of_the_command_line_may_be_below_the_current_folder(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same holds for any file on the command line."""
    monkeypatch.chdir("/run")

    assert parse(["--socket", "own.sock"]).socket == Path("/run/own.sock")


def test_a_file_without_an_end_is_refused_with_the_bound() -> None:
    """An example is a device."""
    with pytest.raises(UsageError, match=r"/dev/zero: has more than 1048576 bytes \(1 MiB\)"):
        load(Path("/dev/zero"))


def test_a_host_may_require_signatures_of_what_is_restarted(tmp_path: Path) -> None:
    """The daemon restarts nothing and skips the key, but refuses a mistake in it as the command line does."""
    path = written(tmp_path, 'ring_bytes = 65536\n[restart]\nrequire_signature = "/etc/ckptree/signers"\n')

    assert load(path) == Config(ring_bytes=65536)
    assert required_signers(path) == Path("/etc/ckptree/signers")
    assert required_signers(written(tmp_path, "ring_bytes = 65536")) is None
    assert required_signers(written(tmp_path, "[restart]")) is None
    assert required_signers(tmp_path / "none") is None


def test_a_host_may_trust_its_standbys_of_other_hosts(tmp_path: Path) -> None:
    """They are named as their relays are."""
    text = '[restart]\nrequire_signature = "/etc/ckptree/signers"\ntrust_standby_of = ["node1", "node2"]\n'
    path = written(tmp_path, text)

    assert load(path) == Config()
    assert trusted_standbys(path) == {"node1", "node2"}
    assert required_signers(path) == Path("/etc/ckptree/signers")
    assert trusted_standbys(written(tmp_path, "[restart]")) == trusted_standbys(tmp_path / "none") == frozenset()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("restart = 1", "must be a table"),
        ("[restart]\nrequire_signatures = '/x'", "require_signatures: no such key"),
        ("[restart]\nrequire_signature = 'signers'", "absolute path"),
        ("[restart]\nrequire_signature = true", "absolute path"),
        ("[restart]\ntrust_standby_of = 'node1'", "a list of hosts"),
        ("[restart]\ntrust_standby_of = [1]", "a list of hosts"),
        ("[restart", "no TOML"),
    ],
)
def test_a_mistake_in_what_is_required_is_refused_and_requires_nothing_less(
    tmp_path: Path, text: str, said: str
) -> None:
    """A file that cannot be read does not lift the requirement either."""
    path = written(tmp_path, "\n" + text)

    for read in (load, required_signers, trusted_standbys):
        with pytest.raises(UsageError, match=said) as error:
            read(path)
        assert f"{path}:2" in str(error.value)


@pytest.mark.parametrize("place", ["file", "file/below/it"])
def test_a_recording_in_what_is_no_folder_is_wrong_usage_but_in_a_file(tmp_path: Path, place: str) -> None:
    """From a file the daemon takes it, says that it cannot record, and does what else it is for."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=rf"^--record: {tmp_path}/file is no folder: name one"):
        parse(["--record", str(tmp_path / place)])
    path = written(tmp_path, f'[record]\ndir = "{tmp_path / place}"')
    assert parse(["--config", str(path)]).record == tmp_path / place
    assert parse(["--record", str(tmp_path / "new" / "one")]).record == tmp_path / "new" / "one"
