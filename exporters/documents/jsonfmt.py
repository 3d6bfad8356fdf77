# SPDX-License-Identifier: Apache-2.0
"""Snapshot <-> JSON: the document (exporters.documents.document) as UTF-8 text that ends with a newline.

    file  = "{" NL key ": " value {"," NL key ": " value} NL "}" NL
    value = compact JSON; but for a list of maps: "[" NL row {"," NL row} NL "]", each row compact, on a line of its own

So each task is one line, for grep and diff, and the encoder in C still does all the work. The line breaks are for
people: the reader takes any JSON.

JSON has no bytes. comm, argv, cwd and env are text with two escapes, a doubled backslash and ``\\xHH`` for a byte that
is not UTF-8 (exporters.content.fields). In the file JSON doubles the backslash of an escape once more. Below an unknown
key text and bytes cannot be told apart, so there bytes are ``{"$bytes": text}`` (exporters.content.plain).
"""

import json
import re

from agent.errors import FormatError
from agent.model import Snapshot
from agent.record import replace
from exporters.content.fields import escape
from exporters.content.plain import may_be_spelled, spelled, spelled_key, unspelled
from exporters.documents.document import from_document, to_document

# What the parser has left of a text that was cut off within a token: an escape, a number or a name.
_BEGUN = re.compile(r"\s*(?:u[0-9a-fA-F]{0,4}|-|\.|[eE][+-]?|t(?:ru?)?|f(?:a(?:ls?)?)?|n(?:ul?)?)?")
_SURROGATE = re.compile("[\ud800-\udfff]")


def dumps(snapshot: Snapshot) -> bytes:
    """Return the JSON text of a snapshot, in UTF-8."""
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
        # Half a surrogate pair, Python's stand-in for a foreign byte, becomes the text that the other formats have for it.
        return _SURROGATE.sub(lambda half: rf"\\u{ord(half[0]):04x}", text).encode()


def loads(data: bytes) -> Snapshot:
    """Return the snapshot of a JSON text; FormatError for any other bytes."""
    return from_document(parse(data))


def parse(data: bytes, path: str = "document") -> object:
    """Return the value of a JSON text, of any type; FormatError, about `path`, for any other bytes."""
    text = ""
    try:
        text = data.decode("utf-8-sig")
        value: object = json.loads(text, object_hook=unspelled if may_be_spelled(text) else None)
    except FormatError:
        raise
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            raise _cut_short(data, path) from error
        raise FormatError(path, "is not UTF-8", error.start) from error
    except RecursionError as error:
        raise FormatError(path, "is nested too deeply to be a snapshot") from error
    except ValueError as error:
        if isinstance(error, json.JSONDecodeError) and _ends_too_early(text, error):
            raise _cut_short(data, path) from error
        raise FormatError(path, f"is no JSON: {error}") from error
    return value


def _ends_too_early(text: str, error: json.JSONDecodeError) -> bool:
    """Return True if more text could have mended an error."""
    return error.msg.startswith("Unterminated string") or _BEGUN.fullmatch(text, error.pos) is not None


def _cut_short(data: bytes, path: str) -> FormatError:
    line = data.count(b"\n") + 1
    return FormatError(path, f"is cut short: the text ends here, in line {line}, before its JSON does", len(data))


def _text(value: object) -> str:
    """Return the text of bytes; the encoder calls this for every type that JSON lacks."""
    if isinstance(value, bytes):
        return escape(value)
    raise TypeError(f"a document holds no {type(value).__name__}")


_encode = json.JSONEncoder(ensure_ascii=False, check_circular=False, default=_text).encode


def _value(value: object) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join([_encode(row) for row in value]) + "\n]"
    return _encode(value)
