# SPDX-License-Identifier: Apache-2.0
"""``ckptree`` as installed: the daemon without the command line's imports, everything else through them."""

import sys


def main() -> None:
    """Dispatch."""
    if sys.argv[1:2] == ["daemon"]:
        from agent import daemon

        sys.exit(daemon.main(sys.argv[2:]))
    from agent import cli

    cli.main()


if __name__ == "__main__":
    main()
