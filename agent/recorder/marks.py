# SPDX-License-Identifier: Apache-2.0
"""The kinds of entries that a channel has beside those of a tape; they are never stored."""

from typing import Final

MARK: Final = 128
"""The kind of the mark's entry. Its payload is JSON: the facts of the segment's head (agent.recorder.segment) but for its
sequence, and ``keyframe``, the number with which the keyframe will come."""

SKIP: Final = 0
"""The kind of what is left up to the end of the channel."""
