# SPDX-License-Identifier: Apache-2.0
"""The configuration of a relay: a TOML file. A mistake in it is refused by name.

::

    [relay]
    nats = "tls://nats.example:4222"            # or a list; CKPTREE_NATS where there is none
    host = "node1.example"                      # default: the host's name
    socket = "/run/ckptree/ckptree.sock"        # of the daemon
    allow = ["snapshot", "restart"]             # default: nothing but to be seen
    credentials = "/etc/ckptree/relay.creds"    # or nkey = "...", or user and password
    tls_ca = "/etc/ckptree/ca.pem"              # and tls_cert, tls_key
    restart_socket = "/run/ckptree/restart.sock"
    stream_bytes = 268435456                    # bounds of the stream that `follow` makes, where there is none yet
    stream_age_s = 86400                        # 0: of any age
    copy_bytes = 1073741824                     # bounds of the copy that `relay --follow` keeps
    copy_age_s = 604800                         # 0: of any age

    [[restart]]                                 # who may restart what here; without such a table: nobody, nothing
    requester = "ops"
    run = ["hold", "argv", "/usr/bin/worker --again"]
    signers = "/etc/ckptree/signers"            # keys, one of which must have signed the set
    contents = ["nats://dumps"]                 # stores whose contents may run on here; default: none
    options = ["--tcp-established"]             # or --tcp-close: of restart, with contents; default: none

    [[dump]]                                    # who may have contents dumped; without such a table: nobody
    requester = "ops"
    roots = ["unit:worker"]                     # ROOTs, word for word
    store = "nats://dumps"                      # where the dumps go
    options = ["--tcp-established"]             # of criu dump; default: none
    end = true                                  # the requester may have the programs end; default: they run on
    criu = "/usr/sbin/criu"                     # default: the one on the path
"""

import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agent import configfile
from agent.errors import NotPermittedError, UsageError
from agent.fleet import messages
from agent.fleet.stores import folders
from agent.record import NamedTuple

SYSTEM_FILE: Final = Path("/etc/ckptree/relay.toml")
RESTART_SOCKET: Final = Path("/run/ckptree/restart.sock")
ALLOWABLE: Final = ("snapshot", "restart", "events", "follow")
"""The rights that a relay can have."""
_MOST_BYTES: Final = 1 << 20
_FILES: Final = {
    "credentials": "NATS_CREDS",
    "nkey": "NATS_NKEY",
    "tls_ca": "NATS_CA",
    "tls_cert": "NATS_CERT",
    "tls_key": "NATS_KEY",
}
_WORDS: Final = {"user": "NATS_USER", "password": "NATS_PASSWORD", "token": "NATS_TOKEN"}
_KEYS: Final = (
    *("nats", "host", "socket", "allow", "restart_socket", "stream_bytes", "stream_age_s"),
    *("copy_bytes", "copy_age_s", *_FILES, *_WORDS),
)
_LEAST_BYTES: Final = 1 << 20
_RULE_KEYS: Final = ("requester", "run", "signers")
_MORE_RULE_KEYS: Final = ("contents", "options")
_CONTENTS_OPTIONS: Final = ("--tcp-established", "--tcp-close")
_DUMP_KEYS: Final = ("requester", "roots", "store")
_MORE_DUMP_KEYS: Final = ("options", "end", "criu")
_ANY_HASH: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class RestartRule:
    """A permission to restart trees of sets on this host.

    Attributes:
        requester: the one who may, as the subject of the request names it.
        run: the commands that may run in the tasks: ``hold``, ``argv``, or a command, word for word.
        signers: a file of ssh keys, one of which must have signed the manifest of the set.
        contents: the stores from which contents may come to run on here.
        options: of a restart with contents, about what they had outside of the tree.
    """

    requester: str
    run: tuple[str, ...]
    signers: Path
    contents: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DumpRule:
    """A permission to have the contents of trees on this host dumped.

    Attributes:
        requester: the one who may, as the subject of the request names it.
        roots: the trees, as the request must name them, word for word.
        store: where the dumps go, as folders.list_address takes it.
        options: of ``criu dump``.
        end: True: the requester may have the programs end with the dump; False: they run on.
        criu: the program.
    """

    requester: str
    roots: tuple[str, ...]
    store: str
    options: tuple[str, ...] = ()
    end: bool = False
    criu: str = "criu"


