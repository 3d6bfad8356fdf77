# SPDX-License-Identifier: Apache-2.0
"""A line for each snapshot, whatever the names in it."""

import re

from hypothesis import given
from hypothesis import strategies as st

from agent.audit import line, quoted

_WORD = re.compile(r'"((?:[^"\\]|\\x[0-9a-f]{2})*)"(\.\.\.)?')


def _unquoted(text: str) -> bytes:
    found = _WORD.fullmatch(text)
    assert found
    return re.sub(rb"\\x(..)", lambda hexed: bytes.fromhex(hexed[1].decode()), found[1].encode())


@given(st.binary(max_size=200) | st.text(max_size=40))
def test_a_quoted_word_is_printable_ends_where_it_ends_and_says_all(value: str | bytes) -> None:
    """Newlines, quotes, escapes of terminals, halves of surrogate pairs: whatever a task calls itself."""
    word = quoted(value)

    assert word.isascii()
    assert word.isprintable()
    assert _unquoted(word) == (value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass"))


def test_a_long_word_is_cut_and_says_so() -> None:
    """A request may hold sixty thousand characters."""
    assert quoted("a" * 60000) == '"' + "a" * 200 + '"...'


def test_a_line_names_what_and_each_field() -> None:
    """Numbers as they are, text quoted."""
    assert line("snapshot", uid=7, comm=b'x" uid=0', ms=0.5) == 'snapshot uid=7 comm="x\\x22 uid=0" ms=0.5'
