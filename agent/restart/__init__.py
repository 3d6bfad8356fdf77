# SPDX-License-Identifier: Apache-2.0
"""From an image to the same tree again: plan, simulate, rebuild, verify."""
