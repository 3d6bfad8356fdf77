# SPDX-License-Identifier: Apache-2.0
"""The live process table, the snapshot taken from it, and the programs around them."""

VERSION = "0.1.0"
"""Of the program; that of the distribution, which nobody can ask for without importing a good deal."""
