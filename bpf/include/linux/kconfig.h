/* SPDX-License-Identifier: GPL-2.0-only */
/* bcc includes this first; its own helpers ask for the option. bcc finds this folder by BCC_KERNEL_SOURCE. */
#define CONFIG_BPF_SYSCALL 1
