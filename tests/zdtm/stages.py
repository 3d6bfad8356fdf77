# SPDX-License-Identifier: Apache-2.0
"""A trial of a test, below the first process of namespaces of its own: start, dump, restore, ask for the verdict.

``python -m tests.zdtm.stages RESTORER TREE NAME IMAGES SUITE`` is that first process. It reaps every child at once, so that
the numbers of dumped tasks are free again, and its end ends all that is left. The last line of its standard output is the
outcome, in JSON: its kind and a text. SUITE is the suite of Debian whose criu dumps and restores. All is done in one
network namespace, in which CRIU locks connections, and where a test may have a partner that is not dumped.
"""

import json
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.suitepackages import criu
from tests.zdtm.suite import Trial, trial

REPOSITORY: Final = Path(__file__).parents[2]
FIRST_PID: Final = 3000
"""Programs are numbered from here on, so that no process of a restorer has a number that the restore needs."""
REFUSED: Final = 7
OPTIONS: Final = ("--tcp-established", "--tcp-close")
"""Options of criu that ckptree has under the same name."""
_PATIENCE_S: Final = 8.0
_TURN_S: Final = 0.02
_MOST_TEXT: Final = 2000


class Outcome(NamedTuple):
    """The outcome of a stage or of a whole trial.

    Attributes:
        kind: ``dumped``, ``passed``, ``refused``, ``wrong`` or ``not dumped``.
        text: the reason, empty where there is none to tell.
        rules: those by which ckptree refuses a restart: the kind of the object, and the word for the reason.
    """

    kind: str
    text: str = ""
    rules: tuple[str, ...] = ()


