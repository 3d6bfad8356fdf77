# SPDX-License-Identifier: Apache-2.0
"""SECURITY.md names existing tests."""

import re
from pathlib import Path

TOP = Path(__file__).parents[3]
PAGE = (TOP / "SECURITY.md").read_text()


def test_every_promise_names_tests_that_there_are() -> None:
    """A promise without its test could break unnoticed."""
    promises = PAGE.partition("## Promises")[2].partition("\n## ")[0]
    rows = [line for line in promises.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    named = [re.findall(r"`(tests/[\w/.]+|make [\w-]+)`", row.rsplit("|", 2)[1]) for row in rows]

    assert len(rows) > 10
    assert all(named)
    makefile = (TOP / "Makefile").read_text()
    for name in {name for names in named for name in names}:
        if name.startswith("make "):
            assert re.search(rf"^{name.removeprefix('make ')}:", makefile, re.MULTILINE), name
        else:
            assert (TOP / name).is_file(), name
