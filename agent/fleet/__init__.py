# SPDX-License-Identifier: Apache-2.0
"""Many hosts: what lies in stores and goes through servers that others keep. The daemon imports nothing of it."""
