# SPDX-License-Identifier: Apache-2.0
"""Manual pages and completions, made from the code. This package is not installed; its output is."""
