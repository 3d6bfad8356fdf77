# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can meet, each with its exit code on the command line.

The classes carry data, so that a caller can act on an error without reading its text; the text names what is wrong,
where, and what to do next.
"""

from collections.abc import Sequence
from typing import ClassVar, Final

DIFFERENT: Final = 1
"""Exit code: the two trees of a comparison differ."""
INCOMPLETE: Final = 6
"""Exit code: what was written is incomplete, and no option allowed that."""
SIGNALLED: Final = 128
"""Exit code of a process that a signal has ended, as shells have it: add the signal's number."""
INTERRUPTED: Final = 130
"""Exit code after an interrupt: SIGINT is 2."""


def in_words(error: BaseException) -> str:
    """Return the text of an error; of one of the operating system its file and its reason, without its number."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"


class CkptreeError(Exception):
    """Base of all errors: an operation failed (exit code 1)."""

    exit_code: ClassVar[int] = 1


class UsageError(CkptreeError):
    """A request that is wrong in itself, whatever the state of the host (exit code 2)."""

    exit_code = 2


class NoDaemonError(CkptreeError):
    """No daemon listens on the socket, or the connection to the daemon broke (exit code 3)."""

    exit_code = 3


class NoSuchRootError(CkptreeError):
    """A root that does not exist: no process has that number, namespace, cgroup or unit (exit code 4)."""

    exit_code = 4


class NoSuchTimeError(CkptreeError):
    """A time that the recording does not have; the text has the times there are (exit code 4)."""

    exit_code = 4


class HostError(CkptreeError):
    """An operation that the host or the caller's rights do not allow: no root, no BTF, no bcc, a child namespace (exit
    code 5).
    """

    exit_code = 5


class NotPermittedError(HostError):
    """A root that exists, but whose tree the client may not see (exit code 5)."""


class VersionError(CkptreeError):
    """A client and a daemon without a common version of their protocol (exit code 1)."""


class BusyError(CkptreeError):
    """A bound of the daemon that is reached, of clients or of unfetched answers; a later attempt may succeed (exit code
    1).
    """


class RefusedError(CkptreeError):
    """A tree that cannot be captured whole in the mode asked for; nothing is written (exit code 7).

    Attributes:
        leaks: one line for each leaking pid; never put into a file.
    """

    exit_code = 7

    def __init__(self, message: str, leaks: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.leaks = tuple(leaks)


class NotRebuildableError(RefusedError):
    """A tree that no sequence of system calls makes again, or none that ckptree knows.

    Attributes:
        tag: of the task that stands in the way; 0 for the tree as a whole.
        rule: short name of the rule.
        text: description of this case, and after it one of PROVEN and LIMIT.
        proven: True where no kernel can be in that state, or be brought there again; False where ckptree knows no way.
    """

    PROVEN = "proven: no kernel can be brought there"
    LIMIT = "a limit of ckptree"

    def __init__(self, tag: int, rule: str, text: str, *, proven: bool = False) -> None:
        text = f"{text}; {self.PROVEN if proven else self.LIMIT}"
        super().__init__(f"not rebuildable: {text} ({rule})")
        self.tag = tag
        self.rule = rule
        self.text = text
        self.proven = proven


class FormatError(CkptreeError, ValueError):
    """Bytes that are no valid image or document (exit code 8).

    Attributes:
        offset: byte offset of the record or field at fault, from the start of the file; -1 where the file has none
            (a JSON document names the `path` instead).
        path: the field at fault, as in ``PIDS[3].depth``.
    """

    exit_code = 8

    def __init__(self, path: str, message: str, offset: int = -1) -> None:
        where = f"{path} at byte {offset}" if offset >= 0 else path
        super().__init__(f"{where}: {message}")
        self.path = path
        self.offset = offset
        self.message = message

    def __reduce__(self) -> tuple[type["FormatError"], tuple[str, str, int]]:
        """Make pickling work: the constructor's arguments are not ``args``."""
        return type(self), (self.path, self.message, self.offset)
