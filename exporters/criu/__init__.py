# SPDX-License-Identifier: Apache-2.0
"""CRIU's pstree image."""
