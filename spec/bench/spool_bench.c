/* The spool alone: `spool_bench [RECORDS]` (default 300000). Puts and ends records of several sizes in the groups that
 * the pace makes of a full hand-over, then the same bytes in as many appends with fdatasync; then a backlog: recovery,
 * memory of a waiting record, draining in order. CPU is that of all threads. Works in $TMPDIR or /tmp. */
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "base/clock.h"
#include "measure.h"
#include "spool/spool.h"

enum { FLIGHT = 4096, DRAIN_BATCH = 512, DRAIN_BATCHES = 16 };

static char dir[128], meta[160], data[160];
static struct tr_spool *spool;
static struct tr_loop *loop;

static void
must(int err, const char *what)
{
	if (err == TR_OK)
		return;
	fprintf(stderr, "spool_bench: %s: %s\n", what, tr_err_text(err));
	exit(1);
}

struct slots {
	uint32_t *list;
	uint32_t count, cap;
};

static void
recovered(void *arg, const struct tr_recovered *message)
{
	struct slots *slots = arg;

	if (slots != NULL && slots->count < slots->cap)
		slots->list[slots->count++] = message->slot;
}

static void
start(struct slots *slots, struct tr_recovery *stats)
{
	struct tr_spool_config config = {.meta_path = meta, .data_path = data};
	char *error = NULL;
	int err = tr_spool_open(&config, &spool, &error);

	must(err, error != NULL ? error : "open");
	must(tr_spool_recover(spool, recovered, slots, stats), "recover");
}

/* --- put, then done ------------------------------------------------------------------------------------- */

struct flight {
	struct tr_change change;
	struct run *run;
	uint32_t slot;
	bool ending;
};

struct run {
	struct tr_message *message;
	uint32_t left, open; /* puts not begun; changes under way */
	bool keep;           /* puts alone */
	struct flight flights[FLIGHT];
};

static void done(struct tr_change *change, int status);

static void
put(struct flight *flight)
{
	struct tr_message *message = flight->run->message;

	flight->run->left--;
	flight->run->open++;
	flight->ending = false;
	message->slot = TR_NO_SLOT; /* one message stands for all: its making is not the spool's work */
	tr_change_init(&flight->change, spool, loop, done, NULL);
	must(tr_change_put(&flight->change, message, TR_STR("webhook.log_hook"), TR_COL_ACCEPTED, 1), "put");
	flight->slot = message->slot;
	flight->change.intake = true;
	tr_spool_submit(&flight->change);
}

static void
end(struct flight *flight)
{
	flight->run->open++;
	flight->ending = true;
	tr_change_init(&flight->change, spool, loop, done, NULL);
	must(tr_change_done(&flight->change, flight->slot, TR_COL_DELIVERED, TR_REASON_NONE, 1), "done");
	tr_spool_submit(&flight->change);
}

static void
done(struct tr_change *change, int status)
{
	struct flight *flight = tr_container_of(change, struct flight, change);

	must(status, "commit");
	flight->run->open--;
	if (!flight->ending && !flight->run->keep)
		end(flight);
	else if (flight->run->left > 0)
		put(flight);
}

static bool
idle(void *arg)
{
	return ((struct run *)arg)->open == 0;
}

struct result {
	double cpu_us, wall_us, mb_s;
	uint64_t groups, bytes;
};

static struct result
measure(uint32_t records, size_t body_bytes, bool keep)
{
	struct run *run = calloc(1, sizeof *run);
	struct tr_blob *body = tr_blob_new(NULL, body_bytes);
	struct tr_spool_figures before, after;
	struct result result = {0};
	double cpu;
	int64_t wall;

	run->message = tr_message_new();
	run->keep = keep;
	run->left = records;
	for (size_t i = 0; i < body_bytes; i++)
		body->data[i] = (char)(' ' + (i * 7 + i / 13) % 90);
	tr_bytes_set(&run->message->body, body);
	must(tr_message_set_sender(run->message, TR_STR("sender@example.com")), "sender");
	must(tr_message_add_rcpt(run->message, TR_STR("webhook@log_hook")), "recipient");
	tr_spool_figures(spool, &before);
	cpu = measure_cpu_us();
	wall = tr_mono_ns();
	for (uint32_t i = 0, flights = body_bytes < 65536 ? FLIGHT : 64; i < flights && run->left > 0; i++) {
		run->flights[i].run = run;
		put(&run->flights[i]);
	}
	if (!tr_loop_run_until(loop, idle, run, 600 * TR_NS_PER_S))
		must(TR_ETIMEDOUT, "run");
	result.wall_us = (double)(tr_mono_ns() - wall) / 1e3 / records;
	result.cpu_us = (measure_cpu_us() - cpu) / records;
	tr_spool_figures(spool, &after);
	result.groups = after.groups - before.groups;
	result.bytes = body_bytes + 200;
	tr_message_free(run->message);
	free(run);
	return result;
}

/* The same bytes, in as many synced appends, over files that were written before. */
static struct result
raw(uint32_t records, uint64_t bytes, uint64_t groups)
{
	char path[200];
	uint64_t group = (uint64_t)records * bytes / groups, at = 0, size = 64 << 20;
	char *buffer = calloc(1, group);
	struct result result = {.groups = groups};
	double cpu;
	int64_t wall;
	int fd;

	snprintf(path, sizeof path, "%s/raw", dir);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || buffer == NULL || tr_file->allocate(fd, (off_t)size) < 0 || fdatasync(fd) < 0)
		must(TR_EIO, path);
	cpu = measure_cpu_us();
	wall = tr_mono_ns();
	for (uint64_t i = 0; i < groups; i++) {
		if (at + group > size)
			at = 0;
		if (pwrite(fd, buffer, group, (off_t)at) != (ssize_t)group || fdatasync(fd) < 0)
			must(TR_EIO, path);
		at += group;
	}
	result.wall_us = (double)(tr_mono_ns() - wall) / 1e3 / records;
	result.cpu_us = (measure_cpu_us() - cpu) / records;
	close(fd);
	unlink(path);
	free(buffer);
	return result;
}

