# SPDX-License-Identifier: Apache-2.0
"""The mark in the channel at which the writer begins a segment; it is never stored."""

from typing import Final

MARK: Final = 128
"""The kind of the mark's entry. Its payload is JSON: the facts of the segment's head (agent.recorder.segment) but for its
sequence, and ``keyframe``, the number with which the keyframe will come."""
