# SPDX-License-Identifier: Apache-2.0
"""The selection of an immutable snapshot from the table: tasks, pid objects, tags. Pure."""
