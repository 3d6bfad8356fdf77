# SPDX-License-Identifier: Apache-2.0
"""The notation for messages, and its serialized form, as the protobuf library itself reads it."""

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from exporters.content.messagenotation import classes, described, message_fields
from exporters.criu.criuschema import MESSAGES

TYPES = "double float int64 uint64 int32 fixed64 fixed32 bool string bytes uint32 sfixed32 sfixed64 sint32 sint64"
EVERY_TYPE = " ".join(f"of_{name}?{number}:{name}" for number, name in enumerate(TYPES.split(), start=1))


@pytest.mark.parametrize("tables", [MESSAGES, {"one": EVERY_TYPE}])
def test_the_library_reads_what_the_notation_says(tables: dict[str, str]) -> None:
    """All messages, and each field with its number, label and type, in their order."""
    read = FileDescriptorProto.FromString(described(tables, "a.package"))
    assert (read.name, read.package, read.syntax) == ("a.package.proto", "a.package", "")
    assert [message.name for message in read.message_type] == list(tables)
    for message in read.message_type:
        found = []
        for field in message.field:
            label = FieldDescriptorProto.Label.Name(field.label).removeprefix("LABEL_").lower()
            kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
            found.append((field.name, field.number, label, field.type_name.rpartition(".")[2] or kind))
        assert found == list(message_fields(tables[message.name]))


def test_a_number_and_a_text_of_two_bytes_of_length_are_read() -> None:
    """Field numbers go up to 2 ** 29 - 1, and names may be long."""
    tables = {"m" * 200: f"{'f' * 300}!{2**29 - 1}:uint64"}
    (message,) = FileDescriptorProto.FromString(described(tables, "p")).message_type
    assert (message.name, message.field[0].name, message.field[0].number) == ("m" * 200, "f" * 300, 2**29 - 1)


def test_a_class_writes_and_reads_its_message() -> None:
    """The classes that are made are those of the notation."""
    made = classes({"outer": "name!1:bytes inner*2:inner", "inner": "value?1"}, "tests.messagenotation", "x", "x")
    message = made["outer"](name=b"\xff", inner=[made["inner"](value=7)])
    assert made["outer"].FromString(message.SerializeToString()) == message
