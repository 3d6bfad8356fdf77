# SPDX-License-Identifier: Apache-2.0
"""The execution of a plan: the helper's program, the coordinator, the verification."""
