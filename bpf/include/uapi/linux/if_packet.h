/* SPDX-License-Identifier: GPL-2.0-only */
/* bcc asks for it; nothing of it is needed. */
