# SPDX-License-Identifier: Apache-2.0
"""A notation for messages of Protocol Buffers, and the classes that the protobuf library makes of it.

A field of a message is ``NAME MARK NUMBER [:TYPE]`` without blanks, as in ``pos!3:uint64``. Marks are ``!`` for a field
that every message has, ``?`` for one that may be absent, ``*`` for one that repeats. The type is one of protobuf's or
another message; without it the field is a uint32. Enumerations are integers here, which have the same encoding.
Strings are bytes: names of files and programs need not be UTF-8. Messages are of the second version; nothing is packed.

ckptree does not depend on the protobuf library: a user of formats that need it installs it.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from agent.errors import HostError
from agent.record import NamedTuple

if TYPE_CHECKING:
    from google.protobuf.message import Message

_FIELD: Final = re.compile(r"(\w+)([!?*])(\d+)(?::(\w+))?")
_LABELS: Final = {"!": "required", "?": "optional", "*": "repeated"}

# Numbers of descriptor.proto.
_FILE_NAME: Final = 1
_FILE_PACKAGE: Final = 2
_FILE_MESSAGE: Final = 4
_MESSAGE_NAME: Final = 1
_MESSAGE_FIELD: Final = 2
_FIELD_NAME: Final = 1
_FIELD_NUMBER: Final = 3
_FIELD_LABEL: Final = 4
_FIELD_TYPE: Final = 5
_FIELD_TYPE_NAME: Final = 6
_LABEL_NUMBERS: Final = {"optional": 1, "required": 2, "repeated": 3}
_TYPE_NAMES: Final = (
    "double float int64 uint64 int32 fixed64 fixed32 bool string group message bytes uint32 enum sfixed32 sfixed64 sint32 "
    "sint64"
)
_TYPES: Final = {name: number for number, name in enumerate(_TYPE_NAMES.split(), start=1)}

_LENGTH_DELIMITED: Final = 2
_MORE: Final = 0x80
"""The bit of a byte of a variable-length integer that says that another byte follows."""
_SHORT_FIELD: Final = b"%c%%c%c%%c%%b%c%%c%%b" % (
    _MESSAGE_FIELD << 3 | _LENGTH_DELIMITED,
    _FIELD_NAME << 3 | _LENGTH_DELIMITED,
    _FIELD_NUMBER << 3,
)
"""A description of a field, where all its integers are of one byte: its length, that of the name, the name, the number,
and the rest. To make each of these parts by a call takes most of the time of all descriptions."""
_SHORT_BYTES: Final = 4
"""Bytes in a short description behind its length, without the name and the rest."""
_SHORT_DIGITS: Final = 2
"""Decimal digits of a number that is of one byte for certain."""


class MessageField(NamedTuple):
    """A field of a message.

    Attributes:
        label: ``required``, ``optional`` or ``repeated``.
        type: a type of protobuf, or the name of another message.
    """

    name: str
    number: int
    label: str
    type: str


def message_fields(text: str) -> Iterator[MessageField]:
    """Yield the fields of a message.

    Raises:
        ValueError: the text is not in the notation.
    """
    for word in text.split():
        parts = _FIELD.fullmatch(word)
        if parts is None:
            raise _no_field(word)
        yield MessageField(parts[1], int(parts[3]), _LABELS[parts[2]], parts[4] or "uint32")


def _no_field(word: str) -> ValueError:
    return ValueError(f"{word!r} is no field")


class MessageClasses(dict[str, "type[Message]"]):
    """Classes of messages by name, each made when it is first asked for: a folder has few of CRIU's kinds of files.

    Args:
        make: makes the class of a name; KeyError: there is no such message.
    """

    def __init__(self, make: "Callable[[str], type[Message]]") -> None:
        super().__init__()
        self._make = make

    def __missing__(self, name: str) -> "type[Message]":
        made = self[name] = self._make(name)
        return made


def classes(tables: Mapping[str, str], package: str, what: str, extra: str) -> MessageClasses:
    """Return the classes of messages, by name.

    Args:
        tables: the fields of each message, in the notation.
        package: a name for all of them, another one for each call: the library keeps them.
        what: the format that needs the library, for people.
        extra: of the package ckptree, which brings the library.

    Raises:
        HostError: no protobuf library is installed.
    """
    try:
        pool, made_of = _compiled() or _documented()
    except ImportError as error:
        raise HostError(
            f"{what} need the Python package `protobuf`, which is not installed here: "
            f"`pip install 'ckptree[{extra}]'`, or Debian's python3-protobuf"
        ) from error
    pool.AddSerializedFile(described(tables, package))
    return MessageClasses(lambda name: made_of(pool.FindMessageTypeByName(f"{package}.{name}")))


def _documented() -> "tuple[Any, Callable[[Any], type[Message]]]":
    """Return a pool of descriptions, and the maker of classes from them."""
    from google.protobuf import descriptor_pool, message_factory

    # A pool of its own: another package's messages may have the same names in the default pool.
    pool = descriptor_pool.DescriptorPool()
    if hasattr(message_factory, "GetMessageClass"):
        return pool, message_factory.GetMessageClass
    return pool, message_factory.MessageFactory(pool).GetPrototype  # type: ignore[attr-defined]  # before protobuf 4.22


def _compiled() -> "tuple[Any, Callable[[Any], type[Message]]] | None":
    """Return what `_documented` leads to where the library is a compiled one; None for another, or another version.

    The documented modules import the library's implementation in Python, too: to import it takes as long as to read CRIU's
    images of a hundred processes.
    """
    from google.protobuf import message
    from google.protobuf.internal import api_implementation

    if api_implementation.Type() != "upb":
        return None
    try:
        from google.protobuf.pyext import cpp_message  # type: ignore[import-not-found]  # its types have no such module

        pool = cpp_message._message.DescriptorPool()  # noqa: SLF001 - only the module in Python gives it another name
        meta = cpp_message.GeneratedProtocolMessageType
    except (ImportError, AttributeError):
        return None
    return pool, lambda each: meta(each.name, (message.Message,), {"DESCRIPTOR": each, "__module__": None})


def described(tables: Mapping[str, str], package: str) -> bytes:
    """Return messages as a serialized FileDescriptorProto of google/protobuf/descriptor.proto.

    The library's own class for that takes longer to import, and to fill, than CRIU's images of a hundred processes to read.

    Args:
        tables, package: as of `classes`.
    """
    found = [_text(_FILE_NAME, f"{package}.proto"), _text(_FILE_PACKAGE, package)]
    commons: dict[tuple[str, str], bytes] = {}
    for name, text in tables.items():
        rows = [_text(_MESSAGE_NAME, name)]
        for word in text.split():
            parts = _FIELD.fullmatch(word)
            if parts is None:
                raise _no_field(word)
            called, mark, number, kind = parts.groups("uint32")
            common = commons.get((mark, kind))
            if common is None:
                common = commons[mark, kind] = _common(mark, kind, tables, package)
            own = called.encode()
            size = len(own) + len(common) + _SHORT_BYTES
            if size < _MORE and len(number) <= _SHORT_DIGITS:
                rows.append(_SHORT_FIELD % (size, len(own), own, int(number), common))
            else:
                row = _text(_FIELD_NAME, called) + _integer(_FIELD_NUMBER, int(number)) + common
                rows.append(_piece(_MESSAGE_FIELD, row))
        found.append(_piece(_FILE_MESSAGE, b"".join(rows)))
    return b"".join(found)


def _common(mark: str, kind: str, tables: Mapping[str, str], package: str) -> bytes:
    """Return what the descriptions of all fields of a mark and a type have in common."""
    own = kind in tables
    common = _integer(_FIELD_LABEL, _LABEL_NUMBERS[_LABELS[mark]])
    common += _integer(_FIELD_TYPE, _TYPES["message" if own else kind])
    return common + (_text(_FIELD_TYPE_NAME, f".{package}.{kind}") if own else b"")


def _integer(field: int, value: int) -> bytes:
    if value < _MORE:  # as most are
        return bytes((field << 3, value))
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _piece(field, value.encode())


def _piece(field: int, value: bytes) -> bytes:
    if len(value) < _MORE:
        return bytes((field << 3 | _LENGTH_DELIMITED, len(value))) + value
    return _varint(field << 3 | _LENGTH_DELIMITED) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    if value < _MORE:
        return bytes((value,))
    return bytes((value & _MORE - 1 | _MORE,)) + _varint(value >> 7)
