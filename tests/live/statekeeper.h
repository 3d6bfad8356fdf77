/* SPDX-License-Identifier: Apache-2.0 */
/* What the modes of the program statekeeper have in common. */
#ifndef CKPTREE_STATEKEEPER_H
#define CKPTREE_STATEKEEPER_H

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/rseq.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define THREADS 3
#define STACK 65536
#define PATIENCE 10000 /* of 10 ms */

extern FILE *out;
extern pthread_barrier_t ready, told;

void tell(const char *format, ...);
_Noreturn void die(const char *what);
long must(long answer, const char *what);
/* Wait until the file exists; no call that could be interrupted lasts. */
void await(const char *name);
void make(const char *name);
/* Write what `facts` tells to a file, which appears when it is whole. */
void tell_to(const char *name, void (*facts)(void));
void before_and_after(void (*facts)(void));
void lines_of(const char *path, const char *const *names);

/* The modes. */
void registers(void);
void process(void);
void capabilities(void);
void signals(void);
void within_handler(void);
void within_disarming_handler(void);
void calls(void);
void filters(void);
void filters_apart(void);
void strict(void);
void timers(void);
void robust(void);
void family(void);
void sequence(void);
void rooted(void);
void sleeping(void);

#endif
