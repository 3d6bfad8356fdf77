# SPDX-License-Identifier: Apache-2.0
"""The notation for messages, and its serialized form, as the protobuf library itself reads it."""

import re
import subprocess
import sys
from typing import Any

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.message import DecodeError

from exporters.content import messagenotation
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


@pytest.mark.parametrize("number", [1, 15, 16, 99, 100, 127, 128, 1000])
@pytest.mark.parametrize("letters", [*range(110, 130)])
def test_descriptions_are_read_on_both_sides_of_a_length_of_one_byte(letters: int, number: int) -> None:
    """Of the field, of its name, and of its number."""
    (message,) = FileDescriptorProto.FromString(described({"m": f"{'f' * letters}?{number}"}, "p")).message_type
    assert [(field.name, field.number) for field in message.field] == [("f" * letters, number)]


@pytest.mark.parametrize("word", ["name", "name?", "name?x", "?1", "name?1:", "name!?1", "a.b?1"])
def test_a_word_that_is_no_field_is_named(word: str) -> None:
    """Both where fields are listed and where they are described."""
    for read in (lambda: list(message_fields(word)), lambda: described({"m": f"one?1 {word}"}, "p")):
        with pytest.raises(ValueError, match=f"^{re.escape(repr(word))} is no field$"):
            read()


@pytest.mark.parametrize("way", ["compiled", "documented"])
def test_a_class_writes_and_reads_its_message(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classes that are made are those of the notation, by the documented way and by the one that imports less."""
    if way == "documented":
        monkeypatch.setattr(messagenotation, "_compiled", lambda: None)
    tables = {"outer": "name!1:bytes inner*2:inner one?3:inner", "inner": "value?1"}
    made: Any = classes(tables, f"tests.messagenotation.{way}", "x", "x")
    message = made["outer"](name=b"\xff", inner=[made["inner"](value=7)])
    assert message.SerializeToString() == b"\x0a\x01\xff\x12\x02\x08\x07"
    assert made["outer"].FromString(message.SerializeToString()) == message
    assert not message.HasField("one")
    message.one.value = 5
    read = made["outer"]()
    assert read.MergeFromString(message.SerializeToString()) == 11
    assert (type(read.one), type(read.inner[0]), read.one.value) == (made["inner"], made["inner"], 5)
    read.ClearField("name")
    assert (read.IsInitialized(), read.FindInitializationErrors()) == (False, ["name"])
    with pytest.raises(DecodeError):
        read.MergeFromString(b"\x0a\x09")
    assert read.DESCRIPTOR.name == "outer"


def test_the_class_of_a_message_within_another_one_may_be_asked_for_later() -> None:
    """Classes are made when they are needed, also by the library itself."""
    tables = {"outer": "one?1:inner", "inner": "value?1"}
    made = classes(tables, "tests.messagenotation.later", "x", "x")
    outer: Any = made["outer"].FromString(b"\x0a\x02\x08\x07")

    assert (type(outer.one), outer.one.value) == (made["inner"], 7)
    with pytest.raises(KeyError):
        _ = made["third"]


def test_the_library_in_python_is_not_imported_where_it_is_compiled() -> None:
    """It takes as long as to read the images of a hundred processes."""
    look = "import sys; from google.protobuf.internal import api_implementation as api; "
    look += "from exporters.criu.criuschema import messages; messages()['core_entry']().thread_core.creds.uid; "
    look += "print(api.Type(), 'google.protobuf.internal.python_message' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout.split()

    assert said[0] != "upb" or said[1] == "False"
