# SPDX-License-Identifier: Apache-2.0
"""The head of an image of any host and any writer: it is written again as it was."""

import json
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import FormatError
from agent.model import Header
from exporters import registry
from exporters.checking.check import check
from exporters.content.fields import Fields
from exporters.content.hostmap import CONSTANTS, read_header
from exporters.documents import jsonfmt, msgpackfmt
from exporters.image import checkpoint
from exporters.image.head import as_said
from tests.support.builders import A_HEADER, a_family, a_snapshot
from tests.support.examples import patient
from tests.support.images import GOLDEN, a_record, an_extension, patched, records_of, some_facts

HEADER_BYTES, TREE_AT = 72, 347
U16 = st.integers(0, 2**16 - 1)


def a_head(
    header: bytes = GOLDEN[:HEADER_BYTES],
    uts: tuple[bytes, ...] = (GOLDEN[80:145], GOLDEN[153:218], GOLDEN[226:291]),
    arch: bytes = GOLDEN[299:307],
    lsm: bytes = b"lsm_none\0\0\0",
    info: bytes = b"dummy",
) -> bytes:
    """Return the golden image with another head, and a record of ours before TAIL."""
    sizes = struct.pack("<3H", *map(len, uts))
    records = [a_record(4, raw) for raw in uts]
    head = [header[:42] + sizes + header[48:], *records, a_record(2, arch), a_record(3), a_record(4, lsm)]
    image = b"".join([*head, a_record(7, info), GOLDEN[TREE_AT:]])
    # The facts as ckptree writes them, so that the whole image is written again and not only the base.
    known = dict(records_of(checkpoint.dumps(checkpoint.loads(image))))[8101]
    return image[:-16] + a_record(8101, known) + image[-16:]


def ways(image: bytes) -> list[bytes]:
    """Return the image after a conversion through each of the lossless formats."""
    return [
        registry.image(registry.load(registry.image(registry.load(image), name)), "ckpt") for name in registry.LOSSLESS
    ]


BUFFER = st.integers(0, 1024).flatmap(lambda size: st.binary(min_size=size, max_size=size))
LINUX = st.binary(min_size=65, max_size=65)


@patient
@given(st.tuples(LINUX, LINUX, LINUX), st.binary(min_size=11, max_size=11))
def test_any_bytes_of_a_hosts_names_come_back(uts: tuple[bytes, ...], lsm: bytes) -> None:
    """The bytes may be UTF-8 or not, end with a NUL or not, and have more bytes behind the NUL."""
    image = a_head(uts=uts, lsm=lsm)

    assert ways(image) == [image] * 3


@patient
@given(st.data())
def test_a_foreign_head_comes_back_through_every_lossless_format(data: st.DataObject) -> None:
    """Foreign are machine, revision, constants and the lengths that they give, flags, and the LSM's record."""
    draw = data.draw
    header = bytearray(GOLDEN[:HEADER_BYTES])
    arch_id = draw(st.sampled_from([1, 2, 3, 4, 183]) | U16)
    struct.pack_into("<5H", header, 16, arch_id, *[draw(U16) for _ in range(4)])
    struct.pack_into("<12H", header, 32, *[draw(U16) for _ in range(12)])
    struct.pack_into("<Q", header, 64, draw(st.integers(0, 2**64 - 1)))
    x86 = arch_id in (1, 2)
    image = a_head(
        bytes(header),
        (draw(BUFFER), draw(BUFFER), draw(BUFFER)),
        draw(st.binary(min_size=8 if x86 else 0, max_size=8 if x86 else 192)),
        info=draw(st.binary(max_size=192)),
    )

    assert ways(image) == [image] * 3


def test_what_ckptree_writes_says_nothing_foreign() -> None:
    """The header has the eight fields that it always had."""
    assert set(json.loads(jsonfmt.dumps(a_family()))["header"]) == {
        *("release", "version", "machine", "kernel_version", "has_fxsr", "has_xsave", "xstate_size", "lsm")
    }


def test_a_foreign_head_is_named_field_by_field() -> None:
    """In JSON bytes are text."""
    odd = patched(patched(patched(GOLDEN, 16, "<H", 3), 24, "<H", 5), 64, "<Q", 0x11)
    odd = patched(patched(odd, 32, "<H", 17), 299, "<H", 0xFFFE)
    header = json.loads(jsonfmt.dumps(checkpoint.loads(odd)))["header"]

    assert {key: header[key] for key in ("arch_id", "rev", "uflags", "constants", "arch")} == {
        "arch_id": 3,
        "rev": 5,
        "uflags": 0x10,
        "constants": [17, *CONSTANTS[1:]],
        "arch": r"\xfe\xff" + "\x01\0" + r"\x88" + "\n\0\0",
    }
    assert "lsm_info" not in header


def test_a_document_may_say_what_is_written_anyway() -> None:
    """The value is not written a second time."""
    document = json.loads(jsonfmt.dumps(a_family()))
    document["header"] |= {"arch_id": 2, "rev": 6, "uflags": 0, "constants": list(CONSTANTS), "lsm_info": "dummy"}
    document["header"]["arch"] = "\x01\0\x01\0" + r"\x88" + "\n\0\0"

    assert jsonfmt.loads(json.dumps(document).encode()) == a_family()


