/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * bcc chooses its map helpers by version and writes the version into every module. Nothing else here goes by version:
 * the programs need 5.8 (ring buffer, iterators) anyway, and the loader checks for that by loading.
 */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 8, 0)
