# SPDX-License-Identifier: Apache-2.0
"""All pages and scripts, at their places below /usr/share."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from manual import completions, pages


def write(folder: Path) -> list[Path]:
    """Write all files; return their paths.

    Args:
        folder: the counterpart of /usr/share.
    """
    written = []
    for name, text in _all():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _all() -> Iterator[tuple[str, str]]:
    """Yield names and texts. The date is SOURCE_DATE_EPOCH's if it is set, so that equal sources make equal files."""
    date = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    for name, text in pages.pages(date):
        yield f"man/{name}", text
    yield from completions.scripts()
