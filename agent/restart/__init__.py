# SPDX-License-Identifier: Apache-2.0
"""The rebuild of a tree from its image: plan, simulate, rebuild, verify."""
