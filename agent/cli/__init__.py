# SPDX-License-Identifier: Apache-2.0
"""The command line: one module for a verb or a family of verbs, and what they share."""
