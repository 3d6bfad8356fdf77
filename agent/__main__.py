# SPDX-License-Identifier: Apache-2.0
"""``ckptree`` as installed: the daemon without the command line's imports, everything else through them."""

import contextlib
import os
import sys


def main() -> int:
    """Dispatch; returns the exit code."""
    if sys.argv[1:2] == ["daemon"]:
        from agent import daemon

        return daemon.main(sys.argv[2:])
    from agent import cli

    return cli.main()


def fill_standard_streams() -> None:
    """A supervisor may start us without some of them: no file opened later may take their place.

    What would be written to standard output then fails, as to a full disk; messages to nobody are nobody's loss.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open("/dev/full" if descriptor == 1 else os.devnull, os.O_RDWR)  # the lowest free one: this very one
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w", closefd=False))


def run() -> None:
    """The installed command."""
    fill_standard_streams()
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # a reader that has gone is no news at this point
            stream.flush()
    os._exit(code)  # the interpreter would tidy up for as long as most verbs take


if __name__ == "__main__":
    run()
