# SPDX-License-Identifier: Apache-2.0
"""Trees as text and as graphs."""
