# SPDX-License-Identifier: Apache-2.0
"""A picture of a drawing, made by graphviz's ``dot``.

The drawing (exporters.drawing.dot) is text and needs no other program. The layout needs graphviz, which may be missing,
and which is slow for large trees: its time is bounded.
"""

import shutil
import subprocess
from typing import Final

from agent.errors import CkptreeError, HostError

TIMEOUT_S: Final = 120.0


def svg(drawing: bytes, timeout_s: float = TIMEOUT_S) -> bytes:
    """Lay out a drawing in graphviz's language as SVG.

    Args:
        drawing: text of a graph, in UTF-8.
        timeout_s: seconds that the layout may take.

    Raises:
        HostError: graphviz is not installed.
        CkptreeError: graphviz failed, or took too long.
    """
    program = shutil.which("dot")
    if program is None:
        raise HostError(
            "there is no program `dot` on PATH, which draws svg: install graphviz (Debian: apt-get install graphviz), "
            "or write the format dot"
        )
    try:
        ran = subprocess.run([program, "-Tsvg"], input=drawing, capture_output=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise CkptreeError(
            f"`{program} -Tsvg` has not laid out the tree in {timeout_s:g} s: it is too large for a picture; "
            "write the format dot, and try `sfdp -Tsvg` on it"
        ) from error
    except OSError as error:
        raise HostError(f"cannot run {program}: {error.strerror or error}") from error
    if ran.returncode != 0:
        said = ran.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = said[0] if said else "it said nothing"
        raise CkptreeError(f"`{program} -Tsvg` ended with status {ran.returncode}: {reason}")
    return ran.stdout
