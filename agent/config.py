# SPDX-License-Identifier: Apache-2.0
"""The daemon's configuration: a TOML file of a few keys, all optional.

The daemon refuses a mistake in the file by key and line, before it loads anything into the kernel: a silent default
would differ from the file without notice.

The command line has the same keys, with dashes, by the same rules.
"""

import mmap
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from agent import configfile
from agent.environment import SYSTEM_FILE
from agent.errors import UsageError
from agent.record import record

_OCTAL: Final = re.compile(r"(0o)?[0-7]{3,4}")
_OCTAL_IN_FILE: Final = re.compile(r"^\s*socket_mode\s*=\s*0o[0-7]", re.MULTILINE)
_AT_LINE: Final = re.compile(r"\(at line (\d+), column \d+\)")
_MAX_RING_BYTES: Final = 1 << 31  # the largest power of two that fits max_entries of a BPF map, a u32
_SUN_PATH_BYTES: Final = 107  # sockaddr_un's path without its NUL
_MOST_BYTES: Final = 1 << 20  # of the file
_MAX_NAME: Final = 256  # as sysconf(_SC_LOGIN_NAME_MAX) has it
_MAX_DRAIN_MS: Final = 10_000
_MAX_SWEEP_S: Final = 24 * 60 * 60
_LEAST_RECORD_BYTES: Final = 1 << 20
_MAX_RECORD_BYTES: Final = 1 << 50
_MAX_RECORD_AGE_S: Final = 100 * 366 * 24 * 60 * 60

RECORD: Final = {
    "dir": "record",
    "max_bytes": "record_max_bytes",
    "max_age_s": "record_max_age_s",
    "group_may_read": "record_group_may_read",
}
"""The keys of the table ``[record]``, with the settings that they set."""

_RESTART: Final = ("require_signature", "trust_standby_of")


@record
class Config:
    """The daemon's settings.

    Attributes:
        ring_bytes: size of the ring buffer between kernel and daemon: how large a storm is taken without loss.
        drain_interval_ms: the longest time that an event waits in the ring while much happens, or a client subscribes;
            else that is up to a second.
        sweep_interval_s: time between two comparisons of the whole table with the kernel.
        socket: where the daemon listens. Beside it is one more socket, of that name with `.private` behind it, for root
            and the group alone: no other user can keep it busy.
        socket_mode: permissions of the socket: by default every user may connect. The user's ids decide which trees are
            shown, and each user's share of the daemon is bounded.
        group: group whose members may see every tree, as root may; none where it is empty, or there is no such group
            when the daemon starts.
        keep_arguments: keep the arguments and the environment of each program that is started, up to 4096 bytes of
            both, in the daemon's memory, for `snapshot --with-argv` of processes that write over them. They may contain
            secrets; root alone is given them.
        record: record all records in this folder, which is made where it is missing, for its owner alone
            (docs/recording.md). The arguments of every program that is started are among them.
        record_max_bytes: size of the recording at most; the oldest part is dropped first.
        record_max_age_s: age of the recording at most; 0: any.
        record_group_may_read: the members of `group` may read the recording, too, with the arguments of every program.
    """

    ring_bytes: int = 4 * 1024 * 1024
    drain_interval_ms: int = 50
    sweep_interval_s: int = 30
    socket: Path = Path("/run/ckptree/ckptree.sock")
    socket_mode: int = 0o666
    group: str = "ckptree"
    keep_arguments: bool = False
    record: Path | None = None
    record_max_bytes: int = 1 << 30
    record_max_age_s: int = 7 * 24 * 60 * 60
    record_group_may_read: bool = False


def load(path: Path) -> Config:
    """Read a configuration file; a key that it lacks has its default.

    Raises:
        UsageError: the file cannot be read, is no TOML, or has a key or value that is not allowed.
    """
    given, text = _document(path)
    _restart_table(path, given.pop("restart", {}), text)
    recorded = _recorded(path, given.pop("record", {}), text)
    for key, value in given.items():
        try:
            if key == "socket_mode":
                _check_octal(value, text)
            given[key] = _checked(key, value, in_file=True)
        except UsageError as error:
            raise UsageError(f"{path}:{_line_of(text, key)}: {error}") from error
    return Config(**given, **recorded)


