# SPDX-License-Identifier: Apache-2.0
"""Stores of objects: NATS, S3, OCI registries.

`opening.opened` gives the store of an address; `store.ObjectStore` is what a store can do. The libraries of a store are
imported when it is opened: they are the extra ``ckptree[fleet]``.
"""
