# SPDX-License-Identifier: Apache-2.0
"""The contents of a rebuilt tree: memory, registers, descriptors and the rest, from the images of a dump."""
