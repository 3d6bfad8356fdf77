# SPDX-License-Identifier: Apache-2.0
"""The checkpoint image: framing, records, reading and writing."""
