# SPDX-License-Identifier: Apache-2.0
"""The command line: the call of a verb, and its end as an exit code."""

import errno
import sys

from agent.cli import ending, plain, unread
from agent.cli.message import say
from agent.errors import INTERRUPTED, CkptreeError, RefusedError


def main() -> int:
    """Run a verb and return its exit code; a CkptreeError is printed as one message.

    Where the reader of standard output has left, the process ends by SIGPIPE, as every program in a pipeline does.
    """
    try:
        return _called()
    except unread.UnreadError:
        pass
    finally:
        ending.end()
    return unread.end()


def _called() -> int:
    try:
        call = plain.call(sys.argv[1:])
        if call is None:
            from agent.cli.app import run

            run()
        else:
            with unread.noticed():
                call()
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except CkptreeError as error:
        say(str(error))
        for line in error.leaks if isinstance(error, RefusedError) else ():
            say(f"  {line}")
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        if error.errno == errno.EPIPE:  # of standard error, or of a connection
            return 1
        text = unread.unwritable(error)
        if text:
            say(text)
            return 1
        raise
    return 0
