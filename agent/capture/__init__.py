# SPDX-License-Identifier: Apache-2.0
"""The watch: kernel records read, the table kept complete, snapshots cut."""