# arm64


AARCH64 = replace(A_HEADER, machine="aarch64", has_fxsr=False, has_xsave=False, xstate_size=0)


def test_an_image_of_arm64_says_so_and_nothing_of_x86() -> None:
    """The machine has ELF's number, 183, because the format has none, and its record is all zeros."""
    written = checkpoint.dumps(a_snapshot(header=AARCH64))

    assert struct.unpack_from("<H", written, 16)[0] == 183
    assert records_of(written)[4] == (2, bytes(8))
    assert checkpoint.loads(written).header == AARCH64
    assert ways(written) == [written] * 3


def test_that_the_format_has_no_number_for_arm64_is_a_warning() -> None:
    """The tree is sound; only a kernel of 2011 would refuse the image."""
    (found,) = check(checkpoint.dumps(a_snapshot(header=AARCH64)))

    assert (found.name, found.severity, found.offset) == ("foreign-arch", "warning", 16)
    assert "arm64" in found.text


def test_arm64_that_claims_features_of_x86_keeps_the_claim_in_our_own_record() -> None:
    """The base has no field for it."""
    snapshot = a_snapshot(header=replace(A_HEADER, machine="aarch64"))
    written = checkpoint.dumps(snapshot)

    assert records_of(written)[4] == (2, bytes(8))
    assert checkpoint.loads(written) == snapshot


# Texts


@pytest.mark.parametrize(
    ("text", "raw"),
    [
        ("6.1.0", b"6.1.0"),
        (r"6\xff", b"6\xff"),
        (r"6\\xff", b"6\\xff"),
        ("6\\", b"6\\"),
        (r"\xFF\x", b"\\xFF\\x"),
        ("grün", "grün".encode()),
        ("6\0x", b"6\0x"),
        ("m" * 65, b"m" * 65),
        ("m" * 66, b"m" * 64),
        ("é" * 40, "é".encode() * 32),
        ("a" + "é" * 40, b"a" + "é".encode() * 31),
    ],
)
def test_a_name_is_the_text_of_its_bytes(text: str, raw: bytes) -> None:
    """A backslash that begins no escape stands for itself. A long name is cut between characters and ends with a
    NUL."""
    written = checkpoint.dumps(a_snapshot(header=Header(release=text)))

    assert records_of(written)[1] == (4, raw.ljust(65, b"\0"))
    assert checkpoint.loads(written).header.release == text


def test_what_the_base_says_of_a_header_it_says_of_itself_again() -> None:
    """A text that was cut once is not cut again."""
    said = as_said(Header("é" * 50, "\\" * 70, "\udcff", (70000, 1, 2), xstate_size=2**20, lsm="\0a-module-of-length"))

    assert as_said(said) == said


# Values that no image can hold


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"arch_id": 65536}, "arch_id", "from 0 to 65535"),
    ({"rev": -1}, "rev", "from 0 to 65535"),
    ({"constants": [1, 2]}, "constants", "12 integers"),
    ({"constants": [1] * 5 + [1025] + [1] * 6}, "constants", "1024 at most"),
    ({"uflags": 3}, "uflags", "without bit 0"),
    ({"uflags": 2**64}, "uflags", "from 0"),
    ({"arch": b"1234567"}, "arch", "8 bytes on x86"),
    ({"arch": bytes(193), "arch_id": 3}, "arch", "192 bytes"),
    ({"lsm_info": bytes(193)}, "lsm_info", "192 bytes"),
]


@pytest.mark.parametrize(("said", "path", "reason"), REFUSED)
def test_what_no_head_has_room_for_is_refused_by_name(said: dict[str, Any], path: str, reason: str) -> None:
    """No document becomes an image that cannot be read."""
    with pytest.raises(FormatError) as caught:
        read_header(Fields(said, "header"), A_HEADER)

    assert caught.value.path == f"header.{path}"
    assert reason in caught.value.message


def test_our_own_record_cannot_overrule_the_head() -> None:
    """EXTENSION says nothing of the fields that the base has."""
    image = GOLDEN[:-16] + an_extension(some_facts(header={"rev": 7})) + GOLDEN[-16:]

    assert [found.name for found in check(image)] == ["extension-base"]


def test_another_machines_record_may_have_any_length_and_x86s_has_one() -> None:
    """The limit is the length of the largest record of a head."""
    foreign = patched(GOLDEN, 16, "<H", 3)
    of_four = foreign[:291] + a_record(2, b"what") + foreign[307:]
    long = foreign[:291] + a_record(2, bytes(193)) + foreign[307:]

    assert checkpoint.loads(of_four).header.arch == b"what"
    assert [found.name for found in check(of_four)] == ["foreign-arch"]
    assert [found.name for found in check(long)] == ["foreign-arch", "record-length"]
    assert [found.name for found in check(patched(of_four, 16, "<H", 2))] == ["record-length"]


def test_bytes_of_the_head_are_bytes_in_msgpack() -> None:
    """They are bytes like the kernel's strings."""
    snapshot = a_snapshot(header=replace(A_HEADER, lsm_info=b"\xff"))

    assert b"\xa8lsm_info\xc4\x01\xff" in msgpackfmt.dumps(snapshot)
