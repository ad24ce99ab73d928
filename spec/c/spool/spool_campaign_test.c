/* A campaign of damage. Over spools that the engine has written: flipped bits, zeroed and overwritten ranges, cuts,
 * junk at the end, segments that are missing, swapped, there twice, older than they should be or under a newer name,
 * body files of which the same is true, strange files; several at once, from a seed. Each time: check tells, repair
 * makes a sound spool, a start succeeds, and what is there then is what a reader of its own (recording.c) finds in the
 * bytes that were not hit: nothing else is lost, nothing is invented, the ledger tells the loss, and the next start
 * finds the same.
 *
 *   spool_campaign_test [ROUNDS [SEED]]      default: 120 rounds from seed 1
 */
#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/diag.h"
#include "recording.c"
#include "recording_make.c"
#include "spool/tool.h"

#define ROUNDS_OF_ONE 16 /* rounds over the same recording */

struct sum {
	uint64_t lost, revived, damaged, sound, silent, headless;
};

struct campaign {
	char dir[80];
	uint64_t seed;
	struct random random;
	struct recording *rec;
	struct rec_dir other; /* of the recording before */
	uint64_t rec_seed;
	struct rec_reading truth;
	char log[20000]; /* what the engine said in this round */
	size_t log_len;
	uint32_t errors; /* lines of level ERROR */
	char what[2000]; /* the damage */
	bool unread;     /* it has brought back a segment that the log had given up, which the reader does not know */
	struct sum sum;
};

static uint64_t first_seed = 1, rounds = 120;
static const char *program;

static void
catch_log(void *arg, enum tr_level level, const char *target, const char *text)
{
	struct campaign *campaign = arg;
	int n = snprintf(
		campaign->log + campaign->log_len, sizeof campaign->log - campaign->log_len, "%s: %s\n", target, text);

	campaign->errors += level == TR_LEVEL_ERROR;
	if (n > 0 && (size_t)n < sizeof campaign->log - campaign->log_len)
		campaign->log_len += (size_t)n;
}

#define HOLDS(campaign, condition, ...)                                                                      \
	do {                                                                                                 \
		if (!(condition)) {                                                                          \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                      \
			fprintf(stderr, __VA_ARGS__);                                                        \
			fprintf(stderr, "\nthe damage:\n%sthe log:\n%sagain: %s 1 %llu\n", (campaign)->what, \
				(campaign)->log, program, (unsigned long long)(campaign)->seed);             \
			abort();                                                                             \
		}                                                                                            \
	} while (0)

#include "recording_damage.c"

/* --- what the engine makes of it ---------------------------------------------------------------------------------- */

struct seen {
	uint64_t seq;
	uint32_t slot;
	char queue[64];
};

struct start {
	struct tr_spool *spool;
	struct tr_loop *loop;
	struct seen *seen;
	uint32_t count, cap;
	struct tr_recovery recovery;
	int64_t dropped[ACCOUNTS]; /* damaged */
	char names[ACCOUNTS][64];
};

static void
see(void *arg, const struct tr_recovered *recovered)
{
	struct start *start = arg;

	if (start->count == start->cap) {
		start->cap = start->cap * 2 + 256;
		start->seen = realloc(start->seen, start->cap * sizeof *start->seen);
		NEED(start->seen != NULL);
	}
	start->seen[start->count] =
		(struct seen){.seq = tr_spool_stub(start->spool, recovered->slot)->seq, .slot = recovered->slot};
	snprintf(start->seen[start->count++].queue, sizeof start->seen->queue, "%.*s", (int)recovered->queue.len,
		recovered->queue.len > 0 ? recovered->queue.data : "");
}

