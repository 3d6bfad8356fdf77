/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The resumer: it traces all threads of a tree that is filled, gives them their registers, and lets them run, all or none. It is a
 * program of its own, which the coordinator starts after the release. If it ends before, the kernel kills all that it traces.
 *
 *     fd 3    the table, see resume.h
 *     fd 4    the shared file, with struct fill_state
 *     fd 5    SOCK_SEQPACKET to the coordinator; its end means that the coordinator has died
 */
#include "resume.h"

#include "fill.h"
#include "kernel_calls.h"
#include "tracing.h"

#define FD_TABLE 3
#define FD_SHARED 4
#define FD_COORDINATOR 5

#define NT_PRSTATUS 1
#define NT_PRFPREG 2
#define NT_X86_XSTATE 0x202
#define MOST_XSTATE 65536 /* bytes; the tiles of AMX alone take 8192 */

#define NAP_NS 500000 /* between two looks at the traced threads; the last thread that is filled ends a nap early */
#if defined(__x86_64__)
#define REGISTERS_SIZE 216 /* struct user_regs_struct */
#define AT_RESTART 15	   /* indices of 8 bytes: orig_rax, */
#define AT_INSTRUCTION 16  /* rip, */
#define AT_CALL 10	   /* rax */
#define AT_ANSWER 10
#define AT_FIRST 14 /* rdi, rsi */
#define AT_SECOND 13
#define CALL_INSTRUCTION 2 /* bytes */
#define LEGACY_CONTROL \
	28 /* of the FXSAVE area: control words and pointers; the mask of mxcsr behind them is the processor's */
#define LEGACY_STATE_AT 32
#define LEGACY_STATE 384 /* 8 registers of the x87, 16 of SSE */
#define LEGACY_SIZE 512
#else
#define REGISTERS_SIZE 272 /* struct user_pt_regs */
#define AT_RESTART 7	   /* no such register: x7 is as good as any */
#define AT_INSTRUCTION 32
#define AT_CALL 8
#define AT_ANSWER 0
#define AT_FIRST 0
#define AT_SECOND 1
#define CALL_INSTRUCTION 4
#define LEGACY_SIZE 528 /* struct user_fpsimd_state */
#endif

#define STOPPED(status) (((status) & 0xff) == 0x7f)
#define STOP_BY_TRAP (SIGTRAP << 8 | 0x7f) /* at the begin or end of a system call, too */
#define STOP_SIGNAL(status) ((status) >> 8 & 0xff)
#define STOP_EVENT(status) ((uint32_t)(status) >> 16)

_Noreturn void resume_main(void);
PROGRAM_START(resume_main);

static struct resume_head *table;
static struct resume_thread *threads;
static struct fill_state *state;
static long proceed = PTRACE_CONT; /* the request by which a thread goes on behind a stop that means nothing */
#if defined(__x86_64__)
static char xstate[MOST_XSTATE];
#endif

static void tell(enum resumed what, uint32_t thread, long answer)
{
	struct resume_message message = {what, thread, answer < 0 ? (int32_t)-answer : (int32_t)answer, 0};

	CALL6(sendto, FD_COORDINATOR, &message, sizeof(message), MSG_NOSIGNAL, 0, 0);
}

static _Noreturn void end(enum resumed what, uint32_t thread, long answer)
{
	tell(what, thread, answer);
	for (;;)
		CALL1(exit_group, what != RESUMED_ALL);
}

static long trace(long request, uint32_t thread, uint64_t address, uint64_t data)
{
	return CALL4(ptrace, request, threads[thread].tid, address, data);
}

static void must(enum resumed what, uint32_t thread, long answer)
{
	if (answer < 0)
		end(what, thread, answer);
}

static uint32_t find(long tid)
{
	for (uint32_t n = 0; n < table->threads; n++)
		if (threads[n].tid == tid)
			return n;
	return table->threads;
}

/* Return the first thread of a thread's process, which has the region. */
static uint32_t leader_of(uint32_t thread)
{
	while (thread && !threads[thread].region)
		thread--;
	return thread;
}

/*
 * Handle a stop or an end of a thread before its time. All signals are blocked but SIGKILL and SIGSTOP; a SIGSTOP from outside takes
 * effect when all is filled.
 */
