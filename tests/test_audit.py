# SPDX-License-Identifier: Apache-2.0
"""A line for each snapshot, whatever the names in it."""

import os
import re

from hypothesis import given
from hypothesis import strategies as st

from agent.audit import Log, line, quoted

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
    assert line("snapshot", uid=7, comm=b'x" uid=0', ms=0.5) == 'ckptree: snapshot uid=7 comm="x\\x22 uid=0" ms=0.5'


def test_a_log_that_nobody_reads_costs_a_line_and_no_time() -> None:
    """The pipe is full: what finds no room is counted."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(writer, True)
    log = Log(writer)
    log.write("one")
    log.write("two")

    assert log.dropped == 2
    os.read(reader, 1 << 20)
    log.write("three")
    os.close(writer)

    assert log.dropped == 2
    assert os.read(reader, 1 << 20) == b"three\n"
    os.close(reader)


def test_a_log_whose_reader_has_gone_is_no_error() -> None:
    """EPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    log = Log(writer)
    log.write("one")
    os.close(writer)

    assert log.dropped == 1
