# SPDX-License-Identifier: Apache-2.0
"""Bytes of a file that the command line names: a path, - for standard input, or an address that was fetched."""

import sys
from pathlib import Path

from agent import bounded
from agent.cli import storefiles
from agent.errors import CkptreeError, FormatError
from agent.fleet.stores import address
from exporters.criu import PREFIX, TREE

MOST_BYTES = 256 << 20
"""Bound of a file. A task takes some 200 bytes in an image, and with its environment some thousands."""


def shown_name(file: str) -> str:
    """Return the name of a file, for people."""
    return "standard input" if file == "-" else file


def read_named(file: str) -> bytes:
    """Return the bytes of a file, or of standard input."""
    if isinstance(file, storefiles.StoredFile):
        return storefiles.content(file)
    try:
        if file == "-":
            if sys.stdin is None:
                raise CkptreeError("cannot read standard input: it is closed")
            return bounded.read(sys.stdin.buffer, MOST_BYTES)
        with Path(file).open("rb") as opened:
            return bounded.read(opened, MOST_BYTES)
    except bounded.TooLargeError as error:
        raise FormatError(shown_name(file), str(error)) from None
    except IsADirectoryError:
        raise CkptreeError(f"cannot read {file}: {_folder(file)}") from None
    except FileNotFoundError as error:
        address.check_file(file)
        raise CkptreeError(f"cannot read {file or repr(file)}: {error.strerror}") from error
    except OSError as error:
        raise CkptreeError(f"cannot read {file or repr(file)}: {error.strerror or error}") from error


def _folder(file: str) -> str:
    """Return the reason why a folder is no snapshot."""
    if any((Path(file) / name).exists() for name in (TREE, "pstree.img", "inventory.img")):
        return f"it is a folder of CRIU images: name it as {PREFIX}{file}"
    return f"it is a folder, and a snapshot is a file; a folder of CRIU images is named {PREFIX}{file}"
