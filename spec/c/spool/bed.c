/* Included by each test of the spool: the other rooms' tests do not link with it. */
#include "bed.h"

#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define NEED(condition)                                                                 \
	do {                                                                            \
		if (!(condition)) {                                                     \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                        \
		}                                                                       \
	} while (0)

struct pending {
	struct tr_change change;
	struct bed *bed;
	struct tr_message *message[80];
	uint32_t put[80], puts;
	uint32_t end; /* UINT32_MAX: none */
	uint32_t state;
	int64_t due_ms;
	uint16_t attempts;
};

static void forget(struct bed *bed);

static int
run(const char *fmt, ...)
{
	char command[400];
	va_list args;

	va_start(args, fmt);
	vsnprintf(command, sizeof command, fmt, args);
	va_end(args);
	return system(command);
}

void
bed_init(struct bed *bed, uint64_t segment_bytes)
{
	const char *tmp = getenv("TMPDIR");

	memset(bed, 0, sizeof *bed);
	snprintf(bed->dir, sizeof bed->dir, "%.30s/spool-XXXXXX", tmp != NULL ? tmp : "/tmp");
	NEED(mkdtemp(bed->dir) != NULL);
	snprintf(bed->meta, sizeof bed->meta, "%s/meta", bed->dir);
	snprintf(bed->data, sizeof bed->data, "%s/data", bed->dir);
	bed->config = (struct tr_spool_config){
		.meta_path = bed->meta,
		.data_path = bed->data,
		.segment_bytes = segment_bytes,
		.pace_ns = 1000,
		.urgent_gap_ns = 1,
		.min_free_space = {.bytes = 1},
		.min_free_inodes = {.bytes = 1},
	};
	bed->random = 88172645463325252u;
	NEED(tr_loop_new(&bed->loop) == TR_OK);
	tr_loop_enter(bed->loop);
}

static void
each(void *arg, const struct tr_recovered *recovered)
{
	struct bed *bed = arg;
	struct tr_stub *stub = tr_spool_stub(bed->spool, recovered->slot);

	for (uint32_t i = 0; i < bed->count; i++) {
		struct bed_message *message = &bed->messages[i];

		if (message->seq != stub->seq)
			continue;
		NEED(message->slot == TR_NO_SLOT); /* told once */
		message->slot = recovered->slot;
		NEED(tr_str_eq(recovered->queue, tr_str(message->queue)));
		return;
	}
	fprintf(stderr, "message %llu is invented\n", (unsigned long long)stub->seq);
	abort();
}

int
bed_try_open(struct bed *bed)
{
	char *error = NULL;
	int err = tr_spool_open(&bed->config, &bed->spool, &error);

	free(error);
	if (err != TR_OK)
		return err;
	for (uint32_t i = 0; i < bed->count; i++)
		bed->messages[i].slot = TR_NO_SLOT;
	err = tr_spool_recover(bed->spool, each, bed, &bed->recovery);
	if (err != TR_OK) {
		tr_spool_close(bed->spool);
		bed->spool = NULL;
	}
	return err;
}

void
bed_open(struct bed *bed)
{
	NEED(bed_try_open(bed) == TR_OK);
}

static bool
idle(void *arg)
{
	struct bed *bed = arg;

	return bed->under_way == 0 || (bed->crashing && tr_spool_pressure(bed->spool));
}

void
bed_wait(struct bed *bed)
{
	if (!bed->crashing) {
		NEED(tr_loop_run_until(bed->loop, idle, bed, 60 * TR_NS_PER_S));
		return;
	}
	while (!idle(bed)) /* run_until() would wait for the holds of what is stuck */
		if (!tr_loop_turn(bed->loop))
			sched_yield();
}

void
bed_close(struct bed *bed)
{
	if (bed->spool == NULL)
		return;
	bed_wait(bed);
	tr_spool_close(bed->spool); /* answers what is still under way */
	NEED(bed->under_way == 0);
	bed->spool = NULL;
}

void
bed_fini(struct bed *bed)
{
	bed_close(bed);
	tr_loop_free(bed->loop);
	for (uint32_t i = 0; i < bed->count; i++)
		free(bed->messages[i].body);
	free(bed->messages);
	forget(bed);
	run("rm -rf '%s'", bed->dir);
}

