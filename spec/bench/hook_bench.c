/* Log records through the whole runtime: events made in this process, a hook's queue, an HTTP endpoint.
 *
 *   hook_bench run   --policy FILE --count N   events at full speed, never more than --window records waiting
 *   hook_bench run   --slices ...              the events again for each byte of standard input: two builds in turn
 *   hook_bench fill  --policy FILE --count N   a backlog: events until all are stored, then an orderly stop
 *   hook_bench drain --policy FILE             recovers the backlog, tells, and ends when it is delivered
 *   hook_bench dump  --count N [--array]       the same records as lines, or as one JSON array, on standard output
 *
 * The result is one line of key=value on standard output; spec/bench/run.sh makes tables of them. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "cli/args.h"
#include "cli/server.h"
#include "measure.h"
#include "policy/policy.h"

enum {
	IN_FLIGHT = 16384,  /* changes of one worker at the commit thread */
	EMITS_A_TURN = 512, /* events made before the loop looks at its sockets again */
	MAX_WORKERS = 64,
};
#define LOOK_NS TR_NS_PER_MS           /* how often a full window is looked at: less often would bound the rate */
#define STOP_NS (20 * TR_NS_PER_S)     /* deadline of the stop */
#define SPARES_NS (500 * TR_NS_PER_MS) /* no new spare segment for so long: there will be none */
#define STALL_NS (120 * TR_NS_PER_S)   /* without any progress: give up */

struct slot { /* one event under way to the commit */
	struct tr_outbox outbox;
	struct slot *next;
	struct generator *generator;
};

struct generator { /* one a worker, used in its thread */
	struct tr_mail start;
	struct tr_defer defer;
	struct tr_timer timer;
	struct tr_worker *worker;
	struct tr_loop *loop;
	struct tr_message *message; /* the mail that the events are about */
	struct slot *slots, *free;
	int64_t left; /* events to make */
	uint64_t counter, counter_step;
	bool pumping;
};

static struct {
	const char *mode, *policy;
	int64_t count, workers, window, per_change, bytes;
	bool array, fill, drain, jit, slices;
} options = {.count = 100000, .workers = 1, .window = 8000, .per_change = 1, .bytes = 900};

static struct tr_server *server;
static struct generator generators[MAX_WORKERS];
static _Atomic int64_t in_flight, committed, refused; /* records */
static char padding[1024];                            /* brings a record to options.bytes */
static struct tr_timer watch;
static int64_t progress_at_ns;
static uint64_t progress_mark;
static bool failed;
static int64_t wanted; /* records, of all slices that were asked for */
static bool resting;   /* between two slices */

/* what is printed at the end */
static int64_t began_ns, ended_ns;
static double began_cpu, ended_cpu, began_rss, ended_rss;
static struct measure_threads began_threads, ended_threads;
static struct tr_spool_figures began_figures, ended_figures;

static void pump(struct generator *generator);

/* --- the event ------------------------------------------------------------------------------------------- */

static struct tr_message *
sample(void)
{
	struct tr_message *message = tr_message_new();

	if (message == NULL)
		abort();
	tr_message_set_sender(message, TR_STR("news@shop.example"));
	tr_message_add_rcpt(message, TR_STR("customer@example.net"));
	tr_meta_set(&message->meta, TR_STR("tenant"), TR_STR("\"shop\""));
	tr_message_set_data(message, TR_STR("Subject: Spring is here\r\n\r\nHello.\r\n"));
	message->queue = strdup("shop@example.net");
	return message;
}

static void
number(struct tr_message *message, uint64_t counter)
{
	char text[20], *end = text + sizeof text, *at = end;

	do /* not by snprintf(), which costs a twentieth of a record */
		*--at = (char)('0' + counter % 10);
	while ((counter /= 10) > 0);
	tr_meta_set(&message->meta, TR_STR("counter"), (struct tr_str){at, (size_t)(end - at)});
}