def _recorded(path: Path, table: object, text: str) -> dict[str, Any]:
    """Return the values of the table ``[record]``, by the names of the settings."""
    where = f"{path}:{_line_of(text, 'record')}"
    if not isinstance(table, dict):
        raise UsageError(f"{where}: record: it must be a table, [record], with the keys {', '.join(RECORD)}")
    found = {}
    for key, value in table.items():
        if key not in RECORD:
            raise UsageError(f"{where}: record.{key}: no such key; there are {', '.join(RECORD)}")
        try:
            found[RECORD[key]] = _checked(RECORD[key], value)
        except UsageError as error:
            raise UsageError(f"{where}: record.{key}: {str(error).partition(': ')[2]}") from error
    if found and "record" not in found:
        raise UsageError(f"{where}: record: the key dir is missing")
    return found


def required_signers(path: Path = SYSTEM_FILE) -> Path | None:
    """Read the name of the file of keys that must have signed an image before this host restarts it
    (agent.cli.signature).

    Args:
        path: of the configuration; there may be no such file.

    Returns:
        The file of keys; None: images need no signature.

    Raises:
        UsageError: as `load`. An unreadable configuration may require a signature, so the restart is refused.
    """
    return _required(path)[0]


def trusted_standbys(path: Path = SYSTEM_FILE) -> frozenset[str]:
    """Read the names of the hosts whose trees may be taken over from a stand-by, without a signature.

    Args:
        path: of the configuration; there may be no such file.

    Raises:
        UsageError: as `load`.
    """
    return _required(path)[1]


def _required(path: Path) -> tuple[Path | None, frozenset[str]]:
    if not path.exists():
        return None, frozenset()
    given, text = _document(path)
    return _restart_table(path, given.get("restart", {}), text)


def _restart_table(path: Path, table: object, text: str) -> tuple[Path | None, frozenset[str]]:
    """Return the values of the table ``[restart]``: require_signature and trust_standby_of."""
    where = f"{path}:{_line_of(text, 'restart')}"
    if not isinstance(table, dict):
        raise UsageError(f"{where}: restart: it must be a table, [restart], with the keys {', '.join(_RESTART)}")
    if others := table.keys() - set(_RESTART):
        raise UsageError(f"{where}: restart.{min(others)}: no such key; there are {', '.join(_RESTART)}")
    signers, hosts = (table.get(key) for key in _RESTART)
    if signers is not None and (not isinstance(signers, str) or not signers.startswith("/")):
        raise UsageError(f"{where}: restart.require_signature: it must be the absolute path of a file of ssh keys")
    if hosts is not None and not (isinstance(hosts, list) and all(isinstance(each, str) for each in hosts)):
        raise UsageError(f"{where}: restart.trust_standby_of: it must be a list of hosts, as their relays are called")
    return Path(signers) if signers is not None else None, frozenset(hosts or ())


def _document(path: Path) -> tuple[dict[str, Any], str]:
    """Return a configuration file's keys, as TOML, and its text."""
    import tomllib  # most hosts have no such file

    data = configfile.read(path, _MOST_BYTES)
    try:
        text = data.decode("utf-8")
        given = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}:{data[: error.start].count(10) + 1}: is no TOML file: {error}") from error
    except tomllib.TOMLDecodeError as error:
        found = _AT_LINE.search(str(error))
        line = int(found[1]) if found else text.count("\n") + 1  # "at end of document"
        raise UsageError(f"{path}:{line}: is no TOML file: {error}") from error
    return given, text


def given(key: str, text: str) -> Any:
    """Return the value of a key as the command line gives it: as in the file, and text without quotes.

    Raises:
        UsageError: the value is not allowed.
    """
    import tomllib

    if key == "socket_mode" and _OCTAL.fullmatch(text):
        return _checked(key, int(text, 8))
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    if key == "socket_mode":
        raise UsageError(f"{key}: {text} is not allowed; it must be {allowed(key)}")
    is_text = key == "record" or isinstance(getattr(Config(), key, None), (str, Path))
    return _checked(key, text if is_text else value)


def meanings() -> dict[str, str]:
    """Return the meaning of each key, from Config's docstring, for the command line's help and the manual."""
    lines = (Config.__doc__ or "").partition("Attributes:")[2].splitlines()
    found: dict[str, str] = {}
    for line in lines:
        key, colon, text = line.strip().partition(": ")
        if colon and key in _RULES:
            found[key] = text
        elif line.strip() and found:
            found[next(reversed(found))] += " " + line.strip()
    return found


