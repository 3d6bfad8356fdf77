# SPDX-License-Identifier: Apache-2.0
"""The texts of errors."""

import errno
from pathlib import Path

import pytest

from agent.errors import CkptreeError, in_words


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EACCES, "Permission denied", "/proc/1/mem"), "/proc/1/mem: Permission denied"),
        (OSError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError("no number"), "no number"),
        (CkptreeError("the tree is gone"), "the tree is gone"),
    ],
)
def test_an_error_of_the_system_is_told_without_its_number(error: Exception, text: str) -> None:
    """Of all others the text is as it is."""
    assert in_words(error) == text


def test_an_error_of_the_system_names_the_file(tmp_path: Path) -> None:
    """As the system raises it."""
    with pytest.raises(FileNotFoundError) as caught:
        (tmp_path / "none").read_bytes()
    assert in_words(caught.value) == f"{tmp_path / 'none'}: No such file or directory"
