# SPDX-License-Identifier: Apache-2.0
"""The contents of a rebuilt tree: memory, registers, descriptors and the rest, from the images of a dump.

A function that takes a script, a `Holder` or an `OpenFile` opens, sets or restores nothing itself. It adds the operations
by which the task will do so.
"""