uint64_t
bed_random(struct bed *bed, uint64_t below)
{
	bed->random ^= bed->random << 13;
	bed->random ^= bed->random >> 7;
	bed->random ^= bed->random << 17;
	return bed->random % below;
}

static void
answered(struct tr_change *change, int status)
{
	struct pending *pending = tr_container_of(change, struct pending, change);
	struct bed *bed = pending->bed;

	bed->last_status = status;
	*(status == TR_OK ? &bed->ok : &bed->refused) += 1;
	for (uint32_t i = 0; i < pending->puts; i++) {
		struct bed_message *message = &bed->messages[pending->put[i]];

		message->live = status == TR_OK;
		message->doubtful = status != TR_OK && bed->crashing; /* else refused means: not stored */
		if (status != TR_OK)
			message->slot = TR_NO_SLOT;
		else
			message->with = pending->put[i]; /* from now on for itself */
		tr_message_free(pending->message[i]);
	}
	if (pending->end != UINT32_MAX) {
		struct bed_message *message = &bed->messages[pending->end];

		message->doubtful = status != TR_OK;
		message->live = status != TR_OK;
		message->slot = TR_NO_SLOT;
	}
	if (pending->state != UINT32_MAX && status == TR_OK) {
		bed->messages[pending->state].due_ms = pending->due_ms;
		bed->messages[pending->state].attempts = pending->attempts;
		bed->messages[pending->state].doubtful = false;
	}
	bed->under_way--;
	free(pending);
}

static struct pending *
open_change(struct bed *bed)
{
	struct pending *pending = calloc(1, sizeof *pending);

	NEED(pending != NULL);
	pending->bed = bed;
	pending->end = pending->state = UINT32_MAX;
	tr_change_init(&pending->change, bed->spool, bed->loop, answered, NULL);
	return pending;
}

static void
submit(struct pending *pending)
{
	pending->bed->under_way++;
	tr_spool_submit(&pending->change);
}

static uint32_t
add_put(struct pending *pending, size_t body_bytes, int64_t units)
{
	struct bed *bed = pending->bed;
	struct tr_message *message = tr_message_new();
	struct bed_message *model;
	char *body = malloc(body_bytes + 1);
	uint32_t index = bed->count;

	NEED(message != NULL && body != NULL && pending->puts < TR_COUNT(pending->put));
	if (bed->count == bed->cap) {
		bed->cap = bed->cap * 2 + 64;
		bed->messages = realloc(bed->messages, bed->cap * sizeof *bed->messages);
		NEED(bed->messages != NULL);
	}
	for (size_t i = 0; i < body_bytes; i++)
		body[i] = (char)('a' + bed_random(bed, 26));
	body[body_bytes] = '\0';
	model = &bed->messages[bed->count++];
	memset(model, 0, sizeof *model);
	model->body = body;
	model->units = units;
	model->outbox_of = pending->end;
	model->with = pending->puts > 0 ? pending->put[0] : index;
	model->due_ms = 1700000000000 + (int64_t)bed_random(bed, 1000000);
	model->attempts = (uint16_t)bed_random(bed, 20);
	snprintf(model->queue, sizeof model->queue, "queue-%u", (unsigned)bed_random(bed, 5));
	NEED(tr_message_set_sender(message, TR_STR("a@example.com")) == TR_OK);
	NEED(tr_message_add_rcpt(message, TR_STR("b@example.org")) == TR_OK);
	NEED(tr_message_set_data(message, (struct tr_str){body, body_bytes}) == TR_OK);
	message->due_ms = model->due_ms;
	message->attempts = model->attempts;
	NEED(tr_change_put(&pending->change, message, tr_str(model->queue), TR_COL_ACCEPTED, units) == TR_OK);
	model->slot = message->slot;
	model->seq = message->seq;
	model->doubtful = true;
	pending->message[pending->puts] = message;
	pending->put[pending->puts++] = index;
	return index;
}

uint32_t
bed_put(struct bed *bed, size_t body_bytes, bool intake, int64_t units)
{
	struct pending *pending = open_change(bed);
	uint32_t index = add_put(pending, body_bytes, units);

	pending->change.intake = pending->change.urgent = intake;
	submit(pending);
	return index;
}