static void
open_it(struct campaign *campaign, const char *path, struct start *start)
{
	char meta[120], data[120], *error = NULL;
	struct tr_spool_config config = {.meta_path = meta,
		.data_path = data,
		.segment_bytes = campaign->rec->segment_bytes,
		.loaders = 1,
		.inline_io = true,
		.min_free_space = {.bytes = 1},
		.min_free_inodes = {.bytes = 1}};
	struct tr_ledger ledger;
	struct tr_buf text = {0};
	int err;

	snprintf(meta, sizeof meta, "%.100s/meta", path);
	snprintf(data, sizeof data, "%.100s/data", path);
	*start = (struct start){0};
	NEED(tr_loop_new(&start->loop) == TR_OK);
	tr_loop_enter(start->loop);
	err = tr_spool_open(&config, &start->spool, &error);
	HOLDS(campaign, err == TR_OK, "the start fails: %s", error != NULL ? error : tr_err_text(err));
	err = tr_spool_recover(start->spool, see, start, &start->recovery);
	HOLDS(campaign, err == TR_OK, "the start fails: %s", tr_err_text(err));
	NEED(tr_spool_ledger(start->spool, &ledger) == TR_OK);
	HOLDS(campaign, tr_ledger_balances(&ledger, &text), "the ledger does not balance: %.*s", (int)text.len,
		text.data);
	for (uint32_t i = 0; i < ledger.count && i < ACCOUNTS; i++) {
		start->dropped[i] = ledger.accounts[i].dropped[TR_REASON_DAMAGED];
		memcpy(start->names[i], ledger.accounts[i].name, sizeof start->names[i]);
	}
	tr_ledger_fini(&ledger);
	tr_buf_free(&text);
}

static void
close_it(struct start *start)
{
	tr_spool_close(start->spool);
	tr_loop_free(start->loop);
	free(start->seen);
}

static void
loaded(struct tr_load *load)
{
	*(bool *)load->owner = true;
}

static bool
is_true(void *arg)
{
	return *(bool *)arg;
}

/* Everything can be loaded but what has lost its body. */
static void
load_all(struct campaign *campaign, struct start *start, const struct rec_reading *expected)
{
	uint32_t *slots = calloc(start->count + 1, sizeof *slots);
	struct tr_message **messages = calloc(start->count + 1, sizeof(struct tr_message *));
	int *status = calloc(start->count + 1, sizeof *status);
	bool over = false;
	struct tr_load load = {.loop = start->loop,
		.done = loaded,
		.owner = &over,
		.count = start->count,
		.slots = slots,
		.messages = messages,
		.status = status};

	NEED(slots != NULL && messages != NULL && status != NULL);
	for (uint32_t i = 0; i < start->count; i++)
		slots[i] = start->seen[i].slot;
	if (start->count > 0) {
		tr_spool_load(start->spool, &load);
		NEED(tr_loop_run_until(start->loop, is_true, &over, 60 * TR_NS_PER_S));
	}
	for (uint32_t i = 0; i < start->count; i++) {
		const struct rec_message *message = &expected->messages[start->seen[i].seq];

		HOLDS(campaign, (status[i] == TR_OK) == !message->body_lost, "message %llu: %s, its body is %s",
			(unsigned long long)message->seq, tr_err_text(status[i]),
			message->body_lost ? "lost" : "there");
		HOLDS(campaign, status[i] == TR_OK || status[i] == TR_ECORRUPT, "message %llu: %s",
			(unsigned long long)message->seq, tr_err_text(status[i]));
		tr_message_free(messages[i]);
	}
	free(slots);
	free(messages);
	free(status);
}

/* What is there is what is expected, and nothing else. without_lost: nor what has lost its body. */
static void
compare(struct campaign *campaign, const struct start *start, const struct rec_reading *expected, bool without_lost)
{
	uint32_t live = 0;

	for (uint32_t i = 0; i < expected->count; i++)
		live += expected->messages[i].live && !(without_lost && expected->messages[i].body_lost);
	for (uint32_t i = 0; i < start->count; i++) {
		const struct seen *seen = &start->seen[i];
		const struct rec_message *message;
		const struct tr_stub *stub = tr_spool_stub(start->spool, seen->slot);

		HOLDS(campaign, seen->seq < expected->count && expected->messages[seen->seq].live,
			"message %llu should not be there", (unsigned long long)seen->seq);
		message = &expected->messages[seen->seq];
		HOLDS(campaign,
			strcmp(seen->queue, message->queue) == 0 && stub->account == message->account &&
				tr_stub_due_ms(stub) == message->due_ms &&
				tr_stub_attempts(stub) == message->attempts && tr_stub_flags(stub) == message->flags &&
				stub->units == message->units,
			"message %llu is not what it was", (unsigned long long)seen->seq);
	}
	for (uint32_t i = 0; i < expected->count && start->count < live; i++) {
		bool there = !expected->messages[i].live || (without_lost && expected->messages[i].body_lost);

		for (uint32_t k = 0; k < start->count; k++)
			there = there || start->seen[k].seq == i;
		HOLDS(campaign, there, "message %u of segment %llu is lost", i,
			(unsigned long long)expected->messages[i].segment);
	}
	for (int i = 0; i < ACCOUNTS; i++) {
		HOLDS(campaign, !expected->named[i] || strcmp(start->names[i], account_names[i]) == 0,
			"account %d is called %s", i, start->names[i]);
		HOLDS(campaign, expected->waiting[i] == 0 || start->names[i][0] != '\0', "account %d has no name", i);
	}
	HOLDS(campaign, start->count == live, "%u messages, %u expected", start->count, live);
}

