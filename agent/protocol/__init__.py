# SPDX-License-Identifier: Apache-2.0
"""Messages between daemon and client, and the client's side of them."""
