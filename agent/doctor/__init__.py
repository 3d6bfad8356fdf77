# SPDX-License-Identifier: Apache-2.0
"""What this host can do for ckptree, found out by doing it."""