static void heed(uint32_t thread, uint32_t status)
{
	int signal = (int)STOP_SIGNAL(status);

	if (thread == table->threads)
		return;
	if (!STOPPED(status))
		end(RESUMED_DIED, thread, (long)status);
	if (signal == SIGSEGV || signal == SIGBUS || signal == SIGILL || signal == SIGFPE || signal == SIGTRAP ||
	    signal == SIGSYS)
		if (!STOP_EVENT(status))
			end(RESUMED_DIED, thread, signal);
	if (signal == SIGSTOP && !STOP_EVENT(status))
		threads[leader_of(thread)].stop_signal = SIGSTOP;
	trace(proceed, thread, 0, 0);
}

static void look_at_all(void)
{
	uint32_t status;
	long tid;

	while ((tid = CALL4(wait4, -1, &status, WNOHANG | WALL, 0)) > 0)
		heed(find(tid), status);
}

/* Let the threads begin; the first word after the state is theirs to wait for. */
static void store_traced(void)
{
	uint32_t *traced = (uint32_t *)(state + 1);

	__atomic_store_n(traced, 1, __ATOMIC_RELEASE);
	futex_wake_all(traced);
}

/* Return 1 if a message has come. The end of the coordinator, or of its wish to go on, ends all. */
static int has_word(int flags)
{
	char word;
	long size = CALL6(recvfrom, FD_COORDINATOR, &word, sizeof(word), flags, 0, 0);

	if (size == -EAGAIN || size == -EINTR)
		return 0;
	if (size != sizeof(word))
		for (;;)
			CALL1(exit_group, 1);
	return 1;
}

/* Wait until the coordinator has written all, and all threads have done it. */
static void await_filled(void)
{
	struct timespec64 nap = {0, NAP_NS};
	uint32_t filled;
	int whole = 0;

	while ((filled = __atomic_load_n(&state->filled, __ATOMIC_ACQUIRE)) < table->threads || !whole) {
		if (__atomic_load_n(&state->failed, __ATOMIC_ACQUIRE))
			end(RESUMED_FILL_FAILED, state->actor, 0);
		look_at_all();
		whole |= has_word(MSG_DONTWAIT); /* always asked: a thread may wait for long, and the coordinator end */
		futex_wait(&state->filled, filled, &nap);
	}
}

/*
 * Wait until a thread is in a stop with this event or, if that is 0, by this signal; return the signal of the stop. All traced threads
 * are waited for at once: the kernel does not tell of the end of a process's first thread before its tracer has waited for the others.
 */
static uint32_t await_stop(uint32_t thread, uint32_t event, uint32_t signal)
{
	for (;;) {
		uint32_t status = threads[thread].status, who = thread;

		threads[thread].status = 0;
		if (!status) {
			long tid = CALL4(wait4, -1, &status, WALL, 0);

			if (tid == -EINTR)
				continue;
			must(RESUMED_WAIT_FAILED, thread, tid);
			who = find(tid);
		}
		if (who != table->threads && !STOPPED(status))
			end(RESUMED_DIED, who, (long)status);
		if (who == thread && STOP_EVENT(status) == event && (event || STOP_SIGNAL(status) == signal))
			return STOP_SIGNAL(status);
		if (who != thread && who != table->threads &&
		    (STOP_EVENT(status) == PTRACE_EVENT_STOP || status == STOP_BY_TRAP))
			threads[who].status = status; /* it is asked for later */
		else
			heed(who, status);
	}
}

#if defined(__x86_64__)
/* Return the offset of a component in the standard format of XSAVE, in *size its size; both are the processor's. */
static uint32_t component_offset(uint32_t index, uint32_t *size)
{
	uint32_t a = 0xd, b, c = index, d;

	__asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
	*size = a;
	return b;
}

/*
 * Change the parts that the image has of the floating point state; the rest keeps its initial value. A processor without XSAVE has
 * the FXSAVE area alone.
 */
