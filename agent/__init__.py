# SPDX-License-Identifier: Apache-2.0
"""The live process table, the snapshot taken from it, and the programs around them."""

VERSION = "0.2.0"
"""The program's version, which is the distribution's; importlib.metadata would tell it too, but costs imports."""