class TapeBounds(NamedTuple):
    """The bounds of a stream, or of the copy of a recording.

    Attributes:
        most_bytes: of all of it.
        most_age_s: of its oldest part, seconds; 0: any.
    """

    most_bytes: int
    most_age_s: int


STREAM: Final = TapeBounds(256 << 20, 86400)
COPY: Final = TapeBounds(1 << 30, 604800)


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """The settings of a relay.

    Attributes:
        nats: addresses of servers, with commas; empty: that of the environment.
        host: the host's name.
        socket: of the daemon; None: the default one.
        allow: rights, of `ALLOWABLE`.
        credentials: variables of NATS' own command line, as agent.fleet.natsserver takes them.
        restart_socket: where restarts are started with rights.
        rules: permissions to restart.
        stream: bounds of the stream in which the recording is published.
        copy: bounds of the copy that a stand-by keeps.
        dumps: permissions to have contents dumped.
    """

    host: str
    nats: str = ""
    socket: Path | None = None
    allow: frozenset[str] = frozenset()
    credentials: Mapping[str, str] = field(default_factory=dict)
    restart_socket: Path = RESTART_SOCKET
    rules: tuple[RestartRule, ...] = ()
    stream: TapeBounds = STREAM
    copy: TapeBounds = COPY
    dumps: tuple[DumpRule, ...] = ()


def permitted_dump(rules: tuple[DumpRule, ...], requester: str, root: str, *, end: bool) -> DumpRule:
    """Return the permission for a dump.

    Args:
        rules: all permissions.
        requester: as the subject names it.
        root: the tree.
        end: the programs are to end.

    Raises:
        NotPermittedError: there is none for this requester, or none for the tree, or none to end it.
    """
    own = [rule for rule in rules if rule.requester == requester]
    if not own:
        raise NotPermittedError(f"{requester!r} may have nothing dumped here: the configuration has no [[dump]] for it")
    of_root = [rule for rule in own if root in rule.roots]
    if not of_root:
        raise NotPermittedError(
            f"{requester} may not have {root!r} dumped here: `roots` in the configuration has others"
        )
    for rule in of_root:
        if rule.end or not end:
            return rule
    raise NotPermittedError(f"{requester} may not end {root!r} here: `end` in the configuration does not allow it")


