# SPDX-License-Identifier: Apache-2.0
"""From a snapshot to a plan: the order of system calls that makes the tree, proven on a model of the kernel. Pure."""