static struct tr_event
delivery(const struct tr_message *message)
{
	return (struct tr_event){
		.type = TR_EV_DELIVERY,
		.when_ns = tr_wall_ns(),
		.message = message,
		.site = TR_STR("ip-1->example.net@smtp_client"),
		.response = {250, {2, 0, 0}, tr_str(padding), TR_STR(".")},
		.has_peer = true,
		.peer_name = TR_STR("mx1.example.net"),
		.peer_addr = TR_STR("192.0.2.25"),
		.egress_pool = TR_STR("pool"),
		.egress_source = TR_STR("ip-1"),
		.source_address = TR_STR("192.0.2.10:54321"),
		.delivery_protocol = TR_STR("ESMTP"),
		.num_attempts = -1,
	};
}

static void
encode(struct tr_message *message, uint64_t counter, struct tr_buf *out)
{
	static const char *const meta[] = {"counter", "tenant", NULL};
	struct tr_capture capture = {meta, NULL};
	struct tr_event event;
	uint8_t id[16];
	char hex[33];

	number(message, counter);
	event = delivery(message);
	tr_uuid4(id);
	tr_uuid_hex(id, hex);
	tr_record_encode(&event, "0b9c1c52-8e4b-4f55-9d0e-5a3d8c1f2e77", hex, &capture, out);
}

/* The reply text of the event is as long as it takes for a record of the bytes asked for, its newline included. */
static void
pad_records(void)
{
	struct tr_message *message = sample();
	struct tr_buf out = {0};
	int64_t missing;

	encode(message, 100000, &out);
	missing = options.bytes - 1 - (int64_t)out.len;
	missing = tr_max_i64(0, tr_min_i64(missing, (int64_t)sizeof padding - 1));
	for (int64_t i = 0; i < missing; i++)
		padding[i] = i % 8 == 7 ? ' ' : (char)('a' + i % 26);
	tr_buf_free(&out);
	tr_message_free(message);
}

static int
dump(void)
{
	struct tr_message *message = sample();
	struct tr_buf out = {0};

	if (options.array)
		putchar('[');
	for (int64_t i = 1; i <= options.count; i++) {
		tr_buf_clear(&out);
		encode(message, (uint64_t)i, &out);
		if (options.array && i > 1)
			putchar(',');
		fwrite(out.data, 1, out.len, stdout);
		if (!options.array)
			putchar('\n');
	}
	if (options.array)
		putchar(']');
	tr_buf_free(&out);
	tr_message_free(message);
	return fflush(stdout) == 0 && !ferror(stdout) ? 0 : 1;
}

/* --- making events ----------------------------------------------------------------------------------------- */

static void
stored(struct tr_outbox *outbox, int status)
{
	struct slot *slot = tr_container_of(outbox, struct slot, outbox);
	struct generator *generator = slot->generator;
	int64_t records = (int64_t)(uintptr_t)outbox->owner;

	atomic_fetch_sub_explicit(&in_flight, records, memory_order_relaxed);
	atomic_fetch_add_explicit(status == TR_OK ? &committed : &refused, records, memory_order_relaxed);
	slot->next = generator->free;
	generator->free = slot;
	if (!generator->pumping)
		pump(generator);
}

static void
pump_deferred(struct tr_defer *defer)
{
	struct generator *generator = tr_container_of(defer, struct generator, defer);
	struct tr_spool *spool = tr_server_spool(server);
	struct tr_spool_figures figures;
	int64_t room = INT64_MAX;

	generator->pumping = true;
	tr_spool_figures(spool, &figures);
	if (!options.fill)
		room = options.window - (int64_t)figures.live_messages - atomic_load(&in_flight);
	if (tr_spool_pressure(spool))
		room = 0;
	room = tr_min_i64(room, EMITS_A_TURN);
	while (room > 0 && generator->left > 0 && generator->free != NULL) {
		struct slot *slot = generator->free;
		int64_t records = tr_min_i64(options.per_change, generator->left);

		generator->free = slot->next;
		tr_outbox_init(&slot->outbox, generator->worker, stored, (void *)(uintptr_t)records);
		for (int64_t i = 0; i < records; i++) {
			struct tr_event event;

			number(generator->message, generator->counter);
			event = delivery(generator->message);
			generator->counter += generator->counter_step;
			tr_outbox_emit(&slot->outbox, &event);
		}
		atomic_fetch_add_explicit(&in_flight, records, memory_order_relaxed);
		generator->left -= records;
		room -= records;
		tr_outbox_submit(&slot->outbox);
	}
	generator->pumping = false;
}

