/* SPDX-License-Identifier: Apache-2.0 */
/* Signals, interrupted calls, timers. */
#include "statekeeper.h"

/* signals: pending ones of the process and of each thread, in their order and with what came with them. */
static sigset_t queued;

static void take_pending(const char *who)
{
	struct timespec none = {0, 0};
	siginfo_t info;
	int number;

	while ((number = sigtimedwait(&queued, &info, &none)) > 0)
		tell("%s signal %d code %d value %d errno %d own %d", who, number, info.si_code,
		     info.si_value.sival_int, info.si_errno, info.si_pid == getpid());
}

static void *with_pending(void *unused)
{
	union sigval value;

	(void)unused;
	for (value.sival_int = 200; value.sival_int < 203; value.sival_int++)
		pthread_sigqueue(pthread_self(), SIGRTMIN + 4, value);
	pthread_kill(pthread_self(), SIGTERM);
	pthread_barrier_wait(&ready);
	await("go");
	pthread_barrier_wait(&told);
	take_pending("thread");
	pthread_barrier_wait(&told);
	return NULL;
}

static void pending_facts(void)
{
	sigset_t set;

	sigpending(&set);
	tell("pending %lx", *(unsigned long *)&set);
}

static void pending_taken(void)
{
	pending_facts();
	pthread_barrier_wait(&told);
	pthread_barrier_wait(&told);
	take_pending("process");
}

void signals(void)
{
	union sigval value;
	pthread_t thread;

	sigfillset(&queued);
	pthread_sigmask(SIG_SETMASK, &queued, NULL);
	pthread_barrier_init(&ready, NULL, 2);
	pthread_barrier_init(&told, NULL, 2);
	pthread_create(&thread, NULL, with_pending, NULL);
	pthread_barrier_wait(&ready);
	for (value.sival_int = 100; value.sival_int < 104; value.sival_int++)
		sigqueue(getpid(), SIGRTMIN + 2, value);
	sigqueue(getpid(), SIGHUP, value);
	kill(getpid(), SIGCHLD);
	tell_to("before", pending_facts);
	make("ready");
	await("go");
	tell_to("after", pending_taken);
	pthread_sigmask(SIG_UNBLOCK, &queued, NULL);
}

/* handler: within a handler on an alternate stack; the handler returns after the dump, to where it was. */
static volatile int in_handler, left_handler;
static stack_t handler_stack;

static void on_stack(int number, siginfo_t *info, void *context)
{
	stack_t stack;

	(void)info;
	in_handler = number;
	make("ready");
	await("go");
	sigaltstack(NULL, &stack);
	tell("in handler: flags %d, same stack %d", stack.ss_flags, stack.ss_sp == handler_stack.ss_sp);
	tell("uses it %d", (char *)&stack > (char *)handler_stack.ss_sp &&
				   (char *)&stack < (char *)handler_stack.ss_sp + handler_stack.ss_size);
	tell("context %d", ((ucontext_t *)context)->uc_stack.ss_sp == handler_stack.ss_sp);
	left_handler = 1;
}

