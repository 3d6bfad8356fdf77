# SPDX-License-Identifier: Apache-2.0
"""The daemon: socket, conversations, requests, fairness, log, and the service manager around it."""