def load(path: Path | None) -> RelaySettings:
    """Read a configuration.

    Args:
        path: of the file; None: everything has its default.

    Raises:
        UsageError: the file cannot be read, may be written by others, or is no TOML; a key or value is not allowed.
    """
    if path is None:
        return RelaySettings(host=messages.checked_host(socket.gethostname()))
    try:
        given = tomllib.loads(configfile.read(path, _MOST_BYTES).decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: is no TOML file: {error}") from error
    try:
        return _settings(given)
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error


def _settings(given: Mapping[str, Any]) -> RelaySettings:
    _known("", given, ("relay", "restart", "dump"))
    table = given.get("relay", {})
    if not isinstance(table, dict):
        raise UsageError("relay: it must be a table, [relay]")
    _known("relay.", table, _KEYS)
    rules, dumps = given.get("restart", []), given.get("dump", [])
    if not isinstance(rules, list):
        raise UsageError("restart: each permission is a table of its own, [[restart]]")
    if not isinstance(dumps, list):
        raise UsageError("dump: each permission is a table of its own, [[dump]]")
    allow = _texts("relay.allow", table.get("allow", []))
    if unknown := [each for each in allow if each not in ALLOWABLE]:
        raise UsageError(f"relay.allow: {unknown[0]!r} is not allowed; there are {', '.join(ALLOWABLE)}")
    nats = table.get("nats", "")
    return RelaySettings(
        host=messages.checked_host(_text("relay.host", table.get("host", socket.gethostname()))),
        nats=nats if isinstance(nats, str) else ",".join(_texts("relay.nats", nats)),
        socket=_path("relay.socket", table["socket"]) if "socket" in table else None,
        allow=frozenset(allow),
        credentials={
            **{variable: str(_path(f"relay.{key}", table[key])) for key, variable in _FILES.items() if key in table},
            **{variable: _text(f"relay.{key}", table[key]) for key, variable in _WORDS.items() if key in table},
        },
        restart_socket=_path("relay.restart_socket", table["restart_socket"])
        if "restart_socket" in table
        else RESTART_SOCKET,
        rules=tuple(_rule(each) for each in rules),
        stream=_bounds(table, "stream", STREAM),
        copy=_bounds(table, "copy", COPY),
        dumps=tuple(_dump_rule(each) for each in dumps),
    )


def _rule(table: object) -> RestartRule:
    if not isinstance(table, dict):
        raise UsageError("restart: each permission is a table of its own, [[restart]]")
    _known("restart.", table, _RULE_KEYS + _MORE_RULE_KEYS)
    for key in _RULE_KEYS:
        if key not in table:
            raise UsageError(f"restart.{key}: it is missing, and has no default")
    run = _texts("restart.run", table["run"])
    options = _texts("restart.options", table.get("options", []))
    if unknown := [each for each in options if each not in _CONTENTS_OPTIONS]:
        raise UsageError(f"restart.options: {unknown[0]!r} is not allowed; there are {', '.join(_CONTENTS_OPTIONS)}")
    return RestartRule(
        messages.checked_requester(_text("restart.requester", table["requester"])),
        tuple(run),
        _path("restart.signers", table["signers"]),
        tuple(_store("restart.contents", each) for each in _texts("restart.contents", table.get("contents", []))),
        tuple(options),
    )


def _dump_rule(table: object) -> DumpRule:
    if not isinstance(table, dict):
        raise UsageError("dump: each permission is a table of its own, [[dump]]")
    _known("dump.", table, _DUMP_KEYS + _MORE_DUMP_KEYS)
    for key in _DUMP_KEYS:
        if key not in table:
            raise UsageError(f"dump.{key}: it is missing, and has no default")
    end = table.get("end", False)
    if not isinstance(end, bool):
        raise UsageError("dump.end: it must be true or false")
    return DumpRule(
        messages.checked_requester(_text("dump.requester", table["requester"])),
        tuple(_texts("dump.roots", table["roots"])),
        _store("dump.store", _text("dump.store", table["store"])),
        tuple(_texts("dump.options", table.get("options", []))),
        end,
        _text("dump.criu", table.get("criu", "criu")),
    )


def _store(key: str, text: str) -> str:
    """Return the place of folders in a store, if there can be one."""
    try:
        folders.list_address(text, _ANY_HASH)
    except UsageError as error:
        raise UsageError(f"{key}: {text!r} is no place in a store, as nats://BUCKET is: {error}") from error
    return text


def _known(where: str, table: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    if others := table.keys() - set(keys):
        raise UsageError(f"{where}{min(others)}: no such key; there are {', '.join(keys)}")


def _text(key: str, value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise UsageError(f"{key}: it must be a text")
    return value


def _texts(key: str, value: object) -> list[str]:
    if not isinstance(value, list):
        raise UsageError(f"{key}: it must be a list of texts")
    return [_text(key, each) for each in value]


def _bounds(table: Mapping[str, Any], of: str, default: TapeBounds) -> TapeBounds:
    return TapeBounds(
        _count(f"relay.{of}_bytes", table.get(f"{of}_bytes", default.most_bytes), _LEAST_BYTES),
        _count(f"relay.{of}_age_s", table.get(f"{of}_age_s", default.most_age_s), 0),
    )


def _count(key: str, value: object, least: int) -> int:
    if type(value) is not int or not least <= value < 2**63:
        raise UsageError(f"{key}: it must be a number from {least} on")
    return value


def _path(key: str, value: object) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise UsageError(f"{key}: it must be an absolute path")
    return Path(value)
