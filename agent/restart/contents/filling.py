# SPDX-License-Identifier: Apache-2.0
"""The fill of a rebuilt tree under way: the shell around the restorer and the resumer.

The tree is released with the fill section, so that each task takes its contents. Then the resumer sets what a task cannot
set itself. No task runs before run().
"""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.errors import CkptreeError
from agent.restart.contents import fillabi
from agent.restart.contents.addresses import Specials, mapped, special_areas
from agent.restart.contents.contents import Contents
from agent.restart.contents.fillabi import Resumed, ResumeMessage
from agent.restart.contents.fillsection import FillProgram
from agent.restart.contents.programs import Programs
from agent.restart.contents.publishing import Publisher
from agent.restart.contents.refusals import Refused
from agent.restart.contents.resumer import Resumer, ThreadState
from agent.restart.contents.verifycredentials import verify_credentials
from agent.restart.rebuild.coordinator import Rebuild
from agent.restart.rebuild.failure import differs
from agent.restart.rebuild.progress import Progress
from exporters import gcpause

RESTORER: Final = Path(__file__).parents[1] / "helper" / "ckptree-restorer"


def host_specials() -> Specials:
    """Return the kernel's special areas of this process, and the code of its vdso.

    All processes of a kernel have the same ones, at other addresses.
    """
    specials = special_areas(Path("/proc/self/maps").read_text(), b"")
    area = next((area for name, area in specials.areas.items() if name == "[vdso]"), None)
    code = b"" if area is None else ctypes.string_at(area.start, area.size)
    return Specials(specials.areas, code)


