# SPDX-License-Identifier: Apache-2.0
"""The live process table: objects, the kernel's rules, records in their order. Pure: no clock, no descriptor, no
/proc."""
