# SPDX-License-Identifier: Apache-2.0
"""Live events for subscribers: the differences between the facts last told and the table. Pure."""
