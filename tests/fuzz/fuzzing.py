# SPDX-License-Identifier: Apache-2.0
"""The needs that fuzzers have in common: a folder in memory, odd files, the place of a fault."""

import os
import tempfile
import traceback
from pathlib import Path


def in_memory() -> Path:
    """Return a folder of files in memory; where there is none, that of temporary files."""
    found = Path("/dev/shm")  # noqa: S108 - the names in it are ours
    return found if os.access(found, os.W_OK) else Path(tempfile.gettempdir())


def odd_files(folder: Path) -> list[bytes]:
    """Make files of kinds that a program seldom has open; return their paths."""
    folder.mkdir(parents=True)
    (folder / "file").write_bytes(b"content")
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("file")
    (folder / "dangling").symlink_to("nothing")
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "fifo")
    return [os.fsencode(each) for each in (*sorted(folder.iterdir()), folder / "none", folder / "file" / "below")]


def place_of(error: BaseException) -> str:
    """Return the kind of an error, and the last place within the product."""
    found = traceback.extract_tb(error.__traceback__)
    ours = [each for each in found if "/agent/" in each.filename or "/exporters/" in each.filename]
    frame = (ours or found)[-1]
    text = str(error).partition("\n")[0] if isinstance(error, AssertionError) else ""
    text = "".join("#" if each.isdigit() else each for each in text)[:60]
    text = text.encode(errors="backslashreplace").decode()  # a path may have any bytes
    return f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno} {text}".strip()
