# SPDX-License-Identifier: Apache-2.0
"""The command of another Python process that runs this very installation."""

import sys
from pathlib import Path
from typing import Final

TOP: Final = str(Path(__file__).resolve().parents[1])
"""The folder in which this installation lies: of a package site-packages, else the checkout."""

# The packages of this installation are imported while its folder stands first: another ckptree, in site-packages or in a
# folder of PYTHONPATH, is not found then, nor later, for a package knows its own folder. For all other imports the folder
# stands last, since what lies beside an installed package must hide no module of the standard library.
_FIND: Final = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import agent, bpf, exporters; sys.path.append(sys.path.pop(0)); "
)
_FOLDERS: Final = "sys.path += sys.argv.pop(1).split(chr(10)); "
_VERB: Final = "from agent.__main__ import run; run()"


def command(program: str, *arguments: str, at_once: bool = False) -> list[str]:
    """Return the command that runs a program of Python with this process's interpreter and this installation.

    The process does not look for modules in its working directory, where any user may have put one. It ignores the
    environment and the user's own site-packages where this process does (options ``-E``, ``-s`` and ``-I`` of Python).

    Args:
        program: statements of Python, without line breaks; `sys` is imported.
        arguments: of the program, ``sys.argv[1:]``.
        at_once: True where every millisecond counts: the process takes the folders of packages from this one, and reads no
            ``.pth`` file, which may have anything run (option ``-S`` of Python). So does a child of a process without.
    """
    flags = [("-E", sys.flags.ignore_environment), ("-s", sys.flags.no_user_site)]
    options = ["-P", *(option for option, is_on in flags if is_on)]
    if not at_once and not sys.flags.no_site:
        return [sys.executable, *options, "-c", _FIND + program, TOP, *arguments]
    folders = "\n".join(place for place in sys.path if place.endswith(("/site-packages", "/dist-packages")))
    return [sys.executable, *options, "-S", "-c", _FIND + _FOLDERS + program, TOP, folders, *arguments]


def verb(*words: str) -> list[str]:
    """Return the command that runs a verb of the command line, as `command` does."""
    return command(_VERB, *words)
