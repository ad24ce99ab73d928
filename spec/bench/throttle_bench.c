/* Decisions of a throttle in this process, and how true it is to its rate.
 *   throttle_bench local [MILLIONS]   CPU ns a decision, by 1 and 2 threads on one key
 *   throttle_bench accuracy [SECONDS] real time: what two senders of one throttle send, and the fullest 100 ms
 *   throttle_bench redis URL [THOUSANDS] decisions a second through Redis, beside a plain hiredis loop that keeps as
 *                                     many questions under way */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <hiredis/hiredis.h>

#include "base/clock.h"
#include "transport/redis_shaping.h"

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
	int64_t due_ns = course->start_ns, now_ns = due_ns;

	for (;;) {
		/* as of when it was due, as sessions do: what a sender oversleeps is not lost to the rate */
		int64_t from_ns = tr_max_i64(due_ns, now_ns - 20 * TR_NS_PER_MS);
		uint64_t number;

		due_ns = from_ns + tr_throttle_reserve(course->throttle, from_ns, INT64_MAX);
		sleep_until(due_ns);
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

/* --- through Redis ------------------------------------------------------------------------------------- */

static int64_t
process_cpu_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return now.tv_sec * TR_NS_PER_S + now.tv_nsec;
}

/* The floor: the same script by the blocking API, `depth` questions under way. */
static double
plain(const struct tr_redis_settings *to, const struct tr_rate_spec *spec, int depth, uint64_t calls, double *cpu_us)
{
	struct redisContext *context = to->path != NULL ? redisConnectUnix(to->path) : redisConnect(to->host, to->port);
	struct redisReply *reply;
	uint64_t asked = 0, answered = 0;
	char interval[40], sha[64];
	int64_t start_ns, cpu_start_ns;

	if (context == NULL || context->err != 0) {
		fprintf(stderr, "no connection to Redis\n");
		exit(1);
	}
	reply = redisCommand(context, "SCRIPT LOAD %s", tr_redis_throttle_script);
	snprintf(sha, sizeof sha, "%s", reply->str);
	freeReplyObject(reply);
	snprintf(interval, sizeof interval, "%.17g", tr_rate_interval_us(spec));
	start_ns = tr_mono_ns();
	cpu_start_ns = process_cpu_ns();
	while (answered < calls) {
		while (asked < calls && asked - answered < (uint64_t)depth) {
			redisAppendCommand(context, "EVALSHA %s 1 plain:1:1:1 %s %llu 1", sha, interval,
				(unsigned long long)spec->burst);
			asked++;
		}
		/* those that have come, without a wait for each */
		for (uint64_t due = asked - answered > 1 ? (asked - answered) / 2 : 1; due > 0; due--, answered++) {
			if (redisGetReply(context, (void **)&reply) != REDIS_OK) {
				fprintf(stderr, "%s\n", context->errstr);
				exit(1);
			}
			freeReplyObject(reply);
		}
	}
	*cpu_us = (double)(process_cpu_ns() - cpu_start_ns) / 1e3 / (double)calls;
	start_ns = tr_mono_ns() - start_ns;
	redisFree(context);
	return (double)calls / (double)start_ns * 1e9;
}

struct asker {
	struct tr_shared_op op;
	struct asking *all;
};

struct asking {
	const struct tr_shaping_backend *backend;
	struct tr_loop *loop;
	uint64_t left, under_way, failed;
};

static void
asked(struct tr_shared_op *op)
{
	struct asker *asker = tr_container_of(op, struct asker, op);
	struct asking *all = asker->all;

	all->under_way--;
	all->failed += op->err != TR_OK;
	if (all->left == 0)
		return;
	all->left--;
	all->under_way++;
	if (all->backend->start(all->backend->arg, all->loop, op) != TR_OK)
		abort();
}

static bool
all_answered(void *arg)
{
	return ((struct asking *)arg)->under_way == 0;
}

