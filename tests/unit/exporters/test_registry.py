# SPDX-License-Identifier: Apache-2.0
"""Formats by name, files by content, and formats of other packages."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import CkptreeError, FormatError, UsageError
from exporters import registry
from exporters.documents import jsonfmt, msgpackfmt
from exporters.format import ENTRY_POINTS
from exporters.image import checkpoint
from tests.support.builders import a_family

TOP = Path(__file__).parents[3]

GOOD = """
from agent.model import Snapshot
from exporters.documents import jsonfmt
from exporters.format import Dump, Format, Reader

def dump(snapshot: Snapshot) -> Dump:
    return Dump(b"!" + jsonfmt.dumps(snapshot), ("one thing is left out",))

def load(data: bytes) -> Snapshot:
    return jsonfmt.loads(data[1:])

GOOD = Format("good", dump, Reader(lambda data: data[:1] == b"!", load, "an exclamation mark"), text=True)
SAME = Format("same", dump)
CKPT = Format("ckpt", dump)
MISNAMED = Format("another", dump)
STRING = "no format"
FOLDER = Format("folder", dump, directory=True)
RAISES = Format("raises", lambda snapshot: 1 / 0, Reader(lambda data: data[1000], load, "anything"))
"""


def install(folder: Path, package: str, entries: dict[str, str], code: str = "") -> None:
    """Write a package to a folder of Python's path: its code and its metadata."""
    (folder / f"{package}.py").write_text(code)
    metadata = folder / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"{name} = {package}:{value}" for name, value in entries.items()]
    (metadata / "entry_points.txt").write_text("\n".join([f"[{ENTRY_POINTS}]", *lines]) + "\n")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that comes first in Python's path; modules imported from it are forgotten afterwards."""
    monkeypatch.syspath_prepend(os.fspath(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(os.fspath(tmp_path)):
            del sys.modules[name]


def loaded_after(program: str) -> set[str]:
    """Return the modules that are loaded after a program has run."""
    ran = subprocess.run(
        [sys.executable, "-c", program + "; import sys; print(*sys.modules)"],
        cwd=TOP,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(ran.stdout.split())


def test_a_format_is_written_by_its_name() -> None:
    """The names are those of the command line."""
    assert registry.dump(a_family(), "ckpt").data == checkpoint.dumps(a_family())
    assert registry.dump(a_family(), "msgpack").data == msgpackfmt.dumps(a_family())
    assert registry.dump(a_family(), "json").data == jsonfmt.dumps(a_family())


@pytest.mark.parametrize("name", registry.LOSSLESS)
def test_a_lossless_format_is_told_the_dialect_and_has_nothing_to_note(name: str) -> None:
    """An image has the dialect in its bytes, a document as a word. Without an argument it is the snapshot's own."""
    written = registry.dump(a_family(), name, "v23")

    assert written.notes == ()
    assert registry.load(registry.image(a_family(), name, "v23")).dialect == "v23"
    assert registry.image(registry.load(registry.image(a_family(), name, "v23")), name) == written.data


@pytest.mark.parametrize("name", registry.LOSSLESS)
def test_a_file_is_known_by_its_content(name: str) -> None:
    """The suffix does not matter."""
    data = registry.image(a_family(), name)

    assert registry.recognize(data).name == name
    assert registry.load(data) == a_family()


@pytest.mark.parametrize("blanks", [b"", b"\n\t ", b"\xef\xbb\xbf", b"\xef\xbb\xbf \r\n"])
def test_json_may_begin_with_blanks_and_a_byte_order_mark(blanks: bytes) -> None:
    """Editors put them there."""
    assert registry.load(blanks + jsonfmt.dumps(a_family())) == a_family()


def test_damage_behind_the_magic_is_the_readers_to_tell() -> None:
    """The file counts as an image, though a bad one."""
    image = checkpoint.dumps(a_family())

    with pytest.raises(FormatError, match=r"TAIL\.magic"):
        registry.load(image[:-8] + bytes(8))
    with pytest.raises(FormatError, match="ends where BUFFER should begin"):
        registry.load(image[:72])


def test_an_image_of_a_big_endian_machine_is_told_apart() -> None:
    """It is not an unknown file: the error says that the byte order is wrong."""
    with pytest.raises(FormatError, match="big-endian"):
        registry.load(bytes.fromhex("00000001 00000048 00feed0cc0a2d200") + bytes(56))


@pytest.mark.parametrize("data", [b"", b"\x01", b"<svg>", b"[1]", b"digraph {}", bytes(100), b"\x01\0\0\0\x48\0\0\0"])
def test_an_unknown_file_is_refused_with_what_was_expected(data: bytes) -> None:
    """The message names all readable formats and the beginning of their files."""
    with pytest.raises(FormatError) as caught:
        registry.load(data)

    assert (caught.value.path, caught.value.offset) == ("file", 0)
    assert "0x00feed0cc0a2d200" in caught.value.message
    assert "json begins with '{'" in caught.value.message
    assert "msgpack begins with a msgpack map" in caught.value.message


def test_an_unknown_name_is_a_usage_error_that_lists_the_known_ones(packages: Path) -> None:
    """The message lists all formats, those of other packages too."""
    install(packages, "bringer", {"good": "GOOD"}, "raise ValueError('is imported for nothing')")
    with pytest.raises(UsageError, match=r"'cpkt'; there are ckpt, msgpack, json, .*good"):
        registry.dump(a_family(), "cpkt")


def test_what_cannot_be_read_back_is_no_image(packages: Path) -> None:
    """A lossy format would lose a part of the snapshot."""
    install(packages, "bringer", {"same": "SAME"}, GOOD)
    for name in ("same", "cpkt"):
        with pytest.raises(
            UsageError, match=f"'{name}' cannot be read back; those that can be are ckpt, msgpack, json"
        ):
            registry.image(a_family(), name)


def test_another_package_brings_a_format(packages: Path) -> None:
    """A name selects it for writing, with its notes; the content selects it for reading."""
    install(packages, "bringer", {"good": "GOOD"}, GOOD)
    data, notes = registry.dump(a_family(), "good", "v23")

    assert data == b"!" + registry.image(a_family(), "json", "v23")
    assert notes == ("one thing is left out",)
    assert registry.recognize(data).name == "good"
    assert registry.load(data).tasks == a_family().tasks


def test_a_bad_file_of_another_package_is_told_in_its_words(packages: Path) -> None:
    """A FormatError is an answer, not a defect of the package."""
    install(packages, "bringer", {"good": "GOOD"}, GOOD)
    with pytest.raises(FormatError, match=r"^document at byte 1: is cut short"):
        registry.load(b"!{")


@pytest.mark.parametrize(
    ("name", "value", "code", "what"),
    [
        ("broken", "GOOD", "import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("broken", "GOOD", "raise SystemExit('enough')", "SystemExit: enough"),
        ("broken", "ABSENT", GOOD, "AttributeError"),
        ("broken", "STRING", GOOD, "broken:STRING is a str, not an exporters.format.Format"),
        ("broken", "MISNAMED", GOOD, "calls itself 'another'"),
        ("raises", "RAISES", GOOD, "ZeroDivisionError: division by zero"),
        ("folder", "FOLDER", GOOD, "its dump gives no exporters.format.Dump of a dict"),
    ],
)
def test_a_broken_format_is_reported_by_name_when_asked_for(
    packages: Path, name: str, value: str, code: str, what: str
) -> None:
    """The message names the package and the defect."""
    install(packages, "broken", {name: value}, code)
    with pytest.raises(CkptreeError) as caught:
        registry.dump(a_family(), name)

    assert str(caught.value).startswith(f"format '{name}' of package broken 1.0 cannot be used: ")
    assert what in str(caught.value)


def test_a_broken_format_does_not_break_the_others(packages: Path) -> None:
    """Our formats and those of other packages work, wherever the broken one fails."""
    install(packages, "aaa", {"aaa": "GOOD"}, "import no_such_module")
    install(packages, "bbb", {"raises": "RAISES"}, GOOD)
    install(packages, "ccc", {"good": "GOOD"}, GOOD)
    written = registry.dump(a_family(), "good").data

    assert isinstance(written, bytes)
    assert registry.load(written) == a_family()
    assert registry.load(registry.image(a_family())) == a_family()


def test_an_unknown_file_tells_of_formats_that_could_not_be_asked(packages: Path) -> None:
    """The file may be in one of them."""
    install(packages, "aaa", {"aaa": "GOOD"}, "import no_such_module")
    install(packages, "bbb", {"raises": "RAISES"}, GOOD)
    install(packages, "ccc", {"good": "GOOD"}, GOOD)
    with pytest.raises(FormatError) as caught:
        registry.load(b"?")

    assert "good begins with an exclamation mark" in caught.value.message
    assert "format 'aaa' of package aaa 1.0 cannot be used: ModuleNotFoundError" in caught.value.message
    assert "format 'raises' of package bbb 1.0 cannot be used: IndexError" in caught.value.message


def test_a_name_that_is_taken_stays_with_whom_it_was_first(packages: Path) -> None:
    """Our formats cannot be replaced. Of two packages the first one found has the name, and the other is reported."""
    install(packages, "aaa", {"ckpt": "CKPT", "good": "GOOD"}, GOOD)
    install(packages, "bbb", {"good": "GOOD"}, "raise ValueError")
    with pytest.raises(FormatError) as caught:
        registry.load(b"?")

    assert registry.image(a_family(), "ckpt") == checkpoint.dumps(a_family())
    assert "format 'ckpt' of package aaa 1.0 cannot be used: another format has that name" in caught.value.message
    assert caught.value.message.count("format 'good' of package") == 1


def test_no_package_is_looked_for_while_names_and_files_are_ours(tmp_path: Path) -> None:
    """No unused format is imported either, because that takes longer than a snapshot."""
    path = tmp_path / "image"
    path.write_bytes(registry.image(a_family()))
    program = f"from exporters import registry; data = open({os.fspath(path)!r}, 'rb').read(); "
    named = loaded_after(program + "registry.find('ckpt'); registry.recognize(data)")
    loaded = loaded_after(program + "registry.image(registry.load(data), 'ckpt'); registry.find('json')")

    assert not named & {
        "exporters.image.checkpoint",
        "exporters.image.reading",
        "exporters.content.facts",
        "agent.model",
        "msgpack",
    }
    assert "exporters.image.checkpoint" in loaded
    assert not loaded & {
        "exporters.documents.jsonfmt",
        "exporters.documents.msgpackfmt",
        "exporters.criu.criuformat",
        "exporters.plugins",
    }
    assert not loaded & {"importlib.metadata", "google.protobuf"}
