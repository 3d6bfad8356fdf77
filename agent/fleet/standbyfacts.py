# SPDX-License-Identifier: Apache-2.0
"""The file ``standby.json`` in the folder of a stand-by, which says whose tree the folder has."""

import json
import os
from pathlib import Path
from typing import Final

from agent.errors import HostError
from agent.record import NamedTuple

_NAME: Final = "standby.json"


class StandbyFacts(NamedTuple):
    """The tree that is followed.

    Attributes:
        host: the host that has it.
        root: its ROOT there.
    """

    host: str
    root: str


def write(place: Path, facts: StandbyFacts) -> None:
    """Write the file, for `fleet takeover` where no stand-by runs.

    Raises:
        HostError: it cannot be written.
    """
    path = place / _NAME
    new = path.with_suffix(".new")
    try:
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(facts._asdict(), file)
        new.rename(path)
    except OSError as error:
        raise HostError(f"{path}: {error.strerror}") from error


def read(place: Path) -> StandbyFacts:
    """Read the file.

    Raises:
        HostError: it is no folder of a stand-by.
    """
    try:
        said = json.loads((place / _NAME).read_text())
        return StandbyFacts(str(said["host"]), str(said["root"]))
    except FileNotFoundError:
        fault = f"there is no {_NAME}" if place.is_dir() else "there is no such folder"
    except (OSError, ValueError, KeyError, TypeError) as error:
        fault = f"{_NAME}: {error.strerror if isinstance(error, OSError) else error}"
    raise HostError(
        f"{place}: it is no folder of a stand-by: {fault}: --record names another one; `ckptree relay --follow` makes one"
    )
