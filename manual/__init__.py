# SPDX-License-Identifier: Apache-2.0
"""Manual pages and completions, made from the code. No part of what is installed; what it makes is."""