static void
row(const char *name, uint32_t records, size_t body_bytes)
{
	struct result own = measure(records, body_bytes, false);
	struct result plain = raw(records, own.bytes, own.groups);

	printf("%-22s %8u %8" PRIu64 " %9.2f %9.2f %9.2f %9.2f\n", name, records, own.groups, own.cpu_us, own.wall_us,
		plain.cpu_us, plain.wall_us);
	fflush(stdout);
}

/* --- backlog ----------------------------------------------------------------------------------------------- */

struct batch {
	struct tr_load load;
	struct tr_change change;
	struct drain *drain;
	struct tr_message *messages[DRAIN_BATCH];
	int status[DRAIN_BATCH];
};

struct drain {
	struct slots *slots;
	uint32_t next, open;
	struct batch batches[DRAIN_BATCHES];
};

static void drained(struct tr_load *load);

static void
drain_some(struct batch *batch)
{
	struct drain *drain = batch->drain;
	uint32_t left = drain->slots->count - drain->next;

	if (left == 0)
		return;
	drain->open++;
	batch->load = (struct tr_load){.loop = loop,
		.done = drained,
		.count = left < DRAIN_BATCH ? left : DRAIN_BATCH,
		.slots = drain->slots->list + drain->next,
		.messages = batch->messages,
		.status = batch->status};
	drain->next += batch->load.count;
	tr_spool_load(spool, &batch->load);
}

static void
drain_done(struct tr_change *change, int status)
{
	struct batch *batch = tr_container_of(change, struct batch, change);

	must(status, "done");
	batch->drain->open--;
	drain_some(batch);
}

static void
drained(struct tr_load *load)
{
	struct batch *batch = tr_container_of(load, struct batch, load);

	tr_change_init(&batch->change, spool, loop, drain_done, NULL);
	for (uint32_t i = 0; i < load->count; i++) {
		must(load->status[i], "load");
		tr_message_free(load->messages[i]);
		must(tr_change_done(&batch->change, load->slots[i], TR_COL_DELIVERED, TR_REASON_NONE, 1), "done");
	}
	tr_spool_submit(&batch->change);
}

static bool
dry(void *arg)
{
	return ((struct drain *)arg)->open == 0;
}

static void
backlog(uint32_t records)
{
	struct slots slots = {calloc(records, sizeof(uint32_t)), 0, records};
	struct tr_spool_figures figures;
	struct tr_recovery stats;
	struct drain *drain = calloc(1, sizeof *drain);
	double cpu;
	int64_t wall;

	measure(records, 900, true);
	tr_spool_close(spool);
	cpu = measure_cpu_us();
	wall = tr_mono_ns();
	start(&slots, &stats);
	wall = tr_mono_ns() - wall;
	tr_spool_figures(spool, &figures);
	printf("\nrecovery   %" PRIu64 " records in %.0f ms: %.0f records/s, %.2f us CPU each\n", stats.messages,
		(double)wall / 1e6, (double)stats.messages * 1e9 / (double)wall,
		(measure_cpu_us() - cpu) / (double)stats.messages);
	printf("memory     %.1f bytes a waiting record\n", (double)figures.stub_bytes / (double)stats.messages);
	drain->slots = &slots;
	cpu = measure_cpu_us();
	wall = tr_mono_ns();
	for (int i = 0; i < DRAIN_BATCHES; i++) {
		drain->batches[i].drain = drain;
		drain_some(&drain->batches[i]);
	}
	if (!tr_loop_run_until(loop, dry, drain, 600 * TR_NS_PER_S))
		must(TR_ETIMEDOUT, "drain");
	wall = tr_mono_ns() - wall;
	printf("drain      loaded in order and ended: %.0f records/s, %.2f us CPU each\n",
		(double)stats.messages * 1e9 / (double)wall, (measure_cpu_us() - cpu) / (double)stats.messages);
	free(slots.list);
	free(drain);
}

int
main(int argc, char **argv)
{
	uint32_t records = argc > 1 ? (uint32_t)atoi(argv[1]) : 300000;
	const char *tmp = getenv("TMPDIR");
	char command[160];

	if (records < 1000) {
		fputs("Usage: spool_bench [RECORDS, at least 1000]\n", stderr);
		return 64;
	}
	snprintf(dir, sizeof dir, "%.90s/spool-bench-XXXXXX", tmp != NULL ? tmp : "/tmp");
	if (mkdtemp(dir) == NULL || tr_loop_new(&loop) != TR_OK)
		must(TR_EIO, dir);
	snprintf(meta, sizeof meta, "%s/meta", dir);
	snprintf(data, sizeof data, "%s/data", dir);
	tr_loop_enter(loop);
	start(NULL, NULL);
	printf("%-22s %8s %8s %9s %9s %9s %9s\n", "put + done, synced", "records", "groups", "CPU us", "wall us",
		"raw CPU", "raw wall");
	row("900 B, fresh log", records, 900); /* with the zero-filling of its segments */
	row("900 B", records, 900);
	row("10 KB", records / 10, 10 << 10);
	row("100 KB", records / 100, 100 << 10);
	row("1 MB", records / 1000, 1 << 20);
	backlog(records);
	row("900 B, after a drain", records, 900);
	tr_spool_close(spool);
	tr_loop_free(loop);
	snprintf(command, sizeof command, "rm -rf '%s'", dir);
	return system(command) == 0 ? 0 : 1;
}
