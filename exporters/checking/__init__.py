# SPDX-License-Identifier: Apache-2.0
"""Rules that an image is checked against."""
