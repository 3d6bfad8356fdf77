# SPDX-License-Identifier: Apache-2.0
"""Contents that all formats share: the fields of a snapshot, their bounds, and their words."""
