# SPDX-License-Identifier: Apache-2.0
"""From a plan to processes: the helper's program, the coordinator, the verification."""
