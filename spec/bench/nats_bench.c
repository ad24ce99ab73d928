/* CPU time of one JetStream publish with acknowledgement: `nats_bench URL [COUNT [BATCH [CALLS]]]` against a
 * nats-server with a stream of tailrace.bench. Prints a line for libnats' own asynchronous publishing (the yardstick,
 * where it is installed) and one for ours: CALLS calls of BATCH messages under way, as many in flight for both. A
 * message has 900 bytes and a Nats-Msg-Id. */
#ifdef WITH_NATS
#include <nats/nats.h>
#endif
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "measure.h"
#include "transport/nats.h"

enum { BODY_BYTES = 900, FLIGHT = 2048 };

static const char subject[] = "tailrace.bench";
static char body[BODY_BYTES];
static uint32_t count = 200000, batch = 100, lanes = 8, started, finished, failed;
static uint64_t run; /* part of the ids: another run's are not duplicates */

static void
report(const char *name, double cpu, int64_t began_ns)
{
	double wall_s = (double)(tr_mono_ns() - began_ns) / 1e9;

	printf("%-6s %u messages, %u failed: %.2f us CPU each, %.0f/s\n", name, finished, failed,
		(measure_cpu_us() - cpu) / finished, finished / wall_s);
}

#ifdef WITH_NATS
static void
check(natsStatus s, const char *what)
{
	if (s == NATS_OK)
		return;
	fprintf(stderr, "nats_bench: %s: %s\n", what, natsStatus_GetText(s));
	exit(1);
}

/* --- the yardstick -------------------------------------------------------------------------------------------- */

static void
raw_failed(jsCtx *js, jsPubAckErr *error, void *closure)
{
	__atomic_add_fetch(&failed, 1, __ATOMIC_RELAXED);
}

static void
raw(const char *url)
{
	natsConnection *nc;
	jsCtx *js;
	jsOptions options;
	double cpu;
	int64_t began_ns;

	check(natsConnection_ConnectTo(&nc, url), "connect");
	jsOptions_Init(&options);
	options.PublishAsync.MaxPending = FLIGHT;
	options.PublishAsync.ErrHandler = raw_failed;
	options.PublishAsync.StallWait = 10000;
	check(natsConnection_JetStream(&js, nc, &options), "JetStream");
	cpu = measure_cpu_us();
	began_ns = tr_mono_ns();
	for (finished = 0; finished < count; finished++) {
		natsMsg *msg;
		char id[40];

		snprintf(id, sizeof id, "%llx-r%u", (unsigned long long)run, finished);
		check(natsMsg_Create(&msg, subject, NULL, body, sizeof body), "message");
		check(natsMsgHeader_Set(msg, "Nats-Msg-Id", id), "header");
		check(js_PublishMsgAsync(js, &msg, NULL), "publish");
		natsMsg_Destroy(msg);
	}
	check(js_PublishAsyncComplete(js, NULL), "acknowledgements");
	report("plain", cpu, began_ns);
	jsCtx_Destroy(js);
	natsConnection_Destroy(nc);
}
#else
static void
raw(const char *url)
{
	fprintf(stderr, "nats_bench: libnats is not installed: it is left out\n");
}
#endif

/* --- ours ------------------------------------------------------------------------------------------------------- */

static struct tr_loop *loop;
static struct tr_nats_connection *connection;

static void start(void);

static void
done(struct tr_nats_call *call)
{
	for (uint32_t i = 0; i < call->count; i++) {
		struct tr_nats_result result;

		tr_nats_call_result(call, i, &result);
		failed += result.err != TR_OK;
	}
	finished += call->count;
	tr_nats_call_free(call);
	if (finished >= count)
		tr_loop_stop(loop);
	else if (started < count)
		start();
}

static void
start(void)
{
	struct tr_nats_call *call = tr_nats_call_new(connection, batch);
	struct tr_str headers[2] = {TR_STR("Nats-Msg-Id")};
	struct tr_nats_message message = {.subject = tr_str(subject),
		.payload = {body, sizeof body},
		.headers = headers,
		.header_count = 1,
		.await_ack = true};

	for (uint32_t i = 0; i < batch && call != NULL; i++) {
		char id[40];

		snprintf(id, sizeof id, "%llx-o%u", (unsigned long long)run, started + i);
		headers[1] = tr_str(id);
		if (tr_nats_call_add(call, &message) != TR_OK)
			break;
	}
	if (call == NULL) {
		fprintf(stderr, "nats_bench: out of memory\n");
		exit(1);
	}
	started += batch;
	call->done = done;
	tr_nats_call_start(call);
}

static void
ours(const char *url)
{
	struct tr_nats_settings settings = {.server_count = 1,
		.servers = {tr_str(url)},
		.pending_max = FLIGHT,
		.connect_timeout_ns = 5 * TR_NS_PER_S,
		.ping_interval_ns = 60 * TR_NS_PER_S,
		.request_timeout_ns = 60 * TR_NS_PER_S};
	struct tr_nats *nats;
	double cpu;
	int64_t began_ns;

	finished = failed = 0;
	if (tr_loop_new(&loop) != TR_OK || tr_nats_new(loop, NULL, &nats) != TR_OK ||
		tr_nats_open(nats, &settings, &connection) != TR_OK) {
		fprintf(stderr, "nats_bench: cannot start\n");
		exit(1);
	}
	tr_loop_enter(loop);
	cpu = measure_cpu_us();
	began_ns = tr_mono_ns();
	for (uint32_t i = 0; i < lanes && started < count; i++)
		start();
	tr_loop_run(loop);
	report("ours", cpu, began_ns);
	tr_nats_unref(connection);
	tr_nats_free(nats);
	tr_loop_free(loop);
}

int
main(int argc, char **argv)
{
	if (argc < 2 || argc > 5) {
		fprintf(stderr, "usage: nats_bench URL [COUNT [BATCH [CALLS]]]\n");
		return 2;
	}
	if (argc > 2)
		count = (uint32_t)strtoul(argv[2], NULL, 10);
	if (argc > 3)
		batch = (uint32_t)strtoul(argv[3], NULL, 10);
	if (argc > 4)
		lanes = (uint32_t)strtoul(argv[4], NULL, 10);
	if (count == 0 || batch == 0 || lanes == 0)
		return 2;
	run = (uint64_t)tr_mono_ns();
	memset(body, 'x', sizeof body);
	raw(argv[1]);
	ours(argv[1]);
	return failed > 0;
}
