# SPDX-License-Identifier: Apache-2.0
"""The kernel side: the BPF programs, the header they share with Python, and the one module that loads them."""
