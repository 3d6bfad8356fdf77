# SPDX-License-Identifier: Apache-2.0
"""The bytes of a configuration file, read to a bound, and only where no other user can have written them.

A configuration says which programs root starts and who may ask for them. So it must belong to root or to the user who reads
it, and its mode must not let its group or others write. (sshd(8) asks the same of its users' files: StrictModes.)
"""

import os
import stat
from pathlib import Path
from typing import Final

from agent import bounded
from agent.errors import UsageError

_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def read(path: Path, most: int) -> bytes:
    """Read a configuration file.

    Args:
        path: of the file.
        most: the bound, bytes.

    Raises:
        UsageError: the file cannot be read, has more bytes, or other users may write it.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = bounded.read(file, most)
    except bounded.TooLargeError as error:
        raise UsageError(f"{path}: {error}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        return data  # a pipe of the caller's, or /dev/null
    if status.st_uid not in (0, os.geteuid()):
        raise UsageError(
            f"{path}: belongs to uid {status.st_uid}, who could have anything done by it: `chown root {path}`"
        )
    if status.st_mode & _OTHERS_WRITE:
        raise UsageError(
            f"{path}: others than its owner may write it (mode {stat.S_IMODE(status.st_mode):04o}): `chmod go-w {path}`"
        )
    return data
