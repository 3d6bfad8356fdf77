// SPDX-License-Identifier: Apache-2.0
/* The two system calls of treeprog.c that no C library may make for it: any call, and a clone3() into a function. */
#ifndef TREECALLS_H
#define TREECALLS_H

#include <linux/sched.h>
#include <sys/syscall.h>

#if !defined(__x86_64__) && !defined(__aarch64__)
#error "the system calls below are written for x86-64 and arm64"
#endif

struct node;

#ifdef __x86_64__
static long call(long number, long a, long b, long c, long d, long e, long f)
{
	long result;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}
#else
static long call(long number, long a, long b, long c, long d, long e, long f)
{
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;

	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
}
#endif

/* clone3() whose child never returns here: it calls `entry`, on a stack of its own or on its copy of this one. */
#ifdef __x86_64__
static long spawn(struct clone_args *args, void (*entry)(struct node *), struct node *child)
{
	long result;

	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "sub $128, %%rsp\n\t" /* below the red zone that the compiler may be using */
			 "and $-16, %%rsp\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %[child], %%rdi\n\t"
			 "call *%[entry]\n\t"
			 "hlt\n"
			 "1:"
			 : "=a"(result)
			 : "0"((long)SYS_clone3), "D"(args), "S"(sizeof(*args)), [entry] "r"(entry), [child] "r"(child)
			 : "rcx", "r11", "memory");
	return result;
}
#else
static long spawn(struct clone_args *args, void (*entry)(struct node *), struct node *child)
{
	register long x8 __asm__("x8") = SYS_clone3;
	register long x0 __asm__("x0") = (long)args;
	register long x1 __asm__("x1") = sizeof(*args);

	__asm__ volatile("svc #0\n\t"
			 "cbnz x0, 1f\n\t"
			 "mov x29, xzr\n\t"
			 "mov x0, %[child]\n\t"
			 "blr %[entry]\n\t"
			 "brk #0\n"
			 "1:"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), [entry] "r"(entry), [child] "r"(child)
			 : "x30", "memory");
	return x0;
}
#endif

#endif
