# SPDX-License-Identifier: Apache-2.0
"""Live events for subscribers, made of differences between what was told and what the table holds. Pure."""
