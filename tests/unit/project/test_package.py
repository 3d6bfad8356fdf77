# SPDX-License-Identifier: Apache-2.0
"""The installed files: three packages with the BPF sources, a program, and its manual."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from agent import VERSION

TOP = Path(__file__).parents[3]
PYPROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())
OFFLINE = ("No matching distribution found", "Connection", "Temporary failure in name resolution")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the project as a wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    if importlib.util.find_spec("hatchling"):
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", os.fspath(folder)]
    else:
        build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", os.fspath(folder), os.fspath(TOP)]
    built = subprocess.run(build, cwd=TOP, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if built.returncode and any(text in built.stdout + built.stderr for text in OFFLINE):
        pytest.skip("offline, and hatchling is not installed")
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of its files, outside of the checkout."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def sources() -> set[str]:
    """Return the files of the three packages in the checkout."""
    paths = (path for package in ("agent", "bpf", "exporters") for path in (TOP / package).rglob("*"))
    return {os.fspath(path.relative_to(TOP)) for path in paths if path.is_file() and path.parent.name != "__pycache__"}


@pytest.mark.slow
def test_a_wheel_holds_three_packages_and_nothing_beside_them(wheel: Path) -> None:
    """Above all the wheel has no tests."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name.partition("/")[0] for name in archive.namelist()}

    assert {name for name in names if not name.endswith((".dist-info", ".data"))} == {"agent", "bpf", "exporters"}


@pytest.mark.slow
def test_manual_pages_and_completions_travel_as_data(wheel: Path) -> None:
    """Installers put them below share, where man and the shells look."""
    with zipfile.ZipFile(wheel) as archive:
        shared = {name.partition(".data/data/")[2] for name in archive.namelist() if ".data/data/" in name}

    assert shared == {
        "share/man/man1/ckptree.1",
        "share/man/man5/ckptree-image.5",
        "share/man/man5/ckptree.toml.5",
        "share/man/man8/ckptree-daemon.8",
        "share/bash-completion/completions/ckptree",
        "share/zsh/vendor-completions/_ckptree",
        "share/fish/vendor_completions.d/ckptree.fish",
    }


@pytest.mark.slow
def test_a_program_whose_name_has_blanks_travels_for_criu(wheel: Path) -> None:
    """criu takes all that stands behind --action-script for the name of a program."""
    with zipfile.ZipFile(wheel) as archive:
        (script,) = (name for name in archive.namelist() if ".data/scripts/" in name)
        text = archive.read(script)

    assert script.endswith("/ckptree hook criu")
    assert text == (TOP / "agent/cli/criuhook.sh").read_bytes()


@pytest.mark.slow
def test_the_types_of_the_packages_travel(unpacked: Path) -> None:
    """PEP 561: a program that imports agent.protocol.client is type-checked."""
    for package in ("agent", "bpf", "exporters"):
        assert (unpacked / package / "py.typed").read_bytes() == b""


