# SPDX-License-Identifier: Apache-2.0
"""The live process table, the snapshot taken from it, and the programs around them."""
