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


def run() -> None:
    """The installed command."""
    code = main()
    with contextlib.suppress(OSError):  # a reader that has gone is no news at this point
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the interpreter would tidy up for as long as most verbs take


if __name__ == "__main__":
    run()
