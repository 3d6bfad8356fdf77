# SPDX-License-Identifier: Apache-2.0
"""The kernel side: the BPF programs, the header that Python shares, and the modules that compile and load them."""
