/* Included by spool_campaign_test.c, see recording.h: a random life of a spool: mail, records of two hooks, retries,
 * dead letters, bodies of their own file, filters, restarts. */
#include "recording.h"

#include <stdlib.h>

struct alive {
	uint32_t slot;
	uint16_t account;
	int64_t units;
};

struct maker {
	struct tr_spool_config config;
	struct tr_spool *spool;
	struct tr_loop *loop;
	struct random random;
	struct alive *alive;
	uint32_t count, cap, under_way;
	uint16_t accounts[ACCOUNTS];
};

struct making {
	struct tr_change change;
	struct maker *maker;
	struct tr_message *messages[40];
	uint32_t count, made; /* made: of them new */
};

static void
add_alive(struct maker *maker, uint32_t slot, uint16_t account, int64_t units)
{
	if (maker->count == maker->cap) {
		maker->cap = maker->cap * 2 + 256;
		maker->alive = realloc(maker->alive, maker->cap * sizeof *maker->alive);
		NEED(maker->alive != NULL);
	}
	maker->alive[maker->count++] = (struct alive){slot, account, units};
}

static void
made(struct tr_change *change, int status)
{
	struct making *making = tr_container_of(change, struct making, change);

	NEED(status == TR_OK);
	for (uint32_t i = 0; i < making->count; i++)
		tr_message_free(making->messages[i]);
	making->maker->under_way--;
	free(making);
}

static bool
all_made(void *arg)
{
	return ((struct maker *)arg)->under_way == 0;
}

static struct making *
begin(struct maker *maker)
{
	struct making *making = calloc(1, sizeof *making);

	NEED(making != NULL);
	making->maker = maker;
	tr_change_init(&making->change, maker->spool, maker->loop, made, NULL);
	return making;
}

static void
end(struct making *making)
{
	making->maker->under_way++;
	tr_spool_submit(&making->change);
}

static void
put(struct making *making, uint16_t account, enum tr_column column, uint64_t body_file, bool undecided)
{
	struct maker *maker = making->maker;
	struct tr_message *message = tr_message_new();
	char body[1500], queue[32] = "";
	size_t len = 20 + rec_random(&maker->random, rec_random(&maker->random, 4) == 0 ? 800 : 200);
	int64_t units = account == 0 ? 1 + (int64_t)rec_random(&maker->random, 3) : 1;

	NEED(message != NULL && making->count < TR_COUNT(making->messages));
	for (size_t i = 0; i < len; i++)
		body[i] = (char)('a' + rec_random(&maker->random, 26));
	NEED(tr_message_set_sender(message, TR_STR("a@example.com")) == TR_OK);
	NEED(tr_message_add_rcpt(message, TR_STR("b@example.org")) == TR_OK);
	if (body_file == 0)
		NEED(tr_message_set_data(message, (struct tr_str){body, len}) == TR_OK);
	message->body_file = body_file;
	message->account = maker->accounts[account];
	message->due_ms = 1700000000000 + (int64_t)rec_random(&maker->random, 1000000);
	message->flags = (uint16_t)((account > 0 ? TR_MSG_LOG_RECORD : 0) | (undecided ? TR_MSG_UNDECIDED : 0));
	if (!undecided)
		snprintf(queue, sizeof queue, "queue-%u", (unsigned)rec_random(&maker->random, 5));
	NEED(tr_change_put(&making->change, message, tr_str(queue), column, units) == TR_OK);
	making->messages[making->count++] = message;
	add_alive(maker, message->slot, account, units);
}

static void
records(struct making *making)
{
	struct maker *maker = making->maker;

	for (uint16_t hook = 1; hook <= 2; hook++) {
		NEED(tr_change_count(&making->change, maker->accounts[hook], TR_COL_OFFERED, TR_REASON_NONE, 1) ==
			TR_OK);
		if (rec_random(&maker->random, 5) == 0)
			NEED(tr_change_count(&making->change, maker->accounts[hook], TR_COL_FILTERED, TR_REASON_POLICY,
				     1) == TR_OK);
		else
			put(making, hook, TR_COL_ACCEPTED, 0, rec_random(&maker->random, 10) == 0);
	}
}

/* A mail to many, with the records of all: larger than a segment. */
static void
put_many(struct maker *maker)
{
	struct making *making = begin(maker);
	uint64_t count = 4 + rec_random(&maker->random, 8);

	for (uint64_t i = 0; i < count; i++) {
		put(making, 0, TR_COL_ACCEPTED, 0, false);
		records(making);
	}
	end(making);
}

static void
body_done(void *arg, int status, uint64_t id)
{
	NEED(status == TR_OK);
	*(uint64_t *)arg = id;
}

static bool
has_id(void *arg)
{
	return *(uint64_t *)arg != 0;
}

static uint64_t
write_a_body(struct maker *maker)
{
	struct tr_body_file *file;
	uint64_t id = 0;

	NEED(tr_body_file_new(maker->spool, &file) == TR_OK);
	for (uint64_t i = 0, parts = 1 + rec_random(&maker->random, 40); i < parts; i++)
		NEED(tr_body_file_add(file, "the quick brown fox jumps over it all\r\n", 39) == TR_OK);
	tr_body_file_finish(file, maker->loop, body_done, &id);
	NEED(tr_loop_run_until(maker->loop, has_id, &id, 60 * TR_NS_PER_S));
	return id;
}