class Stage(NamedTuple):
    """The stages of a trial.

    Attributes:
        trial: the test.
        images: the folder of its images.
        suite: the suite of Debian whose criu dumps and restores.
    """

    trial: Trial
    images: Path
    suite: str

    def start_and_dump(self) -> Outcome:
        """Start the program, and have CRIU dump it with the tree beside the images."""
        self._made("cleanout")
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(FIRST_PID))
        starting = subprocess.Popen(self._target("pid"), stdin=subprocess.DEVNULL, stdout=sys.stderr)
        self.trial.hook("post-start")
        if starting.wait() != 0:
            return Outcome("not dumped", f"it does not start: {self._written()}")
        self.trial.hook("pre-dump", ZDTM_TEST_PID=str(self._pid()))
        self.images.mkdir()
        hook = Path(sys.executable).with_name("ckptree-hook-criu")
        tree = ("-t", str(self._pid()), "--action-script", hook)
        ran = self._criu("dump", "-o", "dump.log", "--timeout", "10", *tree, *self.trial.dump_options)
        errors = _errors(self.images / "dump.log")
        if ran.returncode:
            return Outcome("not dumped", errors)
        if not (self.images / "tree.ckpt").exists():
            return Outcome("not dumped", f"no tree beside the images: {errors}{ran.stderr}")
        return Outcome("dumped")

    def restore_by_criu(self) -> Outcome:
        """Restore the dump by CRIU, and ask the program for its verdict."""
        self.trial.hook("pre-restore")
        if self._criu("restore", "-d", "-o", "restore.log", *self.trial.restore_options).returncode:
            return Outcome("refused", _errors(self.images / "restore.log"))
        return self._verdict()

    def restore_by_ckptree(self) -> Outcome:
        """Restart the dump by ckptree, and ask the program for its verdict."""
        self.trial.hook("pre-restore")
        command = [sys.executable, "-m", "agent", "restart", f"criu:{self.images}", "--json", "--no-pidns"]
        command += self._options()
        log = self.images / "restart.err"
        with log.open("wb") as said:
            process = subprocess.Popen(
                command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said
            )
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], _PATIENCE_S)
        if not ready:
            return Outcome("wrong", f"restart is not ready after {_PATIENCE_S:.0f} s")
        if not process.stdout.readline():
            code, text = process.wait(), log.read_text().strip()
            if code == REFUSED:
                return Outcome("refused", text, self._rules())
            return Outcome("wrong", f"exit {code}: {text}")
        return self._verdict()

    def _options(self) -> list[str]:
        return [each for each in self.trial.restore_options if each in OPTIONS]

    def _rules(self) -> tuple[str, ...]:
        """Return the rules by which a restart of the dump is refused."""
        command = [sys.executable, "-m", "agent", "plan", f"criu:{self.images}", "--json", *self._options()]
        ran = subprocess.run(command, cwd=REPOSITORY, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        refusals = json.loads(ran.stdout)["contents"] if ran.stdout else []
        return tuple(dict.fromkeys(f"{each['kind']}: {each['rule']}" for each in refusals)) or (
            "tree: cannot be rebuilt",
        )

    def _verdict(self) -> Outcome:
        """Have the program, which runs again, look at its state, and return what it says."""
        pid = self._pid()
        self.trial.hook("post-restore", ZDTM_TEST_PID=str(pid), ZDTM_IMG_DIR=os.fspath(self.images))
        said = self.trial.folder / f"{self.trial.name}.out"
        self._made("out")
        deadline = time.monotonic() + _PATIENCE_S
        while not said.exists():
            if not Path(f"/proc/{pid}").exists() and not said.exists():
                return Outcome("wrong", f"it died: {self._written()}")
            if time.monotonic() > deadline:
                return Outcome("wrong", f"it hangs: {self._written()}")
            time.sleep(_TURN_S)
        return Outcome("passed") if "PASS" in said.read_text().split() else Outcome("wrong", self._written())

    def _criu(self, *words: str | Path) -> "subprocess.CompletedProcess[str]":
        verb, *options = words
        command = [criu(self.suite), verb, "-v1", "-D", self.images, *options]
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)

    def _pid(self) -> int:
        return int((self.trial.folder / f"{self.trial.name}.pid").read_text())

    def _target(self, target: str) -> list[str]:
        return ["make", "--no-print-directory", "-C", os.fspath(self.trial.folder), f"{self.trial.name}.{target}"]

    def _made(self, target: str) -> None:
        subprocess.run(self._target(target), stdin=subprocess.DEVNULL, stdout=sys.stderr, check=True)

    def _written(self) -> str:
        """Return the last lines that the test has written."""
        for name in (f"{self.trial.name}.out", f"{self.trial.name}.out.inprogress"):
            path = self.trial.folder / name
            if path.exists():
                return path.read_text(errors="replace").strip()[-_MOST_TEXT:]
        return "it wrote nothing"


def _errors(log: Path) -> str:
    """Return the errors of a log of CRIU's, without times."""
    if not log.exists():
        return "no log"
    lines = (re.sub(r"^\(\d+\.\d+\)\s*", "", line) for line in log.read_text(errors="replace").splitlines())
    return "\n".join(line for line in lines if line.strip())[:_MOST_TEXT]


def _first_process(run: Callable[[], int]) -> int:
    """Run a function in a child, and reap every process that ends meanwhile; return the child's status."""
    child = os.fork()
    if child == 0:
        os._exit(run())
    while True:
        pid, status = os.wait()
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def _try(stage: Stage, restorer: str) -> int:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    try:
        outcome = stage.start_and_dump()
    except (subprocess.CalledProcessError, OSError, ValueError) as error:
        outcome = Outcome("not dumped", f"{error}")
    if outcome.kind == "dumped":
        try:
            outcome = stage.restore_by_criu() if restorer == "criu" else stage.restore_by_ckptree()
        except (subprocess.CalledProcessError, OSError, ValueError) as error:
            outcome = Outcome("wrong", f"{error}")
    print(json.dumps(outcome), flush=True)
    return 0


if __name__ == "__main__":
    _, by, tree, which, images, suite = sys.argv
    sys.exit(_first_process(lambda: _try(Stage(trial(Path(tree), which), Path(images), suite), by)))
