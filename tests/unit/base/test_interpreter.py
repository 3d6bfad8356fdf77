# SPDX-License-Identifier: Apache-2.0
"""Processes that run this installation find it, whatever else is installed."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from agent import interpreter

PACKAGES = ("agent", "bpf", "exporters")


def an_installation(folder: Path) -> Path:
    """Make three packages with the module under test; return their folder."""
    for package in PACKAGES:
        (folder / package).mkdir(parents=True)
        (folder / package / "__init__.py").touch()
    (folder / "agent" / "interpreter.py").write_bytes(Path(interpreter.__file__).read_bytes())
    (folder / "agent" / "mark.py").write_text(f"MARK = {folder.name!r}\n")
    return folder


def site_packages(environment: Path) -> Path:
    """Make a virtual environment; return the folder of its packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", os.fspath(environment)], check=True)
    return Path(sysconfig.get_path("purelib", "venv", {"base": os.fspath(environment)}))


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Return the interpreter of a virtual environment that has another installation."""
    place = site_packages(tmp_path / "venv")
    for package in PACKAGES:
        (place / package).mkdir()
        (place / package / "__init__.py").touch()
        (place / package / "mark.py").write_text("MARK = 'other'\n")
    return tmp_path / "venv" / "bin" / "python"


def child(python: Path, ours: Path, program: str, *options: str, cwd: Path, **environment: str) -> str:
    """Run, from a process that runs `ours`, a child with a program; return its output."""
    starter = (
        f"import sys; sys.path.insert(0, {os.fspath(ours)!r}); import subprocess; from agent import interpreter; "
        "sys.exit(subprocess.run(interpreter.command(sys.argv[1], 'one', 'two')).returncode)"
    )
    return subprocess.run(
        [os.fspath(python), *options, "-c", starter, program],
        capture_output=True,
        text=True,
        check=True,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], **environment},
    ).stdout.strip()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_child_runs_ours_where_another_is_installed(tmp_path: Path, other: Path, package: str) -> None:
    """Python finds what is in site-packages before what is appended."""
    ours = an_installation(tmp_path / "ours")
    (ours / package / "mark.py").write_text("MARK = 'ours'\n")
    assert child(other, ours, f"from {package} import mark; print(mark.MARK)", cwd=tmp_path) == "ours"


def test_a_child_runs_ours_where_the_environment_names_another(tmp_path: Path, other: Path) -> None:
    """PYTHONPATH stands before the standard library."""
    ours, others = an_installation(tmp_path / "ours"), an_installation(tmp_path / "others")
    told = child(other, ours, "from agent import mark; print(mark.MARK)", cwd=tmp_path, PYTHONPATH=os.fspath(others))
    assert told == "ours"


def test_what_lies_beside_the_package_hides_no_module_of_python(tmp_path: Path, other: Path) -> None:
    """An installed package lies in site-packages, beside whatever else is there."""
    ours = an_installation(tmp_path / "ours")
    (ours / "fractions.py").write_text("Fraction = 'hidden'")
    (ours / "besides.py").write_text("FOUND = 'found'")
    program = "import fractions, besides; print(fractions.Fraction(1, 2), besides.FOUND)"
    assert child(other, ours, program, cwd=tmp_path) == "1/2 found"


def test_a_child_looks_for_no_module_in_its_working_directory(tmp_path: Path, other: Path) -> None:
    """Any user may have put one there."""
    ours, here = an_installation(tmp_path / "ours"), an_installation(tmp_path / "here")
    (here / "fractions.py").write_text("Fraction = 'hidden'")
    program = (
        "import sys, fractions; from agent import mark; print(mark.MARK, fractions.Fraction(1, 2), '' in sys.path)"
    )
    assert child(other, ours, program, cwd=here) == "ours 1/2 False"


def test_a_child_of_an_isolated_process_ignores_the_environment_too(tmp_path: Path, other: Path) -> None:
    """A program whose first line has -I may be run by another user's environment."""
    ours, others = an_installation(tmp_path / "ours"), an_installation(tmp_path / "others")
    (others / "fractions.py").write_text("Fraction = 'hidden'")
    program = "import sys, fractions; print(type(fractions.Fraction).__name__, sys.flags.no_user_site)"
    named = {"PYTHONPATH": os.fspath(others)}
    assert child(other, ours, program, cwd=tmp_path, **named) == "str 0"
    assert child(other, ours, program, "-I", cwd=tmp_path, **named) == "ABCMeta 1"


@pytest.mark.parametrize("options", [("-I", "-S"), ()])
def test_a_child_without_site_finds_the_packages_of_its_parent(
    tmp_path: Path, other: Path, options: tuple[str, ...]
) -> None:
    """A folder that the parent has put on its path counts, and a file of paths in it is not read."""
    ours = an_installation(tmp_path / "ours")
    place = tmp_path / "private" / "site-packages"
    place.mkdir(parents=True)
    (place / "private.py").write_text("FOUND = 'found'")
    marked = site_packages(tmp_path / "marked")
    (marked / "mark.pth").write_text("import sys; sys.marked = True\n")
    starter = (
        f"import sys; sys.path[:0] = [{os.fspath(ours)!r}]; sys.path += [{os.fspath(place)!r}]; import subprocess; "
        "from agent import interpreter; "
        "sys.exit(subprocess.run(interpreter.command(sys.argv[1], 'one', at_once=True)).returncode)"
    )
    program = (
        "import private; from agent import mark; print(private.FOUND, mark.MARK, hasattr(sys, 'marked'), sys.argv[1:])"
    )
    ran = subprocess.run(
        [os.fspath(tmp_path / "marked" / "bin" / "python"), *options, "-c", starter, program],
        capture_output=True,
        text=True,
        check=True,
        cwd=other.parent,
    )
    assert ran.stdout.strip() == "found ours False ['one']"


def test_a_child_gets_its_arguments_alone(tmp_path: Path, other: Path) -> None:
    """The folder of the installation is taken away before the program runs."""
    ours = an_installation(tmp_path / "ours")
    assert child(other, ours, "print(sys.argv[1:])", cwd=tmp_path) == "['one', 'two']"


def test_a_verb_runs_as_it_does_from_a_shell() -> None:
    """The command line has the words and the exit codes of the installed command."""
    ran = subprocess.run(interpreter.verb("check", "/nowhere"), capture_output=True, text=True, check=False, cwd="/")
    assert (ran.returncode, ran.stderr) == (1, "ckptree: cannot read /nowhere: No such file or directory\n")


def test_no_other_module_makes_such_a_command() -> None:
    """A rule is written once; bcc is asked for its version without a module of ours."""
    makers = [
        path.name
        for package in PACKAGES
        for path in (Path(interpreter.TOP) / package).rglob("*.py")
        if "sys.executable" in path.read_text() and "interpreter.command(" not in path.read_text()
    ]
    assert sorted(makers) == ["capturing.py", "interpreter.py"]