void
bed_done(struct bed *bed, uint32_t index, enum tr_column column)
{
	struct pending *pending = open_change(bed);
	struct bed_message *message = &bed->messages[index];

	pending->end = index;
	message->doubtful = true;
	NEED(tr_change_done(&pending->change, message->slot, column, TR_REASON_NONE, message->units) == TR_OK);
	submit(pending);
}

void
bed_state(struct bed *bed, uint32_t index, int64_t due_ms, uint16_t attempts)
{
	struct pending *pending = open_change(bed);

	pending->state = index;
	pending->due_ms = due_ms;
	pending->attempts = attempts;
	bed->messages[index].doubtful = true;
	NEED(tr_change_state(&pending->change, bed->messages[index].slot, due_ms, attempts, 0) == TR_OK);
	submit(pending);
}

uint32_t
bed_many(struct bed *bed, uint32_t index, uint32_t records, size_t body_bytes)
{
	struct pending *pending = open_change(bed);
	uint32_t first = bed->count;

	pending->end = index;
	if (index != UINT32_MAX) {
		bed->messages[index].doubtful = true;
		NEED(tr_change_done(&pending->change, bed->messages[index].slot, TR_COL_DELIVERED, TR_REASON_NONE,
			     bed->messages[index].units) == TR_OK);
	}
	pending->change.intake = pending->change.urgent = index == UINT32_MAX;
	for (uint32_t i = 0; i < records; i++)
		add_put(pending, body_bytes + i, 1);
	submit(pending);
	return first;
}

uint32_t
bed_outbox(struct bed *bed, uint32_t index, uint32_t records)
{
	return bed_many(bed, index, records, 50);
}

uint32_t
bed_live(const struct bed *bed)
{
	uint32_t live = 0;

	for (uint32_t i = 0; i < bed->count; i++)
		live += bed->messages[i].live;
	return live;
}

uint32_t
bed_pick(struct bed *bed)
{
	uint32_t start = bed->count == 0 ? 0 : (uint32_t)bed_random(bed, bed->count);

	for (uint32_t i = 0; i < bed->count; i++) {
		uint32_t index = (start + i) % bed->count;

		if (bed->messages[index].live && !bed->messages[index].doubtful)
			return index;
	}
	return UINT32_MAX;
}

static void
loaded(struct tr_load *load)
{
	*(bool *)load->owner = true;
}

static bool
load_over(void *arg)
{
	return *(bool *)arg;
}

void
bed_run_load(struct bed *bed, struct tr_load *load)
{
	bool over = false;

	load->loop = bed->loop;
	load->done = loaded;
	load->owner = &over;
	tr_spool_load(bed->spool, load);
	NEED(tr_loop_run_until(bed->loop, load_over, &over, 60 * TR_NS_PER_S));
}

int
bed_load(struct bed *bed, uint32_t slot, struct tr_message **out)
{
	int status = TR_OK;
	struct tr_load load = {.count = 1, .slots = &slot, .messages = out, .status = &status};

	*out = NULL;
	bed_run_load(bed, &load);
	return status;
}

void
bed_check_messages(struct bed *bed)
{
	for (uint32_t i = 0; i < bed->count; i++) {
		struct bed_message *model = &bed->messages[i];
		struct tr_message *message;
		struct tr_str body;

		if (!model->doubtful && model->live != (model->slot != TR_NO_SLOT)) {
			fprintf(stderr, "message %llu (%u) should %sbe there\n", (unsigned long long)model->seq, i,
				model->live ? "" : "not ");
			abort();
		}
		if (model->doubtful && model->outbox_of != UINT32_MAX) /* all of a change or none */
			if ((model->slot == TR_NO_SLOT) != (bed->messages[model->outbox_of].slot != TR_NO_SLOT)) {
				fprintf(stderr, "record %u is %s, the message %u that it tells of is %s\n", i,
					model->slot == TR_NO_SLOT ? "absent" : "there", model->outbox_of,
					bed->messages[model->outbox_of].slot == TR_NO_SLOT ? "absent" : "there");
				abort();
			}
		if (model->doubtful && (model->slot == TR_NO_SLOT) != (bed->messages[model->with].slot == TR_NO_SLOT)) {
			fprintf(stderr, "message %u is %s, message %u of the same change is not\n", i,
				model->slot == TR_NO_SLOT ? "absent" : "there", model->with);
			abort();
		}
		if (model->slot == TR_NO_SLOT)
			continue;
		NEED(bed_load(bed, model->slot, &message) == TR_OK);
		body = tr_bytes_str(&message->body);
		NEED(tr_str_eq(body, tr_str(model->body)));
		NEED(message->seq == model->seq);
		NEED(strcmp(message->queue, model->queue) == 0);
		if (!model->doubtful) {
			NEED(message->due_ms == model->due_ms);
			NEED(message->attempts == model->attempts);
		}
		tr_message_free(message);
	}
}

