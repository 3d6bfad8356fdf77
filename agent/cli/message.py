# SPDX-License-Identifier: Apache-2.0
"""Messages for people, on standard error. They are not in agent.cli.terminal for programs that must start fast."""

import sys


def say(text: str) -> None:
    """Print a message for people on standard error: standard output carries data only.

    A line after the first is indented, so that no text within the message passes for a message of its own.
    """
    first, *more = plain(text).split("\n")
    lines = [f"ckptree: {first}", *(line if line.startswith(" ") else f"  {line}" for line in more)]
    print("\n".join(lines), file=sys.stderr, flush=True)


def say_over(text: str) -> None:
    """Write a message over the line of standard error, a terminal, that stands there; an empty one clears that line."""
    sys.stderr.write(f"\r\x1b[K{'ckptree: ' if text else ''}{in_a_line(text)}")
    sys.stderr.flush()


def plain(text: str) -> str:
    """Return a text in which nothing commands a terminal."""
    if text.isprintable():
        return text
    from exporters.content.wording import plain_lines  # takes time, and few texts need it

    return plain_lines(text)


def in_a_line(text: str) -> str:
    """Return a text in one line in which nothing commands a terminal."""
    return plain(text).replace("\n", "\\n")
