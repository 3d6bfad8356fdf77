# SPDX-License-Identifier: Apache-2.0
"""All that is made, where it belongs below /usr/share."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from manual import completions, pages


def write(folder: Path) -> list[Path]:
    """Write all of it; returns the files.

    Args:
        folder: as /usr/share.
    """
    written = []
    for name, text in _all():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _all() -> Iterator[tuple[str, str]]:
    """Names and texts. SOURCE_DATE_EPOCH, where it is given, dates them: then the same sources make the same files."""
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    for name, text in pages.pages(date):
        yield f"man/{name}", text
    yield from completions.scripts()