void
bed_check(struct bed *bed)
{
	struct tr_ledger ledger;
	struct tr_buf text = {0};

	bed_check_messages(bed);
	NEED(tr_spool_ledger(bed->spool, &ledger) == TR_OK);
	if (!tr_ledger_balances(&ledger, &text)) {
		fprintf(stderr, "%.*s", (int)text.len, text.data);
		abort();
	}
	NEED(bed->damaged || ledger.accounts[0].dropped[TR_REASON_DAMAGED] == 0);
	tr_buf_free(&text);
	tr_ledger_fini(&ledger);
}

/* --- copies ------------------------------------------------------------------------------------------------- */

struct bed_file {
	char path[160];
	bool is_dir;
	char *bytes; /* malloc'ed */
	size_t len;
};

struct bed_names {
	char name[256][64];
	uint32_t count;
};

static int
add_name(void *arg, const char *name)
{
	struct bed_names *names = arg;

	NEED(names->count < TR_COUNT(names->name));
	snprintf(names->name[names->count++], sizeof names->name[0], "%s", name);
	return 0;
}

/* Calls `visit` for all that is below a directory, a directory before what it holds. */
static void
walk(struct bed *bed, const char *dir, void (*visit)(struct bed *bed, const char *path, bool is_dir))
{
	struct bed_names names = {.count = 0};

	if (tr_file->list(dir, add_name, &names) < 0)
		return; /* there is none */
	for (uint32_t i = 0; i < names.count; i++) {
		char path[160];
		struct stat info;

		if (strcmp(names.name[i], ".") == 0 || strcmp(names.name[i], "..") == 0)
			continue;
		NEED((size_t)snprintf(path, sizeof path, "%s/%s", dir, names.name[i]) < sizeof path);
		NEED(tr_file->stat(path, &info) == 0);
		visit(bed, path, S_ISDIR(info.st_mode));
		if (S_ISDIR(info.st_mode))
			walk(bed, path, visit);
	}
}

static void
save_one(struct bed *bed, const char *path, bool is_dir)
{
	struct bed_file *file;

	bed->saved = realloc(bed->saved, (bed->saved_count + 1) * sizeof *bed->saved);
	NEED(bed->saved != NULL);
	file = &bed->saved[bed->saved_count++];
	*file = (struct bed_file){.is_dir = is_dir};
	memcpy(file->path, path, strlen(path) + 1);
	if (!is_dir)
		NEED(tr_file_slurp(path, &file->bytes, &file->len) == 0);
}

static void
remove_one(struct bed *bed, const char *path, bool is_dir)
{
	NEED(is_dir || tr_file->unlink(path) == 0);
}

static void
forget(struct bed *bed)
{
	for (uint32_t i = 0; i < bed->saved_count; i++)
		free(bed->saved[i].bytes);
	free(bed->saved);
	bed->saved = NULL;
	bed->saved_count = 0;
}

void
bed_save(struct bed *bed)
{
	forget(bed);
	walk(bed, bed->meta, save_one);
	walk(bed, bed->data, save_one);
}

/* What has come since goes, but for empty directories. */
void
bed_restore(struct bed *bed)
{
	walk(bed, bed->meta, remove_one);
	walk(bed, bed->data, remove_one);
	for (uint32_t i = 0; i < bed->saved_count; i++) {
		const struct bed_file *file = &bed->saved[i];
		int fd;

		if (file->is_dir) {
			NEED(tr_file_mkdirs(file->path, 0700) == 0);
			continue;
		}
		fd = tr_file->open(file->path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		NEED(fd >= 0 && tr_file_write_all(fd, file->bytes, file->len, 0) == 0);
		tr_file->close(fd);
	}
}
