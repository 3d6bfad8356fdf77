# SPDX-License-Identifier: Apache-2.0
"""The log line of each snapshot, with any names in it."""

import re

from hypothesis import given
from hypothesis import strategies as st

from agent.daemon.audit import Refusals, line, quoted

_WORD = re.compile(r'"((?:[^"\\]|\\x[0-9a-f]{2})*)"(\.\.\.)?')


def _unquoted(text: str) -> bytes:
    found = _WORD.fullmatch(text)
    assert found
    return re.sub(rb"\\x(..)", lambda hexed: bytes.fromhex(hexed[1].decode()), found[1].encode())


@given(st.binary(max_size=200) | st.text(max_size=40))
def test_a_quoted_word_is_printable_ends_where_it_ends_and_says_all(value: str | bytes) -> None:
    """Names may have newlines, quotes, escape sequences, and halves of surrogate pairs."""
    word = quoted(value)

    assert word.isascii()
    assert word.isprintable()
    assert _unquoted(word) == (value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass"))


def test_a_long_word_is_cut_and_says_so() -> None:
    """A request may have sixty thousand characters."""
    assert quoted("a" * 60000) == '"' + "a" * 200 + '"...'


def test_a_line_names_what_and_each_field() -> None:
    """Numbers are plain, text is quoted."""
    assert line("snapshot", uid=7, comm=b'x" uid=0', ms=0.5) == 'snapshot uid=7 comm="x\\x22 uid=0" ms=0.5'


def test_of_one_users_refusals_a_few_a_minute_are_written_and_the_others_counted() -> None:
    """Refusals of other users are written all the same."""
    refusals = Refusals()
    first = [refusals.admit(1000, now_s=now / 100) for now in range(1000)]

    assert first == [0] * 60 + [None] * 940
    assert refusals.admit(1001, now_s=11) == 0
    assert refusals.admit(1000, now_s=61) == 940
    assert refusals.admit(1000, now_s=62) == 0
