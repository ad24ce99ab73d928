/* Decisions of a throttle in this process, and how true it is to its rate.
 *   throttle_bench local [MILLIONS]   CPU ns a decision, by 1 and 2 threads on one key
 *   throttle_bench accuracy [SECONDS] real time: what two senders of one throttle send, and the fullest 100 ms */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "shaping/shaping.h"

static struct tr_throttle *
get(struct tr_shaping *shaping, const char *name, const char *text)
{
	struct tr_rate_spec spec;
	struct tr_throttle *throttle;
	const char *why;

	if (tr_rate_spec_parse(tr_str(text), &spec, &why) != TR_OK ||
		tr_throttle_get(shaping, tr_str(name), &spec, &throttle) != TR_OK)
		abort();
	return throttle;
}

/* --- decisions ------------------------------------------------------------------------------------ */

enum way { ALLOWED, REFUSED, RESERVED, BY_NAME };

struct decider {
	pthread_t thread;
	pthread_barrier_t *barrier;
	struct tr_shaping *shaping;
	struct tr_throttle *throttle;
	enum way way;
	uint64_t calls, taken;
	int64_t took_ns, cpu_ns;
};

/* Worked time of this thread: what neighbours on the machine take does not count. */
static int64_t
cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return now.tv_sec * TR_NS_PER_S + now.tv_nsec;
}

static void *
decide(void *arg)
{
	struct decider *decider = arg;
	struct tr_throttle_result result;
	int64_t start_ns, now_ns;

	pthread_barrier_wait(decider->barrier);
	start_ns = tr_mono_ns();
	decider->cpu_ns = cpu_ns();
	for (uint64_t i = 0; i < decider->calls; i++) {
		now_ns = tr_mono_ns(); /* a part of each decision: the caller has to read the clock */
		switch (decider->way) {
		case RESERVED:
			decider->taken += tr_throttle_reserve(decider->throttle, now_ns, TR_NS_PER_S) >= 0;
			break;
		case BY_NAME:
			tr_throttle_unref(get(decider->shaping, "by-name", "1,000,000,000/s"));
			/* fallthrough */
		default:
			decider->taken += tr_throttle_check(decider->throttle, now_ns, 1, &result);
		}
	}
	decider->cpu_ns = cpu_ns() - decider->cpu_ns;
	decider->took_ns = tr_mono_ns() - start_ns;
	return NULL;
}

static void
decisions(const char *what, enum way way, const char *spec, int threads, uint64_t calls)
{
	struct decider deciders[2] = {0};
	struct tr_shaping *shaping;
	pthread_barrier_t barrier;
	double worst_ns = 0, worked_ns = 0;
	uint64_t taken = 0;

	if (tr_shaping_new(&shaping) != TR_OK)
		abort();
	pthread_barrier_init(&barrier, NULL, (unsigned)threads);
	for (int i = 0; i < threads; i++) {
		deciders[i] = (struct decider){.barrier = &barrier,
			.shaping = shaping,
			.throttle = get(shaping, "key", spec),
			.way = way,
			.calls = calls};
		pthread_create(&deciders[i].thread, NULL, decide, &deciders[i]);
	}
	for (int i = 0; i < threads; i++) {
		pthread_join(deciders[i].thread, NULL);
		taken += deciders[i].taken;
		worked_ns += (double)deciders[i].cpu_ns;
		if ((double)deciders[i].took_ns > worst_ns)
			worst_ns = (double)deciders[i].took_ns;
		tr_throttle_unref(deciders[i].throttle);
	}
	printf("%-48s %7d %10.1f %12.1f %10.1f%%\n", what, threads, worked_ns / (double)calls / threads,
		(double)calls * threads / worst_ns * 1e3, 100.0 * (double)taken / (double)calls / threads);
	pthread_barrier_destroy(&barrier);
	tr_shaping_free(shaping);
}

static void
local(uint64_t calls)
{
	printf("%-48s %7s %10s %12s %11s\n", "decision, the reading of the clock included", "threads", "CPU ns",
		"million/s", "granted");
	for (int threads = 1; threads <= 2; threads++) {
		decisions("check, granted", ALLOWED, "1,000,000,000/s", threads, calls);
		decisions("check, mostly refused", REFUSED, "1000/s", threads, calls);
		decisions("reserve", RESERVED, "1,000,000,000/s", threads, calls);
		decisions("check, spec parsed and throttle found each time", BY_NAME, "1,000,000,000/s", threads,
			calls / 4);
	}
}

/* --- accuracy --------------------------------------------------------------------------------------- */

