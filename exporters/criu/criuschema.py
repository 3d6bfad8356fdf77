# SPDX-License-Identifier: Apache-2.0
"""CRIU's messages, and the classes that the protobuf library makes of them (exporters.content.messagenotation).

CRIU publishes all names and numbers (its folder ``images``, under the MIT license) and never changes them, because its
files outlive its versions: these are of CRIU 4.2, and hold for 3.15 and all since. A field that is not in the tables is
kept with its message and not looked at. The classes are made when the first file is read or written.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from exporters.content.messagenotation import MessageClasses, MessageField, classes, message_fields
from exporters.criu import filemessages, memorymessages, namespacemessages, processmessages, socketmessages

if TYPE_CHECKING:
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
"""The fields of each message, in the notation."""

LISTED: Final = {"pagemap_entry"}
"""Messages of which a file has many. They are decoded faster at once, as a list."""


def fields(message: str) -> Iterator[MessageField]:
    """Return the fields of a message of `MESSAGES`."""
    return message_fields(MESSAGES[message])


@cache
def messages() -> MessageClasses:
    """Return the classes of `MESSAGES`, by name, and of a list of each of `LISTED`, which is called NAME_list.

    Raises:
        HostError: no protobuf library is installed.
    """
    lists = {f"{name}_list": f"entries*1:{name}" for name in LISTED}
    return classes({**MESSAGES, **lists}, "ckptree.criu", "CRIU's images", "criu")


@contextmanager
def without_warnings() -> Iterator[None]:
    """Decode without warnings: the library in Python warns of a stray end of a group, and then stops there."""
    if not _warns():
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@cache
def _warns() -> bool:
    messages()  # which says what to do where there is no library
    from google.protobuf.internal import api_implementation

    return bool(api_implementation.Type() == "python")


def unknown_fields(message: "Message") -> Iterator[tuple[str, int]]:
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