def allowed(key: str) -> str:
    """Return the allowed values of a key, in words."""
    return _RULES[key][0]


def default(key: str) -> str:
    """Return a key's default, as the command line writes it."""
    value = getattr(Config(), key)
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return ""
    return f"0o{value:o}" if key == "socket_mode" else str(value)


def _line_of(text: str, key: str) -> int:
    """Return the line at which a key of the document begins; tomllib tells no lines.

    It is the line that follows the longest beginning of the document that is TOML and lacks the key.
    """
    import tomllib

    lines = text.splitlines(keepends=True)
    begin = 0
    for end in range(1, len(lines) + 1):
        try:
            document = tomllib.loads("".join(lines[:end]))
        except tomllib.TOMLDecodeError:
            continue
        if key in document:
            return begin + 1
        begin = end
    return begin + 1


def _check_octal(value: object, text: str) -> None:
    """Refuse a mode that is not written in octal: its author probably meant another one."""
    if type(value) is int and not _OCTAL_IN_FILE.search(text):
        raise UsageError(f"socket_mode: {value} is not written in octal, as 0o660 is")


def _checked(key: str, value: object, *, in_file: bool = False) -> Any:
    """Return a value in the type of its key; in a file, those of tables have other names."""
    if in_file and key in RECORD.values():
        raise UsageError(f"{key}: no such key; the table [record] has {', '.join(RECORD)}")
    if key not in _RULES:
        own = [each for each in _RULES if each not in RECORD.values()]
        from difflib import get_close_matches

        close = get_close_matches(key, own, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(own)}"
        raise UsageError(f"{key}: no such key; {hint}")
    allowed, convert = _RULES[key]
    converted = convert(value)
    if converted is None:
        shown = f"0o{value:o}" if key == "socket_mode" and type(value) is int else _shown(value)
        raise UsageError(f"{key}: {shown} is not allowed; it must be {allowed}")
    return converted


def _shown(value: object) -> str:
    """Return a value nearly as TOML writes it, so that it can be found in the file."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _whole(value: object, low: int, high: int) -> int | None:
    """Return an integer within bounds, else None. TOML's true and false are no integers, though Python's are."""
    return value if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high else None


def _bool(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _ring_bytes(value: object) -> int | None:
    size = _whole(value, mmap.PAGESIZE, _MAX_RING_BYTES)
    return size if size is not None and size.bit_count() == 1 else None


def _socket(value: object) -> Path | None:
    if not isinstance(value, str) or "\0" in value or not value.startswith("/") or value.endswith("/"):
        return None
    return Path(value) if len(value.encode()) <= _SUN_PATH_BYTES else None


def _folder(value: object) -> Path | None:
    if not isinstance(value, str) or "\0" in value or not value.startswith("/"):
        return None
    return Path(value)


def _group(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= _MAX_NAME and "\0" not in value else None


_RULES: Final[dict[str, tuple[str, Callable[[object], object]]]] = {
    "ring_bytes": (f"a power of two from {mmap.PAGESIZE} (one page) to {_MAX_RING_BYTES}", _ring_bytes),
    "drain_interval_ms": (f"an integer from 1 to {_MAX_DRAIN_MS}", lambda value: _whole(value, 1, _MAX_DRAIN_MS)),
    "sweep_interval_s": (f"an integer from 1 to {_MAX_SWEEP_S}", lambda value: _whole(value, 1, _MAX_SWEEP_S)),
    "socket": (f"an absolute path of at most {_SUN_PATH_BYTES} bytes", _socket),
    "socket_mode": ("an octal integer from 0o000 to 0o777", lambda value: _whole(value, 0, 0o777)),
    "group": (f"the name of a group, of at most {_MAX_NAME} characters, or empty", _group),
    "keep_arguments": ("true or false", _bool),
    "record": ("the absolute path of a folder", _folder),
    "record_max_bytes": (
        f"an integer from {_LEAST_RECORD_BYTES} to {_MAX_RECORD_BYTES}",
        lambda value: _whole(value, _LEAST_RECORD_BYTES, _MAX_RECORD_BYTES),
    ),
    "record_max_age_s": (
        f"an integer from 0 to {_MAX_RECORD_AGE_S}",
        lambda value: _whole(value, 0, _MAX_RECORD_AGE_S),
    ),
    "record_group_may_read": ("true or false", _bool),
}
