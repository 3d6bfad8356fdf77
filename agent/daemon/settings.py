# SPDX-License-Identifier: Apache-2.0
"""The command line of the daemon: a file, and each of its keys as an option, which overrides the file's.

CKPTREE_SOCKET of the environment overrides the file's socket, too, and an option overrides the environment.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from agent.config import Config, allowed, default, given, load, meanings
from agent.environment import SOCKET_VARIABLE
from agent.errors import CkptreeError, UsageError
from agent.record import replace
from exporters.content.wording import plain

DESCRIPTION = "Watch all process trees of this host, in the foreground, and answer on a Unix socket."


class _Parser(argparse.ArgumentParser):
    """A parser whose errors cannot command a terminal."""

    def error(self, message: str) -> NoReturn:
        """Print a usage error, and exit."""
        super().error(plain(message))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the daemon's arguments."""
    made = _Parser(prog="ckptree daemon", description=DESCRIPTION, allow_abbrev=False)
    made.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="Read this TOML file. Its keys are the names of these options, with _ for -.",
    )
    made.add_argument(
        "--compile",
        action="store_true",
        help="Compile the BPF programs for this kernel into /var/cache/ckptree, as root, and end. A daemon of another user "
        "takes them from there, and cannot put them there itself.",
    )
    said = meanings()
    for key in said:
        made.add_argument(
            _option(key),
            metavar=_metavar(key),
            help=f"{said[key][0].upper()}{said[key][1:]} Must be {_allowed(key)}; default {_default(key)}.".replace(
                "%", "%%"
            ),
        )
    return made


def parse(argv: Sequence[str]) -> Config:
    """Return the configuration that arguments, environment and file give.

    Raises:
        UsageError: a value is not allowed, or the file is wrong.
        SystemExit: by argparse, after a usage error of its own or --help.
    """
    try:
        options: dict[str, Any] = vars(parser().parse_args(argv))
    except OSError as error:  # argparse prints its help
        raise CkptreeError(f"cannot write to standard output, which is full or closed: {error.strerror}") from error
    path = options.pop("config")
    del options["compile"]
    config = load(path) if path else Config()
    named = {key: _option(key) for key in options}
    if options["socket"] is None and os.environ.get(SOCKET_VARIABLE):
        options["socket"], named["socket"] = os.environ[SOCKET_VARIABLE], SOCKET_VARIABLE
    for key, text in options.items():
        if text is not None:
            try:
                value = Path(text).absolute() if key in ("socket", "record") and text else text
                config = replace(config, **{key: given(key, str(value))})
                if key == "record":
                    _check_folder(Path(str(value)))
            except UsageError as error:
                raise UsageError(f"{named[key]}: {str(error).partition(': ')[2]}") from error
    return config


def _check_folder(place: Path) -> None:
    """Refuse what can be no folder. In a file it may be one that is not there yet, and the daemon runs on without it.

    Raises:
        UsageError: it, or one above it, is no folder.
    """
    for each in (place, *place.parents):
        if each.exists():
            if not each.is_dir():
                raise UsageError(f"record: {each} is no folder: name one, or a path at which one can be made")
            return


def only_compiles(argv: Sequence[str]) -> bool:
    """Return True if arguments that `parse` has accepted start no daemon."""
    return bool(parser().parse_args(argv).compile)


def _metavar(key: str) -> str:
    if key == "record":
        return "DIR"
    return "true|false" if isinstance(getattr(Config(), key), bool) else key.rpartition("_")[2].upper()


def _allowed(key: str) -> str:
    return allowed(key) + (", or a relative one, which is made absolute" if key in ("socket", "record") else "")


def _default(key: str) -> str:
    if key == "record":
        return "none, and nothing is recorded"
    return f"{SOCKET_VARIABLE} of the environment, else {default(key)}" if key == "socket" else default(key)


def _option(key: str) -> str:
    return "--" + key.replace("_", "-")
