# SPDX-License-Identifier: Apache-2.0
"""A folder of this host as a store: a set without a server."""

import contextlib
import os
from pathlib import Path

from agent import bounded
from agent.errors import FormatError
from agent.fleet.stores.store import MOST_BYTES, Closing, ExistsError, MissingError, Stored, StoreError
from exporters import store as files


class FolderStore(Closing):
    """A folder.

    Args:
        folder: it must be there.
    """

    def __init__(self, folder: Path) -> None:
        self.address = os.fspath(folder)
        self._folder = folder

    def head(self, name: str) -> Stored | None:
        """Return the size of a file; None where there is none.

        Raises:
            StoreError: there is no such folder, or it may not be searched.
        """
        try:
            return Stored((self._folder / name).stat().st_size, None)
        except FileNotFoundError:
            if self._folder.is_dir():
                return None
            raise StoreError(f"there is no folder {self._folder}: make it first") from None
        except OSError as error:
            raise StoreError(f"{self._folder / name}: {error.strerror}") from error

    def get(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Read a file."""
        path = self._folder / name
        try:
            with path.open("rb") as file:
                return bounded.read(file, most)
        except bounded.TooLargeError as error:
            raise FormatError(os.fspath(path), str(error)) from None
        except FileNotFoundError:
            raise MissingError(f"there is no file {path}") from None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error.strerror}") from error

    def put(self, name: str, data: bytes) -> None:
        """Write a file, in place of one that has the name."""
        files.write(self._folder / name, data)

    def create(self, name: str, data: bytes) -> None:
        """Write a file that is not there. It is written under another name, and link(2) gives it its own."""
        path = self._folder / name
        temporary = path.with_name(f".{name[:50]}.{os.urandom(8).hex()}")
        try:
            files.write(temporary, data)
            os.link(temporary, path)
        except FileExistsError:
            raise ExistsError(f"{path} is there already") from None
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def close(self) -> None:
        """Close nothing: a folder needs no connection."""
