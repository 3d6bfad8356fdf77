# SPDX-License-Identifier: Apache-2.0
"""``python -m manual FOLDER``: write manual pages and completions, in the layout of /usr/share."""

import sys
from pathlib import Path

from manual.share import write

for path in write(Path(sys.argv[1])):
    print(path)
