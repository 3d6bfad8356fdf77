# SPDX-License-Identifier: Apache-2.0
"""What /proc and cgroupfs say of this host and its processes."""
