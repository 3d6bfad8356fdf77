# SPDX-License-Identifier: Apache-2.0
"""Snapshot <-> JSON: the document (exporters.document) as UTF-8 text that ends with a newline.

    file  = "{" NL key ": " value {"," NL key ": " value} NL "}" NL
    value = compact JSON; but for a list of maps: "[" NL row {"," NL row} NL "]", each row compact, on a line of its own

So a task is a line: grep finds it and diff shows it, while all the work is still done by the encoder in C. Which lines
are broken matters to people alone; the reader takes any JSON.

JSON has no bytes. comm, argv, cwd and env are text with two escapes, a doubled backslash and ``\\xHH`` for a byte that
is no UTF-8; exporters.fields has the rule. (In the file the backslash of an escape is doubled once more, by JSON.)
Under a key that nobody here knows, where no one can tell text from bytes, bytes are ``{"$bytes": text}``;
exporters.plain has that rule.
"""

import json
import re
from dataclasses import replace

from agent.errors import FormatError
from agent.model import Snapshot
from exporters.document import from_document, to_document
from exporters.fields import escape
from exporters.plain import may_be_spelled, spelled, spelled_key, unspelled

_SURROGATE = re.compile("[\ud800-\udfff]")


def dumps(snapshot: Snapshot) -> bytes:
    """The JSON text of a snapshot, in UTF-8."""
    if snapshot.unknown:
        unknown = {
            way: {spelled_key(key): spelled(value) for key, value in keys.items()}
            for way, keys in snapshot.unknown.items()
        }
        snapshot = replace(snapshot, unknown=unknown)
    lines = [f"{_encode(key)}: {_value(value)}" for key, value in to_document(snapshot).items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Half a surrogate pair, as Python makes of a foreign byte, becomes the text that the other formats have for it.
        return _SURROGATE.sub(lambda half: rf"\\u{ord(half[0]):04x}", text).encode()


def loads(data: bytes) -> Snapshot:
    """The snapshot of a JSON text; FormatError for anything else."""
    return from_document(parse(data))


def parse(data: bytes) -> object:
    """What a JSON text says, whatever that is; FormatError where it is none."""
    try:
        text = data.decode("utf-8-sig")
        value: object = json.loads(text, object_hook=unspelled if may_be_spelled(text) else None)
    except FormatError:
        raise
    except UnicodeDecodeError as error:
        raise FormatError("document", "is not UTF-8", error.start) from error
    except RecursionError as error:
        raise FormatError("document", "is nested too deeply to be a snapshot") from error
    except ValueError as error:
        raise FormatError("document", f"is no JSON: {error}") from error
    return value


def _text(value: object) -> str:
    """Called by the encoder for what JSON does not have."""
    if isinstance(value, bytes):
        return escape(value)
    raise TypeError(f"a document holds no {type(value).__name__}")


_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, default=_text).encode


def _value(value: object) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join([_encode(row) for row in value]) + "\n]"
    return _encode(value)