static void
finish_one(struct maker *maker)
{
	uint32_t index = (uint32_t)rec_random(&maker->random, maker->count);
	struct alive one = maker->alive[index];
	struct making *making = begin(maker);
	bool dead = one.account == 1 && rec_random(&maker->random, 6) == 0;
	static const enum tr_column columns[] = {TR_COL_DELIVERED, TR_COL_DELIVERED, TR_COL_DELIVERED, TR_COL_EXPIRED};
	enum tr_column column = dead ? TR_COL_DEAD : columns[rec_random(&maker->random, 4)];

	if (one.account == 3 || (one.account == 0 && column == TR_COL_EXPIRED))
		column = one.account == 3 ? TR_COL_MOVED_OUT : TR_COL_BOUNCED;
	maker->alive[index] = maker->alive[--maker->count];
	NEED(tr_change_done(&making->change, one.slot, column, TR_REASON_NONE, one.units) == TR_OK);
	if (dead)
		put(making, 3, TR_COL_MOVED_IN, 0, false);
	else if (one.account == 0)
		records(making);
	end(making);
}

static void
retry_one(struct maker *maker)
{
	struct alive *one = &maker->alive[rec_random(&maker->random, maker->count)];
	struct tr_stub *stub = tr_spool_stub(maker->spool, one->slot);
	struct making *making = begin(maker);

	NEED(tr_change_state(&making->change, one->slot, tr_stub_due_ms(stub) + 1000,
		     (uint16_t)(tr_stub_attempts(stub) + 1), tr_stub_flags(stub)) == TR_OK);
	end(making);
}

static void
step(struct maker *maker)
{
	uint64_t dice = rec_random(&maker->random, 100);

	if (dice == 99) {
		put_many(maker);
	} else if (maker->count == 0 || dice < 25) {
		uint64_t body = rec_random(&maker->random, 8) == 0 ? write_a_body(maker) : 0;
		struct making *making = begin(maker);

		put(making, 0, TR_COL_ACCEPTED, body, false);
		records(making);
		end(making);
	} else if (dice < 45) {
		retry_one(maker);
	} else {
		finish_one(maker);
	}
	if (rec_random(&maker->random, 3) > 0)
		NEED(tr_loop_run_until(maker->loop, all_made, maker, 60 * TR_NS_PER_S));
}

static void
found_again(void *arg, const struct tr_recovered *recovered)
{
	struct maker *maker = arg;
	const struct tr_stub *stub = tr_spool_stub(maker->spool, recovered->slot);

	for (uint16_t i = 0; i < ACCOUNTS; i++)
		if (maker->accounts[i] == stub->account)
			add_alive(maker, recovered->slot, i, stub->units);
}

static void
open_again(struct maker *maker)
{
	char *error = NULL;

	NEED(tr_spool_open(&maker->config, &maker->spool, &error) == TR_OK);
	maker->count = 0;
	NEED(tr_spool_recover(maker->spool, found_again, maker, NULL) == TR_OK);
	for (int i = 0; i < ACCOUNTS; i++)
		NEED(tr_spool_account(maker->spool, account_names[i], &maker->accounts[i]) == TR_OK);
}

/* No change is under way, but segments may be copied forward and filled: when that is over, a kill leaves just this. */
static void
load_at_rest(struct rec_dir *dir, const char *path)
{
	struct rec_dir *again = calloc(1, sizeof *again);
	bool rests = false;

	NEED(again != NULL);
	rec_dir_load(dir, path);
	while (!rests) {
		rec_dir_load(again, path);
		rests = again->count == dir->count;
		for (uint32_t i = 0; i < dir->count && rests; i++) {
			const struct rec_file *file = rec_dir_find(again, dir->files[i].data, dir->files[i].name);

			rests = file != NULL && file->len == dir->files[i].len &&
				memcmp(file->bytes, dir->files[i].bytes, file->len) == 0;
		}
		rec_dir_fini(dir);
		*dir = *again;
	}
	free(again);
}

struct recording *
rec_make(const char *path, uint64_t seed)
{
	struct recording *rec = calloc(1, sizeof *rec);
	struct maker maker = {.random = {seed}};
	char meta[120], data[120];
	uint32_t steps;
	bool killed = rec_random(&maker.random, 3) == 0;

	NEED(rec != NULL);
	rec->segment_bytes = UINT64_C(4096) << rec_random(&maker.random, 3);
	snprintf(meta, sizeof meta, "%.100s/meta", path);
	snprintf(data, sizeof data, "%.100s/data", path);
	maker.config = (struct tr_spool_config){.meta_path = meta,
		.data_path = data,
		.segment_bytes = rec->segment_bytes,
		.floor_bytes = 2 * rec->segment_bytes,
		.pace_ns = 1000,
		.urgent_gap_ns = 1,
		.loaders = 1,
		.inline_io = true,
		.min_free_space = {.bytes = 1},
		.min_free_inodes = {.bytes = 1}};
	NEED(tr_loop_new(&maker.loop) == TR_OK);
	tr_loop_enter(maker.loop);
	for (uint16_t i = 0; i < ACCOUNTS; i++)
		maker.accounts[i] = i;
	open_again(&maker);
	steps = 150 + (uint32_t)rec_random(&maker.random, 250);
	for (uint32_t i = 0; i < steps; i++) {
		step(&maker);
		if (rec_random(&maker.random, 100) == 0 || i == steps / 2) {
			NEED(tr_loop_run_until(maker.loop, all_made, &maker, 60 * TR_NS_PER_S));
			tr_spool_close(maker.spool);
			if (i == steps / 2)
				rec_dir_load(&rec->older, path);
			open_again(&maker);
		}
	}
	NEED(tr_loop_run_until(maker.loop, all_made, &maker, 60 * TR_NS_PER_S));
	if (killed)
		load_at_rest(&rec->dir, path);
	tr_spool_close(maker.spool);
	if (!killed)
		rec_dir_load(&rec->dir, path);
	tr_loop_free(maker.loop);
	free(maker.alive);
	read_segments(rec);
	return rec;
}
