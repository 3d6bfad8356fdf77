# SPDX-License-Identifier: Apache-2.0
"""A criu for the tests that dumps on new kernels, also where the distribution's own does not. ``make packages-criu``
fetches it.

Debian 12's criu 3.17.1 cannot read the vdso of Linux 6.18. This module takes criu, and all packages that it depends on,
from another suite of the Debian mirror that this machine's apt uses, and unpacks them into a folder below build. It
installs nothing. The program runs with the loader and the C library of its own suite. Later runs use the folder again.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

SUITE: Final = "trixie"
"""Debian 13, with criu 4.1.1."""
_CACHE: Final = Path(__file__).parents[2] / "build" / "criu"
_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_DOWNLOAD_S: Final = 600.0


class NoCriuError(AssertionError):
    """A criu that could not be fetched, for the reason in the message."""


def criu(suite: str = SUITE, cache: Path = _CACHE) -> Path:
    """Return the path of a suite's criu, a script of this module's; fetch it first if it is not there.

    Args:
        suite: of Debian, by its code name or ``sid``.
        cache: the folder that holds one folder for each suite.

    Raises:
        NoCriuError: it could not be fetched.
    """
    folder = cache / suite
    program = folder / "criu"
    if program.exists():
        return program
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f"{suite}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if program.exists():  # another process has fetched it meanwhile
            return program
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f"{suite}.", dir=cache) as name:
            unfinished = Path(name, "root")
            unfinished.mkdir()
            for package in _fetched(suite, Path(name)):
                _run(["dpkg-deb", "--extract", package, unfinished])
            unfinished.rename(folder)
        _write_program(folder, program)
    return program


def mirror(uris: Sequence[str]) -> str:
    """Return the mirror of Debian among the addresses that apt takes packages from.

    Raises:
        NoCriuError: none of them is one.
    """
    for uri in uris:
        # A snapshot of the archive has a date behind the name; debian-security is another archive.
        if "debian" in urlsplit(uri).path.split("/"):
            return uri
    found = ", ".join(dict.fromkeys(uris)) or "none"
    raise NoCriuError(f"no Debian mirror among the sources of apt ({found}): no criu can be fetched")


def _fetched(suite: str, folder: Path) -> list[Path]:
    """Download criu and all that it depends on, as for a machine without any package; return the packages."""
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
    _run([*apt, "--yes", "--download-only", "install", "criu"])
    packages = sorted((folder / "archives").glob("*.deb"))
    if not packages:
        raise NoCriuError(f"apt-get downloaded nothing for criu of {suite}")
    return packages


def _write_program(folder: Path, program: Path) -> None:
    """Write the script that runs criu with the loader and libraries beside it; its existence says that all is there."""
    try:
        (loader,) = (path for path in folder.glob("usr/lib/*/ld-linux*.so.*"))
        (binary,) = (path for path in (folder / "usr/sbin/criu", folder / "usr/bin/criu") if path.exists())
    except ValueError as error:
        raise NoCriuError(f"{folder} has no loader or no criu where Debian has them") from error
    unfinished = program.with_name("criu.unfinished")
    words = (f'"${{0%/*}}/{path.relative_to(folder)}"' for path in (loader, loader.parent, binary))
    unfinished.write_text('#!/bin/sh\nexec {} --library-path {} {} "$@"\n'.format(*words))
    unfinished.chmod(0o755)
    said = _run([unfinished, "--version"])
    if not re.search(r"Version: \d", said):
        raise NoCriuError(f"{binary} does not tell its version: {said}")
    unfinished.rename(program)


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
        raise NoCriuError(f"{command[0]}: {error}") from error
    if ran.returncode:
        words = " ".join(str(word) for word in command if not str(word).startswith("--option="))
        raise NoCriuError(f"{words}: {ran.stderr.strip() or ran.stdout.strip()}")
    return ran.stdout


if __name__ == "__main__":
    try:
        print(criu(sys.argv[1] if sys.argv[1:] else SUITE))
    except NoCriuError as error:
        sys.exit(f"{error}")