@pytest.mark.slow
def test_every_source_file_travels(unpacked: Path) -> None:
    """Above all these are C programs and headers, which are compiled on the watched machine."""
    carried = {os.fspath(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    needed = sources()

    assert {"bpf/lifecycle.c", "bpf/session.c", "bpf/sweep.c", "bpf/kernel.h", "bpf/events.h"} <= needed
    assert any(name.startswith("bpf/include/") and name.endswith(".h") for name in needed)
    assert needed <= carried


@pytest.mark.slow
def test_a_wheel_is_for_one_kind_of_machine_and_any_python(wheel: Path) -> None:
    """The helper for rebuilds is a program for this processor, and needs nothing of Python's."""
    assert wheel.name.endswith(f"-py3-none-linux_{os.uname().machine}.whl")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ckptree-rebuild", "ckptree-resume"])
def test_the_helpers_travel_ready_to_run(name: str, wheel: Path) -> None:
    """Installers keep the mode in the archive; a helper is small and needs no library."""
    with zipfile.ZipFile(wheel) as archive:
        entry = archive.getinfo(f"agent/restart/helper/{name}")
        program = archive.read(entry)

    assert entry.external_attr >> 16 & 0o111 == 0o111
    assert program.startswith(b"\x7fELF")
    assert len(program) < 100_000
    assert b"ld-linux" not in program


@pytest.mark.slow
def test_the_restorer_travels_as_a_block_of_code(wheel: Path) -> None:
    """It is mapped and never executed as a program, so it is none: no ELF file, and not executable."""
    with zipfile.ZipFile(wheel) as archive:
        entry = archive.getinfo("agent/restart/helper/ckptree-restorer")
        code = archive.read(entry)

    assert entry.external_attr >> 16 & 0o111 == 0
    assert 0 < len(code) < 8192
    assert not code.startswith(b"\x7fELF")


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "more"), [("aarch64-linux-gnu", True), ("x86_64-linux-gnu", False)])
def test_the_helper_is_compiled_for_the_machine_of_the_compiler(machine: str, more: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """For arm64 its atomics must not be functions of a library, because it links none."""
    folder = tmp_path / "agent" / "restart" / "helper"
    folder.mkdir(parents=True)
    shutil.copy(TOP / "hatch_build.py", tmp_path)
    compiler = tmp_path / "cc"
    compiler.write_text(
        f"#!/bin/sh\n[ $1 = -dumpmachine ] && exec echo {machine}\n"
        'echo "$@"\nwhile [ $1 != -o ]; do shift; done\n: > "$2"\n'
    )
    compiler.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "hatch_build.py"],
        cwd=tmp_path,
        env={**os.environ, "CC": os.fspath(compiler)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert ("-mno-outline-atomics" in done.stdout.split()) is more
    assert (folder / "ckptree-rebuild").exists()


@pytest.mark.slow
def test_a_wheel_works_where_the_checkout_is_not(unpacked: Path, tmp_path: Path) -> None:
    """The test runs in another folder, with the wheel's files alone."""
    program = "import runpy, agent, bpf.compiler; print(agent.__file__); runpy.run_module('agent', run_name='__main__')"
    ran = subprocess.run(
        [sys.executable, "-P", "-c", program, "show", "/dev/null"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.fspath(unpacked)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.stdout.strip() == os.fspath(unpacked / "agent/__init__.py")
    assert (ran.returncode, ran.stderr[:9]) == (8, "ckptree: ")


@pytest.mark.slow
def test_the_licence_travels(unpacked: Path) -> None:
    """It has the name that installers look for."""
    assert [path.name for path in unpacked.rglob("LICENSE")] == ["LICENSE"]


def test_bcc_is_no_dependency() -> None:
    """PyPI's `bcc` is an unrelated package that would hide the system's."""
    project = PYPROJECT["project"]
    extras = [name for names in project["optional-dependencies"].values() for name in names]

    assert not [name for name in project["dependencies"] + extras if name.lower().startswith(("bcc", "bpfcc"))]


def test_what_is_installed_here_is_this_checkout() -> None:
    """``ckptree`` is agent.__main__, on which the daemon's start depends."""
    (script,) = (entry for entry in metadata.entry_points(group="console_scripts") if entry.name == "ckptree")

    assert script.value == PYPROJECT["project"]["scripts"]["ckptree"]
    assert script.module == "agent.__main__"
    assert callable(script.load())
    assert metadata.version("ckptree") == PYPROJECT["project"]["version"] == VERSION


def test_the_changes_of_this_version_are_told() -> None:
    """The newest version of the changelog is this one, and so is that of the Debian package."""
    changes = re.findall(r"^## (\d\S+) - \d{4}-\d\d-\d\d$", (TOP / "CHANGELOG.md").read_text(), re.MULTILINE)
    package = re.match(r"ckptree \((\S+)\) ", (TOP / "debian" / "changelog").read_text())

    assert changes[0] == VERSION
    assert package is not None
    assert package[1] == VERSION
