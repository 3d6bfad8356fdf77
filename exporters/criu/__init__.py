# SPDX-License-Identifier: Apache-2.0
"""Folders of CRIU's images: dumps of CRIU are read, and the format criu writes one with the tree alone."""

from typing import Final

PREFIX: Final = "criu:"
"""The beginning of a FILE that names such a folder."""

TREE: Final = "tree.ckpt"
"""Name of the image of the tree that ``ckptree hook criu`` leaves beside CRIU's."""