static void
look_again(struct tr_timer *timer)
{
	struct generator *generator = tr_container_of(timer, struct generator, timer);

	tr_timer_start(tr_loop_wheel(generator->loop), timer, LOOK_NS, look_again);
	pump(generator);
}

static void
pump(struct generator *generator)
{
	if (generator->left > 0)
		tr_loop_defer(generator->loop, &generator->defer, pump_deferred);
	else
		tr_timer_stop(tr_loop_wheel(generator->loop), &generator->timer);
}

static void
start_generator(struct tr_mail *mail)
{
	struct generator *generator = tr_container_of(mail, struct generator, start);

	look_again(&generator->timer);
}

static bool
make_generators(void)
{
	for (int64_t i = 0; i < options.workers; i++) {
		struct generator *generator = &generators[i];

		generator->worker = tr_engine_worker(tr_server_engine(server), (uint32_t)i);
		generator->loop = tr_worker_loop(generator->worker);
		generator->message = sample();
		generator->counter = (uint64_t)i + 1;
		generator->counter_step = (uint64_t)options.workers;
		generator->slots = calloc(IN_FLIGHT, sizeof *generator->slots);
		if (generator->slots == NULL)
			return false;
		for (int slot = 0; slot < IN_FLIGHT; slot++) {
			generator->slots[slot].generator = generator;
			generator->slots[slot].next = generator->free;
			generator->free = &generator->slots[slot];
		}
	}
	return true;
}

/* `options.count` more records. */
static void
start_generators(void)
{
	wanted += options.count;
	for (int64_t i = 0; i < options.workers; i++) {
		struct generator *generator = &generators[i];

		generator->left = options.count / options.workers + (i < options.count % options.workers);
		generator->start.fn = start_generator;
		tr_loop_post(generator->loop, &generator->start);
	}
}

/* --- the run ------------------------------------------------------------------------------------------------- */

static void
begin_measure(void)
{
	began_ns = tr_mono_ns();
	began_cpu = measure_cpu_us();
	began_rss = measure_rss();
	measure_threads(&began_threads);
	tr_spool_figures(tr_server_spool(server), &began_figures);
}

static void
end_measure(void)
{
	ended_ns = tr_mono_ns();
	ended_cpu = measure_cpu_us();
	ended_rss = measure_rss();
	measure_threads(&ended_threads);
	tr_spool_figures(tr_server_spool(server), &ended_figures);
}

/* A fresh log fills segments with zeros ahead of need, once; that is no part of a record. Waits until it has them. */
static void
wait_for_spares(void)
{
	int64_t changed_at_ns = tr_mono_ns(), give_up_ns = changed_at_ns + STOP_NS;
	struct tr_spool_figures figures;
	uint64_t before = UINT64_MAX;

	for (; tr_mono_ns() < give_up_ns; usleep(10000)) {
		tr_spool_figures(tr_server_spool(server), &figures);
		if (figures.free_segments != before) {
			before = figures.free_segments;
			changed_at_ns = tr_mono_ns();
		}
		if (before > 0 && tr_mono_ns() - changed_at_ns > SPARES_NS)
			return;
	}
}

static bool
is_over(const struct tr_spool_figures *figures)
{
	int64_t done = atomic_load(&committed) + atomic_load(&refused);

	if (options.drain)
		return figures->live_messages == 0;
	return done >= wanted && (options.fill || figures->live_messages == 0);
}