static double
ours(struct tr_redis_shaping *shaping, struct tr_loop *loop, const struct tr_rate_spec *spec, int depth, uint64_t calls,
	double *cpu_us)
{
	struct asker *askers = calloc((size_t)depth, sizeof *askers);
	struct asking all = {.backend = tr_redis_shaping_backend(shaping), .loop = loop, .left = calls};
	int64_t start_ns = tr_mono_ns(), cpu_start_ns = process_cpu_ns();

	for (int i = 0; i < depth && all.left > 0; i++) {
		askers[i].op = (struct tr_shared_op){.kind = TR_SHARED_THROTTLE,
			.key = TR_STR("ours:1:1:1"),
			.spec = spec,
			.quantity = 1,
			.then = asked};
		askers[i].all = &all;
		all.left--;
		all.under_way++;
		if (all.backend->start(all.backend->arg, loop, &askers[i].op) != TR_OK)
			abort();
	}
	if (!tr_loop_run_until(loop, all_answered, &all, 300 * TR_NS_PER_S) || all.failed > 0) {
		fprintf(stderr, "%llu decisions failed\n", (unsigned long long)all.failed);
		exit(1);
	}
	start_ns = tr_mono_ns() - start_ns;
	*cpu_us = (double)(process_cpu_ns() - cpu_start_ns) / 1e3 / (double)calls;
	free(askers);
	return (double)calls / (double)start_ns * 1e9;
}

static void
through_redis(const char *url, uint64_t calls)
{
	static const int depths[] = {1, 10, 100, 1000};
	struct tr_redis_settings settings;
	struct tr_rate_spec spec;
	struct tr_redis_shaping *shaping;
	struct tr_loop *loop;
	const char *why;

	tr_rate_spec_parse(TR_STR("1,000,000/s"), &spec, &why);
	if (tr_redis_parse_url(tr_str(url), &settings, &why) != TR_OK || tr_loop_new(&loop) != TR_OK) {
		fprintf(stderr, "%s: %s\n", url, why);
		exit(1);
	}
	settings.connect_timeout_ns = settings.wait_timeout_ns = settings.response_timeout_ns = 30 * TR_NS_PER_S;
	tr_loop_enter(loop);
	if (tr_redis_shaping_new(&settings, false, &shaping) != TR_OK)
		abort();
	printf("%-12s %16s %16s %8s %16s %16s\n", "under way", "plain, 1/s", "ours, 1/s", "ratio", "plain, CPU us",
		"ours, CPU us");
	for (size_t i = 0; i < TR_COUNT(depths); i++) {
		uint64_t count = depths[i] == 1 ? calls / 10 : calls;
		double plain_us, ours_us;
		double plain_rate = plain(&settings, &spec, depths[i], count, &plain_us);
		double ours_rate = ours(shaping, loop, &spec, depths[i], count, &ours_us);

		printf("%-12d %16.0f %16.0f %8.2f %16.2f %16.2f\n", depths[i], plain_rate, ours_rate,
			ours_rate / plain_rate, plain_us, ours_us);
	}
	tr_redis_shaping_free(shaping);
	tr_loop_turn(loop);
	tr_loop_free(loop);
	tr_redis_free_settings(&settings);
}

int
main(int argc, char **argv)
{
	long number = argc > 2 ? atol(argv[2]) : 0;

	if (argc > 1 && strcmp(argv[1], "local") == 0) {
		local((uint64_t)(number > 0 ? number : 20) * 1000000);
	} else if (argc > 1 && strcmp(argv[1], "accuracy") == 0) {
		accuracy(number > 0 ? (int)number : 10);
	} else if (argc > 2 && strcmp(argv[1], "redis") == 0) {
		through_redis(argv[2], (uint64_t)(argc > 3 ? atol(argv[3]) : 200) * 1000);
	} else {
		fputs("throttle_bench local [MILLIONS] | accuracy [SECONDS] | redis URL [THOUSANDS]\n", stderr);
		return 64;
	}
	return 0;
}
