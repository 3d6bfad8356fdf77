# SPDX-License-Identifier: Apache-2.0
"""The doctor: it finds out by trial what ckptree can do on this host."""
