# SPDX-License-Identifier: Apache-2.0
"""The frame of a page in one HTML file: a document, and the scripts and styles that show it, without a network.

    page     = the file ``page/frame.html`` with the page's own tools and main part, the policy, the styles, the scripts
               and the document filled in
    document = JSON, in a script element of the id ``image``

Foreign text
------------
Names and arguments are foreign text. In the JSON the characters ``< > &`` are written as ``\\u003c`` and the like, so no
text can end the script element or begin a comment. The scripts put texts into the page as text nodes, or paint them on a
canvas, and never as HTML. A policy in the page allows the one script and the one style sheet, by their digests, and
nothing else: no other script, no event attribute, no picture and no connection.
"""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from functools import cache
from hashlib import sha256
from html import escape as escape_html
from pathlib import Path
from typing import Final

from agent.record import NamedTuple
from exporters.content.identity import word

LONGEST: Final = 4096
"""Characters of a command line or path in a page; the image itself has all of it."""
_PARTS: Final = Path(__file__).with_name("page")
_FRAME: Final = "frame.html"
_PLACE: Final = re.compile(r"\{\{([A-Z]+)\}\}")
_IN_SCRIPT: Final = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&"})


def short(text: str) -> str:
    """Return a text as a page has it: of `LONGEST` characters at most, and a mark where there are more."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def command_line(argv: Iterable[bytes]) -> str:
    """Return arguments as a page has them."""
    return short(" ".join([word(each, LONGEST + 1) for each in argv]))


class PageParts(NamedTuple):
    """The parts of a page, files of the folder ``page``.

    Attributes:
        command: the verb that prints the same.
        tools, main: HTML that the page has within the frame that all have.
        styles, scripts: in this order; each script uses those before it.
    """

    command: str
    tools: str
    main: str
    styles: tuple[str, ...]
    scripts: tuple[str, ...]


def filled(parts: PageParts, document: Mapping[str, object]) -> bytes:
    """Return a page in UTF-8; equal documents give equal bytes.

    Args:
        parts: of the page.
        document: what it shows; ``title`` is the page's own.
    """
    own, style, script = _read(parts)
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    into = {
        **own,
        "POLICY": policy,
        "TITLE": escape_html(str(document["title"])),
        "STYLE": style,
        "SCRIPT": script,
        "IMAGE": json.dumps(document, separators=(",", ":")).translate(_IN_SCRIPT),
    }
    return _PLACE.sub(lambda found: into[found.group(1)], _text(_FRAME)).encode()


@cache
def _read(parts: PageParts) -> tuple[dict[str, str], str, str]:
    """Return what the page has within the frame, its style sheet and its script."""
    scripts = "\n".join(map(_text, parts.scripts))
    return (
        {"COMMAND": parts.command, "TOOLS": _text(parts.tools), "MAIN": _text(parts.main)},
        "\n".join(map(_text, parts.styles)),
        f'(() => {{\n"use strict";\n{scripts}}})();\n',
    )


@cache
def _text(name: str) -> str:
    """Return a file of the folder ``page``."""
    return (_PARTS / name).read_text("utf-8")


def _digest(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode('ascii')}"
