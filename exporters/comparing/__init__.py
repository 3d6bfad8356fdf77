# SPDX-License-Identifier: Apache-2.0
"""Differences between two snapshots."""