static bool
check(struct campaign *campaign, const char *path)
{
	char meta[120], data[120], *error = NULL;
	struct tr_buf out = {0};
	int err;

	snprintf(meta, sizeof meta, "%.100s/meta", path);
	snprintf(data, sizeof data, "%.100s/data", path);
	err = tr_spool_check(meta, data, false, &out, &error);
	HOLDS(campaign, err == TR_OK || err == TR_ECORRUPT, "check: %s", error != NULL ? error : tr_err_text(err));
	did(campaign, "check of %s: %.*s", path, (int)out.len, out.data);
	tr_buf_free(&out);
	return err == TR_OK;
}

static void
repair(struct campaign *campaign, const char *path, const char *target)
{
	char meta[120], data[120], *error = NULL;
	struct tr_buf out = {0};
	int err;

	snprintf(meta, sizeof meta, "%.100s/meta", path);
	snprintf(data, sizeof data, "%.100s/data", path);
	err = tr_spool_repair(meta, data, target, &out, &error);
	HOLDS(campaign, err == TR_OK, "repair: %s", error != NULL ? error : tr_err_text(err));
	tr_buf_free(&out);
}

static void
expect(struct campaign *campaign, const struct rec_reading *expected, bool sound, const struct start *start)
{
	const struct rec_reading *truth = &campaign->truth;
	uint64_t lost = 0, revived = 0;

	for (uint32_t i = 0; i < truth->count; i++)
		lost += truth->messages[i].live && (i >= expected->count || !expected->messages[i].live);
	for (uint32_t i = 0; i < expected->count; i++)
		revived += expected->messages[i].live && (i >= truth->count || !truth->messages[i].live);
	campaign->sum.lost += lost;
	campaign->sum.revived += revived;
	campaign->sum.damaged += expected->damaged > 0;
	campaign->sum.sound += sound;
	campaign->sum.silent += expected->silent;
	HOLDS(campaign, expected->damaged == 0 || !sound, "check does not see the damage");
	HOLDS(campaign, lost + revived == 0 || expected->damaged > 0 || expected->silent, "the reader knows no reason");
	HOLDS(campaign, expected->damaged == 0 || start->recovery.damaged_frames > 0 || !sound,
		"no damage was counted");
	HOLDS(campaign, campaign->what[0] != '\0' || sound, "damage where there is none");
	if (!expected->ledger_sound)
		return;
	for (int i = 0; i < ACCOUNTS; i++)
		HOLDS(campaign, start->dropped[i] == truth->waiting[i] - expected->waiting[i],
			"%s: %lld dropped, %lld were lost", account_names[i], (long long)start->dropped[i],
			(long long)(truth->waiting[i] - expected->waiting[i]));
}

static int
remove_entry(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st, (void)type, (void)at;
	return remove(path);
}

static void
clean(const char *path)
{
	nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS); /* there may be nothing */
}

static void
make_recording(struct campaign *campaign, const char *path, uint64_t seed)
{
	if (campaign->rec != NULL)
		rec_reading_fini(&campaign->truth);
	if (campaign->rec == NULL || campaign->rec_seed + 1 != seed) {
		clean(path);
		if (campaign->rec != NULL)
			rec_fini(campaign->rec);
		campaign->rec = rec_make(path, (seed - 1) * 7919 + 1);
	}
	rec_dir_fini(&campaign->other);
	rec_dir_copy(&campaign->other, &campaign->rec->dir);
	rec_fini(campaign->rec);
	clean(path);
	campaign->rec_seed = seed;
	campaign->rec = rec_make(path, seed * 7919 + 1);
	rec_read(campaign->rec, &campaign->rec->dir, &campaign->truth);
	HOLDS(campaign, campaign->truth.damaged == 0 && !campaign->truth.silent,
		"the reader finds damage in what is whole");
}

