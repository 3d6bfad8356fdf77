# SPDX-License-Identifier: Apache-2.0
"""``ckptree`` as installed: daemon and hooks without the command line's imports, everything else through them.

An interrupt may come at any moment, and most of a short verb's time is imports. A KeyboardInterrupt raised there may
not reach the top as such: some modules turn it into an error of their own, and within a callback Python prints it and
goes on. So the handler notes that it was called, and however the program then ends, it ends with the code of an
interrupt.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

INTERRUPTED = 130
_COLLECTED_AFTER = 50_000
"""Objects that a verb makes between two searches for cycles. Those of imports stay; to visit them at each 700 new ones,
as Python does, takes a tenth of a short verb's time."""

_interrupts: list[int] = []


def main() -> int:
    """Run the daemon or a verb of the command line; return the exit code."""
    if sys.argv[1:2] == ["daemon"]:
        from agent.daemon.main import main as daemon

        return daemon(sys.argv[2:])
    if sys.argv[1:2] == ["hook"]:
        if (os.environ.get("CRTOOLS_SCRIPT_ACTION") or "post-dump") != "post-dump":
            return 0  # CRIU calls at a dozen points
        if sys.argv[2:] in (["criu"], ["criu", "--required"]):  # as CRIU calls, while it holds a tree
            from agent.cli.criuhook import run as hook

            return hook(required=len(sys.argv) > 3)
    import gc

    gc.set_threshold(_COLLECTED_AFTER)
    from agent.cli.main import main as command_line

    return command_line()


def fill_standard_streams() -> None:
    """Open each of descriptors 0 to 2 that is closed, lest a file opened later take its place.

    A supervisor may start the program without some of them. A write to a missing standard output then fails as on a
    full disk; messages to a missing standard error are dropped.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open("/dev/full" if descriptor == 1 else os.devnull, os.O_RDWR)  # the lowest free one: this very one
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w", closefd=False))


def _interrupted(number: int, _frame: "FrameType | None") -> None:
    _interrupts.append(number)
    raise KeyboardInterrupt


def _heed_interrupts() -> None:
    """Note each SIGINT, unless it is ignored, as under `nohup` and for a background job of a shell."""
    import signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
        sys.unraisablehook = _unraisable


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """End at once where an interrupt was raised within a callback: Python passes it to no caller."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt):
        os._exit(INTERRUPTED)
    sys.__unraisablehook__(unraisable)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:  # noqa: SIM105 - contextlib would be imported for it
            stream.flush()
        except OSError:  # the reader has gone; nothing is left to do about it
            pass


def run() -> None:
    """Run the installed command and end the process."""
    try:
        _heed_interrupts()
        fill_standard_streams()
        code = main()
        _flush()
    except BaseException as error:
        if not _interrupts and not isinstance(error, KeyboardInterrupt):
            raise
        code = INTERRUPTED
    os._exit(code)  # the interpreter's shutdown would take as long as most verbs do


def run_hook_of_criu() -> None:
    """Run ``ckptree hook criu`` under a name of one word, ``ckptree-hook-criu``: CRIU passes no arguments."""
    sys.argv[1:1] = ["hook", "criu"]
    run()


if __name__ == "__main__":
    run()
