# SPDX-License-Identifier: Apache-2.0
"""CRIU's messages: a notation for their fields, and the classes that the protobuf library makes of it.

CRIU publishes all names and numbers (its folder ``images``, under the MIT license) and never changes them, because its
files outlive its versions: these are of CRIU 4.2, and hold for 3.15 and all since. Messages are Protocol Buffers of the
second version; nothing is packed. A field that is not in the tables is kept with its message and not looked at.

A field of a message is ``NAME MARK NUMBER [:TYPE]`` without blanks, as in ``pos!3:uint64``. Marks are ``!`` for a field
that every message has, ``?`` for one that may be absent, ``*`` for one that repeats. The type is one of protobuf's or
another message; without it the field is a uint32. Enumerations are integers here, which have the same encoding.
Strings are bytes: names of files and programs need not be UTF-8.

The protobuf library makes the classes when the first file is read or written. ckptree does not depend on that library:
a user of these formats installs it.
"""

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from agent.errors import HostError
from exporters.criu import filemessages, memorymessages, namespacemessages, processmessages, socketmessages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

ALIVE: Final = 1
DEAD: Final = 2
STOPPED: Final = 3
ZOMBIE: Final = 6
"""`task_state` of a task_core_entry. CRIU writes DEAD for a zombie; ZOMBIE is of its dump alone."""

UNKNOWN_MACHINE: Final = 0
MACHINES: Final = {"x86_64": 1, "aarch64": 3}
"""`mtype` of a core_entry, by the machine name of uname(2); only machines that a snapshot can come from."""

MESSAGES: Final = {
    **processmessages.MESSAGES,
    **memorymessages.MESSAGES,
    **filemessages.MESSAGES,
    **socketmessages.MESSAGES,
    **namespacemessages.MESSAGES,
}
"""The fields of each message, in the notation above."""

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


def fields(message: str) -> "Iterator[MessageField]":
    """Yield the fields of a message of `MESSAGES`."""
    for text in MESSAGES[message].split():
        parts = _FIELD.fullmatch(text)
        if parts is None:
            raise ValueError(f"{message}: {text!r} is no field")
        yield MessageField(parts[1], int(parts[3]), _LABELS[parts[2]], parts[4] or "uint32")


@cache
def messages() -> "dict[str, type[Message]]":
    """Return the classes of `MESSAGES`, by name.

    Raises:
        HostError: no protobuf library is installed.
    """
    try:
        from google.protobuf import descriptor_pb2, message_factory
    except ImportError as error:
        raise HostError(
            "CRIU's images need the Python package `protobuf`, which is not installed here: "
            "`pip install 'ckptree[criu]'`, or Debian's python3-protobuf"
        ) from error
    proto = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="ckptree/criu.proto", syntax="proto2")
    for name in MESSAGES:
        message = file.message_type.add(name=name)
        for field in fields(name):
            label = proto.Label.Value(f"LABEL_{field.label.upper()}")
            made = message.field.add(name=field.name, number=field.number, label=label)
            if field.type in MESSAGES:
                made.type, made.type_name = proto.TYPE_MESSAGE, field.type
            else:
                made.type = proto.Type.Value(f"TYPE_{field.type.upper()}")
    # A pool of its own: pycriu's messages have the same names and may be in the default pool.
    return dict(message_factory.GetMessages([file]))


def unknown_fields(message: "Message") -> "Iterator[tuple[str, int]]":
    """Yield the fields of a message that `MESSAGES` does not have, by the message's name and the field's number.

    Messages within it are looked at, too, but for repeated ones, of which there may be many.
    """
    from google.protobuf.unknown_fields import UnknownFieldSet

    waiting = [message]
    while waiting:
        one = waiting.pop()
        found: Any = UnknownFieldSet(one)
        for field in found:
            yield one.DESCRIPTOR.name, field.field_number
        waiting += [getattr(one, field) for field in _single(one.DESCRIPTOR.name) if one.HasField(field)]


@cache
def _single(message: str) -> tuple[str, ...]:
    """Return the fields of a message that are one message each."""
    return tuple(field.name for field in fields(message) if field.type in MESSAGES and field.label != "repeated")
