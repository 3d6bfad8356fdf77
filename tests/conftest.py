# SPDX-License-Identifier: Apache-2.0
"""What all tests share: they depend on nothing that whoever started them happens to have set."""

import os
import signal

# A shell starts a job in the background with SIGINT ignored, and so would every process that a test starts, and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.pop("CKPTREE_SOCKET", None)