static void
round_of(struct campaign *campaign, uint64_t seed)
{
	struct rec_dir *dir = calloc(1, sizeof *dir);
	struct rec_reading expected;
	struct start start, again;
	char path[100], target[100];
	bool sound;

	NEED(dir != NULL);
	snprintf(path, sizeof path, "%s/spool", campaign->dir);
	snprintf(target, sizeof target, "%s/clean", campaign->dir);
	campaign->seed = seed;
	campaign->log_len = campaign->errors = 0;
	campaign->log[0] = campaign->what[0] = '\0';
	campaign->unread = false;
	if (campaign->rec == NULL || campaign->rec_seed != seed / ROUNDS_OF_ONE)
		make_recording(campaign, path, seed / ROUNDS_OF_ONE);
	campaign->random.state = seed * 1000003;
	rec_dir_copy(dir, &campaign->rec->dir);
	damage(campaign, dir);
	rec_read(campaign->rec, dir, &expected);
	if (campaign->unread && expected.silent) { /* whoever told that it was given up may be gone, too */
		rec_reading_fini(&expected);
		rec_dir_fini(dir);
		free(dir);
		return;
	}
	clean(path);
	clean(target);
	rec_dir_save(dir, path);

	sound = check(campaign, path);
	repair(campaign, path, target);
	open_it(campaign, path, &start);
	compare(campaign, &start, &expected, false);
	expect(campaign, &expected, sound, &start);
	load_all(campaign, &start, &expected);
	close_it(&start);
	open_it(campaign, path, &again);
	compare(campaign, &again, &expected, false);
	for (int i = 0; i < ACCOUNTS; i++)
		HOLDS(campaign, again.dropped[i] == start.dropped[i], "%s: %lld dropped, after the next start %lld",
			account_names[i], (long long)start.dropped[i], (long long)again.dropped[i]);
	close_it(&again);

	HOLDS(campaign, check(campaign, target), "the repaired spool is not sound");
	open_it(campaign, target, &again);
	compare(campaign, &again, &expected, true);
	HOLDS(campaign, again.recovery.damaged_frames == 0, "damage in a repaired spool");
	load_all(campaign, &again, &expected);
	close_it(&again);
	rec_reading_fini(&expected);
	rec_dir_fini(dir);
	free(dir);
}

static int
no_sync(int fd)
{
	(void)fd;
	return 0;
}

static int
no_sync_dir(const char *path)
{
	(void)path;
	return 0;
}

static int
no_blocks(int fd, off_t len)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	return st.st_size < len && ftruncate(fd, len) < 0 ? -errno : 0;
}

static void
any_damage(void **state)
{
	static struct tr_file_ops ops;
	static struct campaign campaign;
	const char *tmp = getenv("TMPDIR");

	(void)state;
	ops = tr_file_real;
	ops.fdatasync = no_sync;
	ops.sync_dir = no_sync_dir;
	ops.allocate = no_blocks; /* the real one writes past the page cache */
	tr_file = &ops;
	snprintf(campaign.dir, sizeof campaign.dir, "%.40s/campaign-XXXXXX", tmp != NULL ? tmp : "/tmp");
	NEED(mkdtemp(campaign.dir) != NULL);
	tr_log_sink(catch_log, &campaign);
	for (uint64_t i = 0; i < rounds; i++) {
		round_of(&campaign, first_seed + i);
		if (rounds >= 1000 && (i + 1) % (rounds / 10) == 0)
			printf("%llu rounds\n", (unsigned long long)i + 1), fflush(stdout);
	}
	tr_log_sink(NULL, NULL);
	printf("%llu rounds from seed %llu: %llu found damaged, %llu sound; %llu with a log that ends early; %llu "
	       "messages lost, %llu back\n",
		(unsigned long long)rounds, (unsigned long long)first_seed, (unsigned long long)campaign.sum.damaged,
		(unsigned long long)campaign.sum.sound, (unsigned long long)campaign.sum.silent,
		(unsigned long long)campaign.sum.lost, (unsigned long long)campaign.sum.revived);
	rec_reading_fini(&campaign.truth);
	rec_fini(campaign.rec);
	rec_dir_fini(&campaign.other);
	clean(campaign.dir);
	tr_file = &tr_file_real;
}

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(any_damage)};

	program = argv[0];
	if (argc > 1)
		rounds = strtoull(argv[1], NULL, 10);
	if (argc > 2)
		first_seed = strtoull(argv[2], NULL, 10);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
