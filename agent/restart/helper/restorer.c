/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The restorer: the code that a task runs while it exchanges its whole memory. It is a program of its own, linked as one flat block
 * that runs at any address (restorer.ld), and has neither writable data nor pointers in constant data.
 */
#include "fill.h"
#include "kernel_calls.h"
#include "pages.h"
#include "ring.h"

#define MOST_TIMERS 1000000 /* timers that are made and deleted on the way to one: a second's work */
#define MOST_TERMINALS 1024
#define TIOCGPTN 0x80045430
#define EPOLL_CTL_ADD 1
#define EPOLL_CTL_MOD 3
#define ALL_EVENTS 0x2007 /* EPOLLIN, EPOLLPRI, EPOLLOUT, EPOLLRDHUP */

_Noreturn void restorer(const struct fill_start *start) __attribute__((section(".entry")));

static uint32_t *word_at(struct fill_state *state, uint64_t index)
{
	return (uint32_t *)(state + 1) + index;
}

static _Noreturn void rest(void)
{
	for (;;)
		CALL4(ppoll, 0, 0, 0, 0);
}

/* Report the first failure; the coordinator then takes the tree down. */
static _Noreturn void fail_at(const struct fill_start *start, struct fill_state *state, uint32_t operation,
			      int32_t error)
{
	uint32_t nobody = 0;

	if (__atomic_compare_exchange_n(&state->failing, &nobody, 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
		state->actor = start->actor;
		state->operation = operation;
		state->error = error;
		__atomic_store_n(&state->failed, 1, __ATOMIC_RELEASE);
		futex_wake_all(&state->filled);
	}
	rest();
}

static long wait_for(uint32_t *word, uint32_t wanted)
{
	uint32_t value;

	while ((value = __atomic_load_n(word, __ATOMIC_ACQUIRE)) < wanted)
		futex_wait(word, value, NULL);
	return 0;
}

static long post(uint32_t *word, uint64_t least)
{
	if (__atomic_add_fetch(word, 1, __ATOMIC_ACQ_REL) >= least)
		futex_wake_all(word);
	return 0;
}

/* The task of a helper process. */
struct aside {
	struct fill_state *state;
	uint64_t with[4]; /* of the operation */
};

static void read_aside(void *argument)
{
	const struct aside *one = argument;
	const uint64_t *with = one->with;
	long answer = read_all(one->state, (int)with[0], (struct span *)with[1], with[2], with[3]);

	for (;;)
		CALL1(exit, -answer);
}

/* Have a process that shares this memory read; where none can be made, read here. */
static long begin_aside(struct fill_state *state, const uint64_t *with)
{
	char *stack = (char *)__builtin_frame_address(0) - (with[4] + 1) * FILL_ASIDE_STACK;
	struct aside *one = (struct aside *)(((uintptr_t)stack + FILL_ASIDE_STACK - sizeof(*one)) & ~(uintptr_t)15);
	struct clone_args args = {0};
	long pid;

	one->state = state;
	for (int n = 0; n < 4; n++)
		one->with[n] = with[n];
	args.flags = CLONE_VM | CLONE_FILES | CLONE_FS;
	args.stack = (uintptr_t)stack;
	args.stack_size = (uint64_t)((char *)one - stack);
	pid = clone3_call(&args, read_aside, one);
	if (pid >= 0)
		return pid;
	return read_all(state, (int)with[0], (struct span *)with[1], with[2], with[3]);
}

static long join(long pid)
{
	uint32_t status = 0;
	long answer;

	if (!pid)
		return 0;
	while ((answer = CALL4(wait4, pid, &status, WALL, 0)) == -EINTR)
		;
	if (answer < 0)
		return answer;
	return status & STATUS_SIGNAL ? -ECHILD : -(long)(status >> STATUS_CODE_SHIFT & STATUS_CODE);
}

/*
 * Since Linux 6.15 a restorer may choose the number of a timer. Kernels before number a process's timers upwards, so all below the
 * wanted number are made and deleted.
 */
static long create_timer(uint64_t clock, uint64_t event, int32_t wanted)
{
	int32_t number = wanted;
	long answer;

	if (!CALL5(prctl, PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0)) {
		answer = CALL3(timer_create, clock, event, &number);
		CALL5(prctl, PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0);
		return answer;
	}
	if (wanted > MOST_TIMERS)
		return -ERANGE;
	number = -1;
	for (answer = 0; !answer && number < wanted;) {
		answer = CALL3(timer_create, clock, event, &number);
		if (!answer && number != wanted)
			CALL1(timer_delete, number);
	}
	return answer ? answer : number == wanted ? 0 : -EEXIST;
}

/* The kernel gives the lowest number that is free, so all below the wanted number are taken for a moment. */
static long open_terminal(uint64_t path, uint64_t flags, uint32_t wanted)
{
	int others[MOST_TERMINALS];
	uint32_t count = 0, number;
	long file, answer;

	while ((file = CALL4(openat, AT_FDCWD, path, flags, 0)) >= 0) {
		answer = CALL3(ioctl, file, TIOCGPTN, &number);
		if (!answer && number == wanted)
			break;
		if (answer || number > wanted || count == MOST_TERMINALS) {
			CALL1(close, file);
			file = answer ? answer : -EBUSY;
			break;
		}
		others[count++] = (int)file;
	}
	while (count)
		CALL1(close, others[--count]);
	return file;
}

struct event { /* struct epoll_event of linux/eventpoll.h */
	uint32_t events;
	uint64_t data;
} __attribute__((packed));

/*
 * Add a target of EPOLLONESHOT that has reported, and that its program has not asked for again. epoll_ctl() takes none such: it adds the
 * ends of files to what each target waits for. So the target is asked for all, and what it reports goes to nobody. One that is not
 * ready is left with those ends.
 */
static long add_spent(uint64_t poll, uint64_t target, const struct event *spent)
{
	struct event event = *spent, reported;
	long answer;

	event.events |= ALL_EVENTS;
	answer = CALL4(epoll_ctl, poll, EPOLL_CTL_ADD, target, &event);
	if (!answer)
		answer = CALL6(epoll_pwait, poll, &reported, 1, 0, 0, 0);
	if (answer)
		return answer < 0 ? answer : 0;
	return CALL4(epoll_ctl, poll, EPOLL_CTL_MOD, target, spent);
}

static long take(struct fill_state *state, const struct fill_operation *operation, const uint64_t *with)
{
	switch (operation->call) {
	case FILL_WAIT:
		return wait_for(word_at(state, with[0]), (uint32_t)with[1]);
	case FILL_POST:
		return post(word_at(state, with[0]), operation->wanted);
	case FILL_READ:
		return read_all(state, (int)with[0], (struct span *)with[1], with[2], with[3]);
	case FILL_ASIDE:
		return begin_aside(state, with);
	case FILL_JOIN:
		return join((long)with[0]);
	case FILL_MERGE:
		return merge_all(state, (int)with[0], (struct span *)with[1], with[2], with[3]);
	case FILL_STORE:
		*(uint32_t *)with[0] = (uint32_t)with[1];
		return 0;
	case FILL_LOAD:
		return *(int32_t *)with[0];
	case FILL_ADDRESS:
		*(uint64_t *)with[0] = with[1];
		return 0;
	case FILL_TIMER:
		return create_timer(with[0], with[1], (int32_t)with[2]);
	case FILL_TERMINAL:
		return open_terminal(with[0], with[1], (uint32_t)with[2]);
	case FILL_RING:
		return make_ring(with[0], (struct ring *)with[1], with[2], (uint32_t)with[3]);
	case FILL_SPENT:
		return add_spent(with[0], with[1], (const struct event *)with[2]);
	default:
		return call6((long)operation->call, (long)with[0], (long)with[1], (long)with[2], (long)with[3],
			     (long)with[4], (long)with[5]);
	}
}

/*
 * Map the next part of the program, once the coordinator has written it, in the first thread of the process; return where it begins.
 */
static long begin_part(struct fill_state *state, const uint64_t *with)
{
	const struct fill_part *part = (const struct fill_part *)word_at(state, with[0]);
	long at;

	wait_for(word_at(state, with[0]), 1);
	if ((int32_t)with[1] < 0)
		return (long)part->address;
	at = CALL6(mmap, part->address, part->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED_NOREPLACE, with[1],
		   part->offset);
	if (at < 0 && at >= -ERRORS)
		return at;
	return at == (long)part->address ? at : -EEXIST;
}

/* Take the operations of a part; return the start in the next one, or NULL behind the last. */
static const struct fill_start *run(const struct fill_start *start)
{
	struct fill_state *state = (struct fill_state *)start->state;
	const struct fill_operation *operations = (const struct fill_operation *)start->operations;
	int64_t *slots = (int64_t *)start->slots;

	for (uint32_t at = 0; at < start->count; at++) {
		const struct fill_operation *operation = &operations[at];
		uint64_t with[FILL_ARGUMENTS];
		long answer;

		for (int n = 0; n < FILL_ARGUMENTS; n++)
			with[n] = operation->from_slots >> n & 1  ? (uint64_t)slots[operation->arguments[n]]
				  : operation->from_data >> n & 1 ? start->data + operation->arguments[n]
								  : operation->arguments[n];
		answer = operation->call == FILL_PART ? begin_part(state, with) : take(state, operation, with);
		if (operation->demand != FILL_ANY && answer < 0 && answer >= -ERRORS)
			fail_at(start, state, start->first + at, (int32_t)-answer);
		if (operation->call == FILL_PART)
			return (const struct fill_start *)answer + with[2];
		if (operation->demand == FILL_EXACT && (uint64_t)answer != operation->wanted)
			fail_at(start, state, start->first + at, 0);
		if (operation->keep != FILL_NO_SLOT)
			slots[operation->keep] = answer;
	}
	return NULL;
}

_Noreturn void restorer(const struct fill_start *start)
{
	struct fill_state *state = (struct fill_state *)start->state;

	while ((start = run(start)))
		;
	__atomic_add_fetch(&state->filled, 1, __ATOMIC_ACQ_REL);
	futex_wake_all(&state->filled);
	rest();
}