class Filling:
    """The fill of a tree that stands.

    Args:
        rebuild: the tree; it must be active when it is filled.
        contents: the contents of its tasks.
    """

    def __init__(self, rebuild: Rebuild, contents: Contents) -> None:
        self._rebuild = rebuild
        self._contents = contents
        self._resumer: Resumer | None = None
        self._program = FillProgram()
        self._threads: list[ThreadState] = []
        self._states: list[ThreadState] = []
        self._state_at = 0
        self._programs: Programs | None = None
        self.work = self._write()

    def _write(self) -> Iterator[bool]:
        """Write the programs of all processes, a piece at each step, which yields False where none is born yet."""
        while not (pid := self._rebuild.born()) or not (maps := _maps(pid)):
            yield False
        with gcpause.paused():
            programs = self._begin(maps)
        yield True
        publisher = Publisher(self._rebuild.file, self._state)
        for steps in (programs.memories(), programs.rest()):
            while True:
                with gcpause.paused():
                    made = next(steps, None)
                    if made is None:
                        break
                    process, word = made
                    publisher.publish(word, *process.part())
                yield True
        with gcpause.paused():
            self._states = programs.states()

    def _begin(self, maps: str) -> Programs:
        """Write the fill section with the first parts of all programs."""
        code = RESTORER.read_bytes()
        try:
            programs = self._contents.programs(self._rebuild.numbers, mapped(maps), special_areas(maps, b""))
        except Refused as refused:  # of the addresses that this kernel has given to the helper
            raise CkptreeError(str(refused)) from refused
        self._program, self._threads = programs.fill, programs.threads()
        actors = len(self._rebuild.plan.actors)
        start = self._rebuild.put(self._program.section(code, actors))
        self._state_at = start + self._program.state_offset(code, actors)
        self._programs = programs
        return programs

    @property
    def _state(self) -> tuple[int, int]:
        """Offset and size of the fill's state in the shared file."""
        return self._state_at, self._program.state_size

    def fill(self) -> None:
        """Have all tasks take their contents; they then stand still until run().

        Raises:
            CkptreeError: a part cannot be restored; the tree must be taken down.
        """
        while (programs := self._programs) is None:
            if next(self.work) is False:
                raise CkptreeError("the kernel does not show the memory of a process of the tree")
        self._contents.ghosts.create()
        self._rebuild.fill(self._program.entries_size(len(self._rebuild.plan.actors)), self.work)
        self._resumer = Resumer(
            self._threads, self._rebuild.pids, self._rebuild.file, self._state, suspends=self._contents.is_filtered
        )
        for _ in self.work:
            pass
        self._resumer.complete(self._states)
        self._expect(Resumed.READY)
        self._verify(programs)
        self._contents.ghosts.remove(links=False)

    def _verify(self, programs: Programs) -> None:
        """Compare the credentials of all threads with those of the images.

        Raises:
            RebuildError: a thread has other ones; the tree must be taken down.
        """
        pids = self._rebuild.pids
        with gcpause.paused():
            threads = [(actor, pids[actor], creds) for actor, creds in programs.credentials()]
            found = verify_credentials(threads, self._named)
        if found:
            raise differs(found)

    def run(self) -> None:
        """Let all tasks run at once.

        Raises:
            CkptreeError: the resumer was killed, and the tree with it.
        """
        if self._resumer is not None:
            if self._contents.blocked is not None:
                self._contents.blocked.unblock()
            self._resumer.go()
            self._expect(Resumed.ALL)
            self._contents.ghosts.remove(links=True)
            self.close()

    def close(self) -> None:
        """End the resumer; tasks that do not run yet die with it, and what was made for them alone goes."""
        self._contents.ghosts.remove(links=False)
        if self._resumer is not None:
            self._resumer.close()
            self._resumer = None

    def _expect(self, wanted: Resumed) -> None:
        if self._resumer is not None:
            progress = Progress(self._progress)
            message = self._resumer.receive(progress.show)
            progress.end()
            if message.what != wanted:
                raise self._failure(message)

    def _progress(self) -> str:
        *_, count = fillabi.STATE.unpack(os.pread(self._rebuild.file, fillabi.STATE.size, self._state_at))
        return f"ckptree: {count >> 20} of {self._contents.page_bytes >> 20} MiB of memory restored"

    def _failure(self, message: ResumeMessage) -> CkptreeError:
        what = Resumed(message.what)
        if what is Resumed.FILL_FAILED:
            state = os.pread(self._rebuild.file, fillabi.STATE.size, self._state_at)
            _, _, _, actor, index, error, _ = fillabi.STATE.unpack(state)
            return CkptreeError(self._text(actor, index, error))
        actor = self._threads[message.thread].actor
        return CkptreeError(f"{self._named(actor)} cannot be resumed: {_RESUMER[what]}{_cause(what, message.error)}")

    def _text(self, actor: int, index: int, error: int) -> str:
        step = self._program.step(actor, index)
        if step is None:  # each task can write to the state
            return "a process of the tree has changed the state of the restart: see who could trace it"
        reason = os.strerror(error) if error else "the kernel's answer is another one than the image needs"
        name, about = step
        if name == "openat2":
            reason += _STRICT
        return f"{self._named(actor)}: {about.kind} {about.identity}: {name}: {reason}"

    def _named(self, actor: int) -> str:
        return f"task {self._rebuild.plan.actors[actor].tag} ({self._rebuild.numbers[actor][0]})"


def _maps(pid: int) -> str:
    """Return the map of a process's memory; empty: it has ended."""
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return ""


_STRICT: Final = (
    ": a user could change the way to it, so the task's own user must be able to open it there, and through no link"
)
_RESUMER: Final = {
    Resumed.SETUP: "the resumer cannot read its table",
    Resumed.SEIZE: "it cannot be traced",
    Resumed.WAIT_FAILED: "it cannot be waited for",
    Resumed.DIED: "it ended while it was filled",
    Resumed.REGISTERS: "its registers are refused",
    Resumed.FLOATING: "its floating point registers are refused",
    Resumed.COMPONENT: "this processor lacks registers that the image has: XSAVE component",
    Resumed.MASK: "its mask of signals is refused",
    Resumed.REGION: "the memory of the restart cannot be unmapped",
    Resumed.READY: "it was resumed too early",
    Resumed.ALL: "it was resumed too early",
}


def _cause(what: Resumed, error: int) -> str:
    if what is Resumed.DIED:
        return f": wait status or signal {error:#x}"
    if what is Resumed.COMPONENT:
        return f" {error}"
    return f": {os.strerror(error)}" if error else ""