/* Between two slices: a byte asks for the next one, the end of the input for the end, which is false. */
static bool
next_slice(void)
{
	char byte;
	ssize_t n = read(STDIN_FILENO, &byte, 1);

	progress_at_ns = tr_mono_ns();
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		tr_server_stop(server, STOP_NS);
		return false;
	}
	if (n > 0) {
		resting = false;
		begin_measure();
		start_generators();
	}
	return true;
}

static void
end_slice(void)
{
	end_measure();
	printf("cpu_us=%.4f rate=%.0f\n", (ended_cpu - began_cpu) / (double)options.count,
		(double)options.count * 1e9 / (double)(ended_ns - began_ns));
	fflush(stdout);
	resting = true;
}

static void
look(struct tr_timer *timer)
{
	struct tr_spool_figures figures;
	uint64_t mark;

	tr_spool_figures(tr_server_spool(server), &figures);
	mark = figures.changes + figures.live_messages;
	if (mark != progress_mark) {
		progress_mark = mark;
		progress_at_ns = tr_mono_ns();
	}
	failed = tr_mono_ns() - progress_at_ns > STALL_NS;
	if (failed)
		fprintf(stderr, "hook_bench: nothing moved for %d s, %llu records wait\n",
			(int)(STALL_NS / TR_NS_PER_S), (unsigned long long)figures.live_messages);
	if (options.slices && !failed) {
		if (!resting && is_over(&figures))
			end_slice();
		else if (resting && !next_slice())
			return;
	} else if (failed || is_over(&figures)) {
		end_measure();
		tr_server_stop(server, STOP_NS);
		return;
	}
	tr_timer_start(tr_loop_wheel(tr_server_loop(server)), timer, LOOK_NS, look);
}

static const char *
thread_name(int tid, const char *name)
{
	return tid == getpid() ? "worker-0" : name;
}

static void
print_result(int64_t records)
{
	double seconds = (double)(ended_ns - began_ns) / 1e9, each = (double)(records > 0 ? records : 1);
	uint64_t syncs = ended_figures.syncs - began_figures.syncs;

	printf("records=%lld seconds=%.3f rate=%.0f cpu_us=%.2f rss_mb=%.1f rss_per_record=%.1f stub_per_record=%.1f "
	       "records_per_sync=%.1f copied=%.3f threads=",
		(long long)records, seconds, (double)records / seconds, (ended_cpu - began_cpu) / each,
		ended_rss / 1048576., (ended_rss - began_rss) / each,
		(double)ended_figures.stub_bytes /
			(double)(ended_figures.live_messages ? ended_figures.live_messages : 1),
		(double)records / (double)(syncs ? syncs : 1),
		(double)(ended_figures.copied_bytes - began_figures.copied_bytes) / each);
	for (int i = 0; i < ended_threads.count; i++) {
		int tid = ended_threads.thread[i].tid;
		double us = ended_threads.thread[i].us - measure_thread_us(&began_threads, tid);

		if (us / each >= 0.005)
			printf("%s:%.2f,", thread_name(tid, ended_threads.thread[i].name), us / each);
	}
	putchar('\n');
}

