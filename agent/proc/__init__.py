# SPDX-License-Identifier: Apache-2.0
"""Readers of /proc and cgroupfs: this host and its processes."""
