# SPDX-License-Identifier: Apache-2.0
"""The recorder: what the watch took in, kept on disk, and the table of any instant rebuilt from it."""