static int
run(void)
{
	struct tr_server_config config = {
		.policy = options.policy, .workers = (uint32_t)options.workers, .seed = 1, .jit = options.jit};
	int64_t boot_ns = tr_mono_ns(), records = options.count;
	double boot_cpu = measure_cpu_us();
	struct tr_buf ledger = {0};
	char *error = NULL;
	int status;

	signal(SIGPIPE, SIG_IGN);
	if (tr_watchdog_start() != TR_OK)
		return 1;
	server = tr_server_boot(&config, &error);
	if (server == NULL) {
		fprintf(stderr, "hook_bench: %s\n", error ? error : "out of memory");
		free(error);
		tr_watchdog_stop();
		return 1;
	}
	if (!options.drain)
		wait_for_spares();
	begin_measure();
	if (options.drain) {
		double seconds = (double)(began_ns - boot_ns) / 1e9;

		records = (int64_t)began_figures.live_messages;
		printf("recovered=%lld seconds=%.3f rate=%.0f cpu_us=%.2f rss_mb=%.1f\n", (long long)records, seconds,
			(double)records / seconds, (began_cpu - boot_cpu) / (double)(records ? records : 1),
			began_rss / 1048576.);
		fflush(stdout);
	} else if (!make_generators()) {
		return 1;
	} else if (options.slices) {
		resting = fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK) == 0;
		printf("ready\n");
		fflush(stdout);
	} else {
		start_generators();
	}
	progress_at_ns = tr_mono_ns();
	tr_timer_start(tr_loop_wheel(tr_server_loop(server)), &watch, LOOK_NS, look);
	tr_server_run(server);
	status = tr_server_free(server, &ledger);
	tr_watchdog_stop();
	if (!options.slices)
		print_result(records);
	if (status != TR_OK || failed || atomic_load(&refused) > 0) {
		fprintf(stderr, "hook_bench: %s; %lld records refused\n%.*s",
			status == TR_OK ? "failed" : "the ledger does not balance", (long long)atomic_load(&refused),
			(int)ledger.len, ledger.data);
		status = TR_EIO;
	}
	tr_buf_free(&ledger);
	for (int i = 0; i < MAX_WORKERS; i++) {
		tr_message_free(generators[i].message);
		free(generators[i].slots);
	}
	return status == TR_OK ? 0 : 1;
}

int
main(int argc, char **argv)
{
	const char *filter = getenv("TAILRACE_LOG");
	const struct tr_arg table[] = {
		{"policy", "FILE", TR_ARG_TEXT, &options.policy, 0, 0, "the policy to run"},
		{"count", "N", TR_ARG_INT, &options.count, 1, 1e9, "records (100000)"},
		{"workers", "N", TR_ARG_INT, &options.workers, 1, MAX_WORKERS, "worker threads (1)"},
		{"window", "N", TR_ARG_INT, &options.window, 1, 1e9, "run: records that may wait (8000)"},
		{"per-change", "N", TR_ARG_INT, &options.per_change, 1, 1000, "events of one state change (1)"},
		{"bytes", "N", TR_ARG_INT, &options.bytes, 1, 4096, "of a record, its newline included (900)"},
		{"slices", NULL, TR_ARG_FLAG, &options.slices, 0, 0,
			"run: the records again for each byte of standard input"},
		{"jit", NULL, TR_ARG_FLAG, &options.jit, 0, 0, "compile policy code, as tailrace run --jit"},
		{"array", NULL, TR_ARG_FLAG, &options.array, 0, 0, "dump: one JSON array"},
		{NULL, NULL, 0, NULL, 0, 0, NULL},
	};
	const struct tr_args args = {"hook_bench", "run|fill|drain|dump [OPTIONS]", NULL, table, NULL, NULL};
	int status;

	if (argc < 2) {
		fprintf(stderr, "usage: hook_bench run|fill|drain|dump [OPTIONS]\n");
		return 64;
	}
	options.mode = argv[1];
	options.fill = strcmp(options.mode, "fill") == 0;
	options.drain = strcmp(options.mode, "drain") == 0;
	status = tr_args_parse(&args, argc - 1, argv + 1);
	if (status != TR_ARGS_RUN)
		return status;
	if (filter != NULL && tr_log_filter(filter) != TR_OK)
		return 64;
	pad_records();
	if (strcmp(options.mode, "dump") == 0)
		return dump();
	if (!options.fill && !options.drain && strcmp(options.mode, "run") != 0)
		return tr_args_error(&args, "%s: expected run, fill, drain or dump", options.mode);
	if (options.policy == NULL)
		return tr_args_error(&args, "--policy FILE is required");
	return run();
}