static void set_floating_point(uint32_t thread)
{
	const struct resume_thread *one = &threads[thread];
	const char *at = (const char *)table + one->floating_offset;
	struct span area = {xstate, sizeof(xstate)};
	long kind = NT_X86_XSTATE;
	long answer = trace(PTRACE_GETREGSET, thread, kind, (uint64_t)(uintptr_t)&area);

	if (answer == -ENODEV) {
		kind = NT_PRFPREG;
		area.size = LEGACY_SIZE;
		answer = trace(PTRACE_GETREGSET, thread, kind, (uint64_t)(uintptr_t)&area);
	}
	must(RESUMED_FLOATING, thread, answer);
	memcpy(xstate, at, LEGACY_CONTROL);
	memcpy(xstate + LEGACY_STATE_AT, at + LEGACY_STATE_AT, LEGACY_STATE);
	if (kind == NT_X86_XSTATE)
		*(uint64_t *)(xstate + LEGACY_SIZE) = one->features;
	at += LEGACY_SIZE;
	for (uint32_t n = 0; n < one->components; n++) {
		const struct resume_component *component = (const struct resume_component *)at;
		uint32_t size, offset = component_offset(component->index, &size);

		if (kind != NT_X86_XSTATE || !size || size < component->size ||
		    (uint64_t)offset + component->size > area.size)
			end(RESUMED_COMPONENT, thread, component->index);
		memcpy(xstate + offset, component + 1, component->size);
		at += sizeof(*component) + component->size;
	}
	must(RESUMED_FLOATING, thread, trace(PTRACE_SETREGSET, thread, kind, (uint64_t)(uintptr_t)&area));
}
#else
static void set_floating_point(uint32_t thread)
{
	const struct resume_thread *one = &threads[thread];
	struct span area = {(char *)table + one->floating_offset, LEGACY_SIZE};

	must(RESUMED_FLOATING, thread, trace(PTRACE_SETREGSET, thread, NT_PRFPREG, (uint64_t)(uintptr_t)&area));
}
#endif

static void set_registers(uint32_t thread, void *registers)
{
	struct span area = {registers, REGISTERS_SIZE};

	must(RESUMED_REGISTERS, thread, trace(PTRACE_SETREGSET, thread, NT_PRSTATUS, (uint64_t)(uintptr_t)&area));
}

/*
 * Begin to have the first thread of a process unmap the region, with the system call instruction that it waits in. It stops at the
 * begin of that call, and at its end before the next instruction, which is gone. These stops are no signals: for a single step the
 * kernel would force SIGTRAP on a thread that blocks it, and with that take away the program's action for it (force_sig_info).
 */
static void begin_unmapping(uint32_t thread)
{
	struct resume_thread *one = &threads[thread];
	uint64_t registers[REGISTERS_SIZE / sizeof(uint64_t)];
	struct span area = {registers, sizeof(registers)};

	must(RESUMED_REGISTERS, thread, trace(PTRACE_GETREGSET, thread, NT_PRSTATUS, (uint64_t)(uintptr_t)&area));
	registers[AT_INSTRUCTION] -= CALL_INSTRUCTION;
	registers[AT_CALL] = __NR_munmap;
	registers[AT_FIRST] = one->region;
	registers[AT_SECOND] = one->region_size;
	registers[AT_RESTART] = ~(uint64_t)0;
	set_registers(thread, registers);
	must(RESUMED_REGISTERS, thread, trace(PTRACE_SYSCALL, thread, 0, 0));
}

static void go_on_unmapping(uint32_t thread)
{
	await_stop(thread, 0, SIGTRAP);
	must(RESUMED_REGISTERS, thread, trace(PTRACE_SYSCALL, thread, 0, 0));
}

static void end_unmapping(uint32_t thread)
{
	uint64_t registers[REGISTERS_SIZE / sizeof(uint64_t)];
	struct span area = {registers, sizeof(registers)};

	await_stop(thread, 0, SIGTRAP);
	must(RESUMED_REGISTERS, thread, trace(PTRACE_GETREGSET, thread, NT_PRSTATUS, (uint64_t)(uintptr_t)&area));
	if (registers[AT_ANSWER])
		end(RESUMED_REGION, thread, (long)registers[AT_ANSWER]);
}

