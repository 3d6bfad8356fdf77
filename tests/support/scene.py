# SPDX-License-Identifier: Apache-2.0
"""A tree that is hard to rebuild, as the calls that make it on a simulated kernel."""

from collections.abc import Callable

from tests.support.kernelobjects import Thread
from tests.support.kernelsim import Kernel

Scene = Callable[[Kernel, Thread], Thread | None]


class Scenes(dict[str, Scene]):
    """The scenes of a module, by name."""

    def __call__(self, made: Scene) -> Scene:
        """Enter a scene; the function gets an init that leads a session, and may return another root."""
        self[made.__name__] = made
        return made


def gone(kernel: Kernel, thread: Thread, waits: Thread) -> None:
    """Let the thread exit, and a parent wait for it."""
    kernel.exit_group(thread)
    kernel.wait(waits, thread)
