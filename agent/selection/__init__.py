# SPDX-License-Identifier: Apache-2.0
"""From the table to an immutable snapshot: which tasks, which pid objects, which tags. Pure."""