#define SENDERS 2

struct course {
	const char *spec;
	uint64_t rate;
	struct tr_throttle *throttle;
	int64_t start_ns, end_ns;
	int64_t *at_ns; /* when each was sent; room for `cap` */
	uint64_t cap;
	_Atomic uint64_t sent;
	pthread_t thread[SENDERS];
};

static void
sleep_until(int64_t at_ns)
{
	struct timespec at = {.tv_sec = at_ns / TR_NS_PER_S, .tv_nsec = at_ns % TR_NS_PER_S};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) != 0) {
	}
}

static void *
send_all(void *arg)
{
	struct course *course = arg;

	for (;;) {
		int64_t now_ns = tr_mono_ns(), wait_ns = tr_throttle_reserve(course->throttle, now_ns, INT64_MAX);
		uint64_t number;

		if (wait_ns > 0)
			sleep_until(now_ns + wait_ns);
		now_ns = tr_mono_ns();
		if (now_ns >= course->end_ns)
			return NULL;
		number = atomic_fetch_add(&course->sent, 1);
		if (number < course->cap)
			course->at_ns[number] = now_ns;
	}
}

static int
by_time(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

static void
accuracy(int seconds)
{
	static struct course courses[] = {
		{.spec = "20/s", .rate = 20},
		{.spec = "1000/s", .rate = 1000},
		{.spec = "1000/s,max_burst=1", .rate = 1000},
		{.spec = "5000/s,max_burst=10", .rate = 5000},
		{.spec = "20,000/s,max_burst=20", .rate = 20000},
	};
	struct tr_shaping *shaping;
	int64_t start_ns;

	if (tr_shaping_new(&shaping) != TR_OK)
		abort();
	for (size_t i = 0; i < TR_COUNT(courses); i++) {
		courses[i].throttle = get(shaping, courses[i].spec, courses[i].spec);
		courses[i].cap = courses[i].rate * (uint64_t)seconds * 2 + 100;
		courses[i].at_ns = calloc(courses[i].cap, sizeof *courses[i].at_ns);
		if (courses[i].at_ns == NULL)
			abort();
	}
	start_ns = tr_mono_ns();
	for (size_t i = 0; i < TR_COUNT(courses); i++) {
		courses[i].start_ns = start_ns;
		courses[i].end_ns = start_ns + seconds * TR_NS_PER_S;
		/* steady state: the full bucket of the beginning is spent */
		while (tr_throttle_reserve(courses[i].throttle, start_ns, 0) >= 0) {
		}
		for (int k = 0; k < SENDERS; k++)
			pthread_create(&courses[i].thread[k], NULL, send_all, &courses[i]);
	}
	printf("%-26s %10s %10s %9s %18s %18s\n", "throttle, 2 senders", "expected", "sent", "off by", "fullest 100 ms",
		"its share + burst");
	for (size_t i = 0; i < TR_COUNT(courses); i++) {
		struct course *course = &courses[i];
		uint64_t expected = course->rate * (uint64_t)seconds, most = 0, from = 0, sent;

		for (int k = 0; k < SENDERS; k++)
			pthread_join(course->thread[k], NULL);
		sent = course->sent < course->cap ? course->sent : course->cap;
		qsort(course->at_ns, sent, sizeof *course->at_ns, by_time);
		for (uint64_t to = 0; to < sent; to++) {
			while (course->at_ns[to] - course->at_ns[from] >= 100 * TR_NS_PER_MS)
				from++;
			if (to - from + 1 > most)
				most = to - from + 1;
		}
		printf("%-26s %10llu %10llu %8.2f%% %18llu %18llu\n", course->spec, (unsigned long long)expected,
			(unsigned long long)course->sent,
			100.0 * ((double)course->sent - (double)expected) / (double)expected, (unsigned long long)most,
			(unsigned long long)(course->rate / 10 + tr_throttle_spec(course->throttle)->burst));
		tr_throttle_unref(course->throttle);
		free(course->at_ns);
	}
	tr_shaping_free(shaping);
}

int
main(int argc, char **argv)
{
	long number = argc > 2 ? atol(argv[2]) : 0;

	if (argc > 1 && strcmp(argv[1], "local") == 0) {
		local((uint64_t)(number > 0 ? number : 20) * 1000000);
	} else if (argc > 1 && strcmp(argv[1], "accuracy") == 0) {
		accuracy(number > 0 ? (int)number : 10);
	} else {
		fputs("throttle_bench local [MILLIONS] | accuracy [SECONDS]\n", stderr);
		return 64;
	}
	return 0;
}
