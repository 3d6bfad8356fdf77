# SPDX-License-Identifier: Apache-2.0
"""``python -m manual FOLDER``: write manual pages and completions, as they lie below /usr/share."""

import sys
from pathlib import Path

from manual.share import write

for path in write(Path(sys.argv[1])):
    print(path)
