# SPDX-License-Identifier: Apache-2.0
"""CRIU's image files: framing, magic numbers and messages, as far as a process tree needs them.

    file    = u32 IMG_COMMON, u32 magic of its kind, {u32 length, message}        little endian
    message = Protocol Buffers of the second version; nothing is packed

CRIU publishes all numbers here and never changes them, because its files outlive its versions. Optional fields that a
tree does not need are left out: a reader takes them as absent.

The protobuf library makes the messages from the table below when the first file is written. ckptree does not depend on
that library: a user of this format installs it.
"""

import struct
from functools import cache
from typing import TYPE_CHECKING

from agent.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.message import Message

IMG_COMMON = 0x54564319
PSTREE = 0x50273030
CORE = 0x55053847

ALIVE = 1
DEAD = 2
STOPPED = 3

UNKNOWN_MACHINE = 0
MACHINES = {"x86_64": 1, "aarch64": 3}
"""`mtype` of a core_entry, by the machine name of uname(2); only machines that a snapshot can come from."""

MESSAGES = {
    "pstree_entry": (
        ("pid", 1, "required", "uint32"),
        ("ppid", 2, "required", "uint32"),
        ("pgid", 3, "required", "uint32"),
        ("sid", 4, "required", "uint32"),
        ("threads", 5, "repeated", "uint32"),
    ),
    "task_core_entry": (
        ("task_state", 1, "required", "uint32"),
        ("exit_code", 2, "required", "uint32"),
        ("personality", 3, "required", "uint32"),
        ("flags", 4, "required", "uint32"),
        ("blk_sigset", 5, "required", "uint64"),
        ("comm", 6, "required", "string"),
        ("child_subreaper", 18, "optional", "bool"),
    ),
    "thread_core_entry": (
        ("futex_rla", 1, "required", "uint64"),
        ("futex_rla_len", 2, "required", "uint32"),
        ("comm", 13, "optional", "string"),
    ),
    "core_entry": (
        # An enumeration in CRIU's schema; an integer has the same encoding.
        ("mtype", 1, "required", "uint32"),
        ("tc", 3, "optional", "task_core_entry"),
        ("thread_core", 5, "optional", "thread_core_entry"),
    ),
}
"""The fields of each message: name, number, label, and a protobuf type or another message."""

_MAGIC = struct.Struct("<II")
_LENGTH = struct.Struct("<I")


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
            "the format criu needs the Python package `protobuf`, which is not installed here: "
            "`pip install 'ckptree[criu]'`, or Debian's python3-protobuf"
        ) from error
    proto = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="ckptree/criu.proto", syntax="proto2")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, label, kind in fields:
            made = message.field.add(name=field, number=number, label=proto.Label.Value(f"LABEL_{label.upper()}"))
            if kind in MESSAGES:
                made.type, made.type_name = proto.TYPE_MESSAGE, kind
            else:
                made.type = proto.Type.Value(f"TYPE_{kind.upper()}")
    # A pool of its own: pycriu's messages have the same names and may be in the default pool.
    return dict(message_factory.GetMessages([file]))


def image(magic: int, entries: "Iterable[Message]") -> bytes:
    """Return an image file of the given magic."""
    parts = [_MAGIC.pack(IMG_COMMON, magic)]
    for entry in entries:
        data = entry.SerializeToString(deterministic=True)
        parts += (_LENGTH.pack(len(data)), data)
    return b"".join(parts)