/* Have all processes unmap their regions, at once. */
static void unmap_regions(void)
{
	void (*const steps[])(uint32_t) = {begin_unmapping, go_on_unmapping, end_unmapping};

	proceed = PTRACE_SYSCALL;
	for (int step = 0; step < 3; step++)
		for (uint32_t n = 0; n < table->threads; n++)
			if (threads[n].region)
				steps[step](n);
	proceed = PTRACE_CONT;
}

/*
 * Stop a process whose threads are all traced and stopped: no thread runs when it is let go. While all signals are blocked a thread
 * takes SIGSTOP alone, in place of which it gets the wanted signal. An orphaned group takes no other signal than SIGSTOP; the
 * stop that was asked for before then keeps the thread from running, and shows no signal of a group.
 */
static int stopped_by(uint32_t leader, uint32_t signal)
{
	uint64_t mask = ~(1ull << (signal - 1));

	must(RESUMED_MASK, leader, trace(PTRACE_SETSIGMASK, leader, sizeof(mask), (uint64_t)(uintptr_t)&mask));
	must(RESUMED_WAIT_FAILED, leader, CALL2(kill, threads[leader].tid, SIGSTOP));
	must(RESUMED_WAIT_FAILED, leader, trace(PTRACE_CONT, leader, 0, 0));
	await_stop(leader, 0, SIGSTOP);
	must(RESUMED_WAIT_FAILED, leader, trace(PTRACE_INTERRUPT, leader, 0, 0));
	must(RESUMED_WAIT_FAILED, leader, trace(PTRACE_CONT, leader, 0, signal));
	return await_stop(leader, PTRACE_EVENT_STOP, 0) == signal;
}

static void stop_group(uint32_t leader)
{
	if (!stopped_by(leader, threads[leader].stop_signal))
		stopped_by(leader, SIGSTOP);
}

static void open_table(void)
{
	struct resume_head head;

	if (CALL4(pread64, FD_TABLE, &head, sizeof(head), 0) != sizeof(head))
		end(RESUMED_SETUP, 0, -EINVAL);
	table = map(head.size, MAP_PRIVATE, FD_TABLE, 0);
	must(RESUMED_SETUP, 0, refusal(table));
	threads = (struct resume_thread *)(table + 1);
}

/* Take the table with the states of the threads, and keep what the threads were told meanwhile. */
static void open_whole_table(void)
{
	const struct resume_thread *before = threads;

	open_table();
	for (uint32_t n = 0; n < table->threads; n++)
		if (before[n].stop_signal)
			threads[n].stop_signal = before[n].stop_signal;
}

_Noreturn void resume_main(void)
{
	open_table();
	state = map(table->state_size, MAP_SHARED, FD_SHARED, table->state_offset);
	must(RESUMED_SETUP, 0, refusal(state));
	for (uint32_t n = 0; n < table->threads; n++)
		must(RESUMED_SEIZE, n, trace(PTRACE_SEIZE, n, 0, PTRACE_O_EXITKILL | table->options));
	store_traced();
	await_filled();
	open_whole_table();
	for (uint32_t n = 0; n < table->threads; n++)
		must(RESUMED_WAIT_FAILED, n, trace(PTRACE_INTERRUPT, n, 0, 0));
	for (uint32_t n = 0; n < table->threads; n++)
		await_stop(n, PTRACE_EVENT_STOP, 0);
	unmap_regions();
	for (uint32_t n = 0; n < table->threads; n++) {
		set_floating_point(n);
		set_registers(n, (char *)table + threads[n].registers_offset);
	}
	for (uint32_t n = 0; n < table->threads; n++)
		if (threads[n].stop_signal)
			stop_group(n);
	for (uint32_t n = 0; n < table->threads; n++)
		must(RESUMED_MASK, n,
		     trace(PTRACE_SETSIGMASK, n, sizeof(threads[n].mask), (uint64_t)(uintptr_t)&threads[n].mask));
	tell(RESUMED_READY, 0, 0);
	while (!has_word(0))
		;
	/* From here on nothing is left that can fail: a thread that is gone by now was killed from outside. */
	for (uint32_t n = 0; n < table->threads; n++)
		trace(PTRACE_DETACH, n, 0, 0);
	end(RESUMED_ALL, 0, 0);
}
