# SPDX-License-Identifier: Apache-2.0
"""Snapshot <-> bytes. No clock, no /proc, no bcc here."""
