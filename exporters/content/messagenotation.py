# SPDX-License-Identifier: Apache-2.0
"""A notation for messages of Protocol Buffers, and the classes that the protobuf library makes of it.

A field of a message is ``NAME MARK NUMBER [:TYPE]`` without blanks, as in ``pos!3:uint64``. Marks are ``!`` for a field
that every message has, ``?`` for one that may be absent, ``*`` for one that repeats. The type is one of protobuf's or
another message; without it the field is a uint32. Enumerations are integers here, which have the same encoding.
Strings are bytes: names of files and programs need not be UTF-8. Messages are of the second version; nothing is packed.

ckptree does not depend on the protobuf library: a user of formats that need it installs it.
"""

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from agent.errors import HostError

if TYPE_CHECKING:
    from google.protobuf.message import Message

_FIELD: Final = re.compile(r"(\w+)([!?*])(\d+)(?::(\w+))?")
_LABELS: Final = {"!": "required", "?": "optional", "*": "repeated"}


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
            raise ValueError(f"{word!r} is no field")
        yield MessageField(parts[1], int(parts[3]), _LABELS[parts[2]], parts[4] or "uint32")


def classes(tables: Mapping[str, str], package: str, what: str, extra: str) -> "dict[str, type[Message]]":
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
        from google.protobuf import descriptor_pb2, message_factory
    except ImportError as error:
        raise HostError(
            f"{what} need the Python package `protobuf`, which is not installed here: "
            f"`pip install 'ckptree[{extra}]'`, or Debian's python3-protobuf"
        ) from error
    proto = descriptor_pb2.FieldDescriptorProto
    described = descriptor_pb2.FileDescriptorProto(name=f"{package}.proto", package=package, syntax="proto2")
    for name, text in tables.items():
        message = described.message_type.add(name=name)
        for field in message_fields(text):
            label = proto.Label.Value(f"LABEL_{field.label.upper()}")
            made = message.field.add(name=field.name, number=field.number, label=label)
            if field.type in tables:
                made.type, made.type_name = proto.TYPE_MESSAGE, f".{package}.{field.type}"
            else:
                made.type = proto.Type.Value(f"TYPE_{field.type.upper()}")
    # A pool of its own: another package's messages may have the same names in the default pool.
    made_all = message_factory.GetMessages([described])
    return {name: made_all[f"{package}.{name}"] for name in tables}
