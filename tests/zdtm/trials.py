# SPDX-License-Identifier: Apache-2.0
"""Trials of tests of CRIU's suite: each is started and dumped, and restored by one of the two, in bounded time."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from tests.zdtm.stages import REPOSITORY, Outcome
from tests.zdtm.suite import Trial

_TRIAL_S: Final = 20.0
_NAMESPACES: Final = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
_MOST_TEXT: Final = 600


class Surroundings(NamedTuple):
    """The surroundings of all trials.

    Attributes:
        tree: the built tree of CRIU.
        suite: the suite of Debian whose criu dumps and restores.
        socket: of the daemon that sees the trees.
        keep: a folder for the images and all that the restorers wrote; None to keep nothing.
    """

    tree: Path
    suite: str
    socket: Path
    keep: Path | None

    def tried(self, trial: Trial, by: str) -> Outcome:
        """Start a test, dump it, have it restored by ``criu`` or ``ckptree``, and return the outcome."""
        before = _entries(trial.folder)
        with tempfile.TemporaryDirectory(prefix="ckptree-zdtm-") as name:
            images = Path(name, trial.name)
            try:
                outcome = self._run(trial, by, images)
            finally:
                _clean(trial, before)
            if self.keep is not None and images.exists():
                shutil.copytree(images, self.keep / f"{trial.name}.{by}", dirs_exist_ok=True)
        text = outcome.text.replace(f"{self.tree.absolute()}/", "").replace(f"{images}/", "")
        return outcome._replace(text=text[-_MOST_TEXT:])

    def _run(self, trial: Trial, by: str, images: Path) -> Outcome:
        """Run a trial in namespaces of its own, and end all of it when its time is over."""
        words: list[str | Path] = [sys.executable, "-m", "tests.zdtm.stages", by]
        process = subprocess.Popen(
            [*_NAMESPACES, *words, self.tree.absolute(), trial.name, images, self.suite],
            cwd=REPOSITORY,
            env={**os.environ, "CKPTREE_SOCKET": os.fspath(self.socket)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            out, _ = process.communicate(timeout=_TRIAL_S)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)  # its child, the first process, dies with it, and all below that
            process.communicate()
            return Outcome("wrong", f"it is not over after {_TRIAL_S:.0f} s")
        lines = out.splitlines()
        return Outcome(*json.loads(lines[-1])) if lines else Outcome("wrong", f"it ended with {process.returncode}")


def _entries(folder: Path) -> set[str]:
    return {entry.name for entry in os.scandir(folder)}


def _clean(trial: Trial, before: set[str]) -> None:
    """Remove the files that a test left behind, and undo what its script did."""
    for name in _entries(trial.folder) - before:
        path = trial.folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    with contextlib.suppress(subprocess.CalledProcessError, OSError):  # not every script knows the word
        trial.hook("clean")
