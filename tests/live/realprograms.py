# SPDX-License-Identifier: Apache-2.0
"""Real programs to be dumped and restarted: how each is started, how far it has come, what it must have done in the end.

All that is known of a program is in its folder, so that another machine with the same folder can go on with it.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.live.dumps import dump, eventually, program, restarted
from tests.support import suitepackages

Words = Sequence[str | Path]


def _idle(folder: Path) -> None:
    """Ask nothing of a program that works by itself, or find no fault with one."""


class RealProgram(NamedTuple):
    """A program.

    Attributes:
        words: makes the program's files in an empty folder, and returns its command, to be run there.
        count: returns how far it has come, from its folder alone.
        ask: has a server do something that it can be counted by; called before each count.
        judge: raises AssertionError if it has done anything wrong; called when it has ended.
        begun: the count above which it is dumped.
        further: by how much the count must rise after the restart.
        options: of criu.
        rights: words in front of the tree's command, which give it its user and its namespaces.
        outside: words in front of those that make the tree a container.
        before: words in front of criu's command.
        restart: options of restart.
        within: words in front of restart.
        suite: of the criu that dumps it.
        env: variables beside this process's.
        ends: it ends by itself.
    """

    words: Callable[[Path], Words]
    count: Callable[[Path], int]
    ask: Callable[[Path], None] = _idle
    judge: Callable[[Path], None] = _idle
    begun: int = 20
    further: int = 20
    options: tuple[str, ...] = ()
    rights: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    suite: str = suitepackages.SUITE
    env: Mapping[str, str] = {}
    ends: bool = False


OWN_TERMINALS: Final = (
    *("unshare", "--mount", "--propagation", "private", "sh", "-c"),
    'mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts && exec "$@"',
    "sh",
)
"""Words in front of a command that then has a devpts whose numbers are free, whatever terminals this host has meanwhile."""


@contextmanager
def short_folder() -> Iterator[Path]:
    """Yield a folder whose path leaves room in the address of a Unix socket. Other users may read it."""
    with tempfile.TemporaryDirectory(prefix="ck") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def running(real: RealProgram, folder: Path, within: Callable[[Words], Words] | None = None) -> Iterator[int]:
    """Run a program until it has come far enough to be dumped; yield the pid of the process that is started.

    Args:
        real: the program.
        folder: an empty one.
        within: makes a command of the program's, as one that runs it at a place of a tree; None: the program is the tree.
    """

    def has_begun() -> bool:
        with suppress(OSError):  # a server that does not listen yet
            real.ask(folder)
        return real.count(folder) > real.begun

    env = {**os.environ, "LANG": "C.UTF-8", "TERM": "xterm", **real.env}
    words = real.words(folder)
    with program(within(words) if within else [*real.rights, *words], folder, env=env) as pid:
        eventually(has_begun, "the program has begun")
        yield pid


def dumped(real: RealProgram, pid: int, folder: Path, daemon: Path) -> Path:
    """Have CRIU dump a program in its folder; return the folder of the images."""
    return dump(pid, folder / "images", daemon, *real.options, suite=real.suite, before=real.before)


@contextmanager
def gone_on(real: RealProgram, folder: Path, *options: str) -> Iterator[Mapping[str, Any]]:
    """Restart a program from the images in its folder, see that it goes on, yield the ready line, end it, and judge.

    Args:
        real: the program.
        folder: its own.
        options: of restart.
    """
    earlier = real.count(folder)
    images = folder / "images"
    with restarted(images, *real.restart, *options, ended=real.ends, before=real.within) as ready:
        root = Path("/proc", str(ready["tasks"][0]["pid"]), "exe")

        def has_gone_on() -> bool:
            real.ask(folder)
            return real.count(folder) > earlier + real.further

        eventually(lambda: has_gone_on() or not root.exists(), "the program goes on")
        said = (folder / "out").read_text(errors="replace").splitlines()[-1:]
        assert real.count(folder) > earlier + real.further, f"the program has ended: {' '.join(said)}"
        yield ready
    real.judge(folder)


def number_in(path: Path) -> int:
    """Return the number that a file has; 0 where there is none."""
    return int(path.read_text()) if path.exists() else 0


def words_told(folder: Path) -> list[str]:
    """Return the words that a program has written to its file."""
    return (folder / "told").read_text().split() if (folder / "told").exists() else []
