# SPDX-License-Identifier: Apache-2.0
"""JSON and msgpack documents."""