static void handler_facts(void)
{
	struct sigaction action = {.sa_sigaction = on_stack, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	stack_t stack;
	sigset_t set;

	sigaction(SIGUSR1, &action, NULL);
	raise(SIGUSR1);
	sigaltstack(NULL, &stack);
	tell("left %d, flags %d, same stack %d", left_handler, stack.ss_flags, stack.ss_sp == handler_stack.ss_sp);
	pthread_sigmask(SIG_SETMASK, NULL, &set);
	tell("mask %lx", *(unsigned long *)&set);
}

static void in_a_handler(int flags)
{
	handler_stack = (stack_t){.ss_sp = malloc(STACK), .ss_size = STACK, .ss_flags = flags};
	must(sigaltstack(&handler_stack, NULL), "sigaltstack");
	tell_to("after", handler_facts);
}

void within_handler(void)
{
	in_a_handler(0);
}

void within_disarming_handler(void)
{
	in_a_handler((int)(1u << 31));
}

/* calls: each thread waits in a call that the dump interrupts, and tells its answer. */
#define CALLS 10
#define WAIT_S 4
static char said[CALLS][128];
static int pipe_ends[2];
static uint32_t word;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t condition = PTHREAD_COND_INITIALIZER;

static void *in_a_call(void *index)
{
	struct timespec span = {WAIT_S, 0}, left, until;
	struct timeval wait = {WAIT_S, 0};
	struct pollfd none = {-1, 0, 0};
	struct epoll_event event;
	long me = (long)index, answer = -1;
	char byte = 0;
	const char *name = "";
	sigset_t set;

	pthread_barrier_wait(&ready);
	errno = 0;
	switch (me) {
	case 0:
		name = "nanosleep";
		answer = syscall(SYS_nanosleep, &span, &left);
		break;
	case 1:
		name = "nanosleep without rest";
		answer = syscall(SYS_nanosleep, &span, NULL);
		break;
	case 2:
		name = "poll";
		answer = syscall(SYS_poll, &none, 1, WAIT_S * 1000);
		break;
	case 3:
		name = "ppoll";
		answer = syscall(SYS_ppoll, &none, 1, &span, NULL, 8);
		break;
	case 4:
		name = "futex";
		answer = syscall(SYS_futex, &word, FUTEX_WAIT, 0, &span);
		break;
	case 5:
		name = "pthread_cond_timedwait";
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += WAIT_S;
		pthread_mutex_lock(&mutex);
		answer = pthread_cond_timedwait(&condition, &mutex, &until);
		pthread_mutex_unlock(&mutex);
		break;
	case 6:
		name = "read";
		answer = read(pipe_ends[0], &byte, 1) * 1000 + byte;
		break;
	case 7:
		name = "epoll_wait";
		answer = epoll_wait(epoll_create1(0), &event, 1, WAIT_S * 1000);
		break;
	case 8:
		name = "select";
		answer = select(0, NULL, NULL, NULL, &wait);
		break;
	default:
		name = "sigtimedwait";
		sigemptyset(&set);
		sigaddset(&set, SIGRTMIN + 9);
		answer = sigtimedwait(&set, NULL, &span);
	}
	snprintf(said[me], sizeof(said[me]), "%s: %ld, %s", name, answer, strerror(errno));
	pthread_barrier_wait(&told);
	return NULL;
}

static void call_facts(void)
{
	for (int n = 0; n < CALLS; n++)
		tell("%s", said[n]);
}

void calls(void)
{
	pthread_t thread;

	must(pipe(pipe_ends), "pipe");
	pthread_barrier_init(&ready, NULL, CALLS + 1);
	pthread_barrier_init(&told, NULL, CALLS + 1);
	for (long n = 0; n < CALLS; n++)
		pthread_create(&thread, NULL, in_a_call, (void *)n);
	pthread_barrier_wait(&ready);
	usleep(200000);
	make("ready");
	await("go");
	must(write(pipe_ends[1], "!", 1), "write");
	pthread_barrier_wait(&told);
	tell_to("after", call_facts);
}

/* sleeping: the first thread, alone, in a call that the dump interrupts. */
static void sleeping_facts(void)
{
	struct timespec span = {WAIT_S, 0}, left = {0, 0};
	long answer;

	make("ready");
	errno = 0;
	answer = nanosleep(&span, &left);
	tell("nanosleep: %ld, %s", answer, strerror(errno));
}

void sleeping(void)
{
	tell_to("after", sleeping_facts);
}

/* timers: interval timers, and POSIX timers with holes in their numbers, one for a thread; some off, with an interval. */
static timer_t timers_of[7];
static volatile int fired[65];
static volatile pid_t fired_in;

static void on_timer(int number, siginfo_t *info, void *context)
{
	(void)info;
	(void)context;
	fired[number]++;
	if (number == SIGUSR2)
		fired_in = (pid_t)syscall(SYS_gettid);
}

static pid_t thread_with_timer;

static void *timed(void *unused)
{
	(void)unused;
	thread_with_timer = (pid_t)syscall(SYS_gettid);
	pthread_barrier_wait(&ready);
	for (;;)
		pause();
	return NULL;
}

static void timer_facts(void)
{
	struct itimerspec spec;
	struct itimerval value;

	for (int n = 0; n < 7; n++) {
		int error = timer_gettime(timers_of[n], &spec) ? errno : 0;

		tell("timer %d error %d interval %ld.%09ld soon %d", (int)(intptr_t)timers_of[n], error,
		     error ? 0 : spec.it_interval.tv_sec, error ? 0 : spec.it_interval.tv_nsec,
		     error ? 0 : spec.it_value.tv_sec < 1000);
		if (n == 6)
			tell("timer of a processor's clock is on %d", spec.it_value.tv_sec || spec.it_value.tv_nsec);
	}
	for (int which = ITIMER_REAL; which <= ITIMER_PROF; which++) {
		getitimer(which, &value);
		tell("itimer %d interval %ld.%06ld on %d", which, value.it_interval.tv_sec, value.it_interval.tv_usec,
		     which != ITIMER_REAL && timerisset(&value.it_value));
	}
	memset((void *)fired, 0, sizeof(fired));
	fired_in = 0;
	for (int n = 0; n < 300 && !(fired[SIGUSR1] && fired[SIGUSR2] && fired[SIGALRM] && fired[SIGVTALRM]); n++)
		for (volatile long spin = 0; spin < 10000000; spin++)
			;
	tell("fired %d %d %d %d in the thread %d", fired[SIGUSR1] > 0, fired[SIGUSR2] > 0, fired[SIGALRM] > 0,
	     fired[SIGVTALRM] > 0, fired_in == thread_with_timer);
}

void timers(void)
{
	struct sigaction action = {.sa_sigaction = on_timer, .sa_flags = SA_SIGINFO | SA_RESTART};
	struct itimerspec fast = {{0, 20000000}, {0, 20000000}}, slow = {{5000, 0}, {7000, 0}};
	struct itimerspec off = {{0, 20000000}, {0, 0}};
	struct itimerval real = {{0, 30000}, {0, 30000}}, virtual = {{0, 40000}, {0, 40000}};
	struct itimerval disarmed = {{0, 50000}, {0, 0}}; /* its signal would kill: there is no handler */
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
	pthread_t thread;

	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	sigaction(SIGALRM, &action, NULL);
	sigaction(SIGVTALRM, &action, NULL);
	pthread_barrier_init(&ready, NULL, 2);
	pthread_create(&thread, NULL, timed, NULL);
	pthread_barrier_wait(&ready);
	timer_create(CLOCK_MONOTONIC, &event, &timers_of[0]);
	for (int n = 0; n < 40; n++) {
		timer_create(CLOCK_MONOTONIC, &event, &timers_of[1]);
		timer_delete(timers_of[1]);
	}
	timer_create(CLOCK_REALTIME, &event, &timers_of[1]);
	event.sigev_notify = SIGEV_NONE;
	timer_create(CLOCK_BOOTTIME, &event, &timers_of[2]);
	event.sigev_notify = SIGEV_THREAD_ID;
	event.sigev_signo = SIGUSR2;
	event._sigev_un._tid = thread_with_timer;
	timer_create(CLOCK_MONOTONIC, &event, &timers_of[3]);
	event.sigev_notify = SIGEV_SIGNAL;
	timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timers_of[4]);
	timer_create(CLOCK_MONOTONIC, &event, &timers_of[5]);
	event.sigev_signo = SIGPROF;
	timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timers_of[6]);
	timer_settime(timers_of[1], 0, &fast, NULL);
	timer_settime(timers_of[2], 0, &slow, NULL);
	timer_settime(timers_of[3], 0, &fast, NULL);
	timer_settime(timers_of[4], 0, &slow, NULL);
	setitimer(ITIMER_REAL, &real, NULL);
	setitimer(ITIMER_VIRTUAL, &virtual, NULL);
	setitimer(ITIMER_PROF, &disarmed, NULL);
	timer_settime(timers_of[6], 0, &off, NULL);
	before_and_after(timer_facts);
}
