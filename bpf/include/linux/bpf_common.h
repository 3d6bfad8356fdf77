/* SPDX-License-Identifier: GPL-2.0-only */
/* bcc asks for it; classic BPF opcodes, none of which the programs use. */
