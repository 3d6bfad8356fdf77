/* SPDX-License-Identifier: Apache-2.0 */
/* What the kernel's header of ptrace() has, for a program without libc. */
#ifndef CKPTREE_TRACING_H
#define CKPTREE_TRACING_H

/* Requests and options of ptrace(), and the event of a stop that was asked for. */
#define PTRACE_CONT 7
#define PTRACE_SYSCALL 24
#define PTRACE_DETACH 17
#define PTRACE_GETREGSET 0x4204
#define PTRACE_SETREGSET 0x4205
#define PTRACE_SEIZE 0x4206
#define PTRACE_INTERRUPT 0x4207
#define PTRACE_SETSIGMASK 0x420b
#define PTRACE_O_EXITKILL (1 << 20)
#define PTRACE_EVENT_STOP 128

#endif
