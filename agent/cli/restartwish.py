# SPDX-License-Identifier: Apache-2.0
"""The options of ``ckptree restart``, once they fit together."""

from pathlib import Path
from typing import TYPE_CHECKING

from agent.environment import SYSTEM_FILE
from agent.record import record

if TYPE_CHECKING:
    from agent.restart.contents.external import External


class TakenFile(str):
    """The name of a FILE that `fleet takeover` has made, and for which the configuration asks for no signature."""

    __slots__ = ()


def required_signers() -> Path | None:
    """Return the file of keys that this host requires signatures of; None: it requires none."""
    if not SYSTEM_FILE.exists():
        return None
    from agent import config  # most hosts have no such file

    return config.required_signers()


@record
class RestartWish:
    """The options of the command line.

    Attributes:
        contents: the name of the folder of the contents, as ``criu:DIR``; empty without contents.
        images: that folder on this host, once it is there.
    """

    file: str
    any_numbers: bool
    pidns: bool
    run: str
    command: list[str] | None
    detach: bool
    pidfile: Path | None
    as_json: bool
    key: Path | None
    of_set: str | None
    drop_held: bool
    drop_dying: bool
    keep_rights: bool
    contents: str
    allowed: "External"
    images: Path | None = None

    @property
    def fails_apart(self) -> bool:
        """True if the exit code is the root's, so that failures of restart itself need one of their own.

        With ``--detach`` the root outlives this process, whose exit code is never the root's.
        """
        return not self.detach and not self.holds

    @property
    def holds(self) -> bool:
        """True if the tasks only hold."""
        return self.run == "hold" and not self.contents
