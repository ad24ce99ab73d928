/* A dead letter that becomes a record again where it lies: over restarts, copied forward, refused, killed, repaired. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "bed.c"
#include "disk.h"
#include "spool/tool.h"

#define LETTERS 200
#define NEW_MS INT64_C(1900000000123)

struct letter {
	uint8_t id[16];
	uint32_t slot;
	uint64_t seq;
	bool moved;
};

struct fix {
	struct bed bed;
	struct letter letters[LETTERS];
	uint32_t count, found;
	uint16_t hook, dead;
	struct tr_change change;
	int status;
	bool over;
};

static void
each_letter(void *arg, const struct tr_recovered *recovered)
{
	struct fix *fix = arg;
	uint64_t seq = tr_spool_stub(fix->bed.spool, recovered->slot)->seq;

	for (uint32_t i = 0; i < fix->count; i++) {
		if (fix->letters[i].seq != seq)
			continue;
		fix->letters[i].slot = recovered->slot;
		fix->found++;
		assert_true(tr_str_eq(recovered->queue, TR_STR("h.log_hook")));
	}
}

static void
open_spool(struct fix *fix)
{
	struct bed *bed = &fix->bed;

	fix->found = 0;
	assert_int_equal(tr_spool_open(&bed->config, &bed->spool, NULL), TR_OK);
	assert_int_equal(tr_spool_recover(bed->spool, each_letter, fix, &bed->recovery), TR_OK);
	assert_int_equal(bed->recovery.damaged_frames, 0);
	assert_int_equal(fix->found, fix->count);
	assert_int_equal(tr_spool_account(bed->spool, "h", &fix->hook), TR_OK);
	assert_int_equal(tr_spool_account(bed->spool, "dead:h", &fix->dead), TR_OK);
}

static void
answer(struct tr_change *change, int status)
{
	struct fix *fix = change->owner;

	fix->status = status;
	fix->over = true;
}

static bool
is_over(void *arg)
{
	return ((struct fix *)arg)->over;
}

static void
begin(struct fix *fix)
{
	fix->over = false;
	tr_change_init(&fix->change, fix->bed.spool, fix->bed.loop, answer, fix);
}

static int
commit(struct fix *fix)
{
	tr_spool_submit(&fix->change);
	assert_true(tr_loop_run_until(fix->bed.loop, is_over, fix, 60 * TR_NS_PER_S));
	return fix->status;
}

/* Letters that expired by a date of their own. */
static void
put_letters(struct fix *fix, uint32_t count)
{
	begin(fix);
	for (uint32_t i = 0; i < count; i++) {
		struct tr_message *message = tr_message_new();
		struct letter *letter = &fix->letters[fix->count++];

		assert_int_equal(tr_message_set_data(message, TR_STR("{\"event_id\":\"x\"}")), TR_OK);
		assert_int_equal(tr_meta_set_string(&message->meta, TR_STR("tenant"), TR_STR("t")), TR_OK);
		assert_int_equal(tr_meta_set(&message->meta, TR_STR("dead_letter"), TR_STR("{}")), TR_OK);
		message->schedule = calloc(1, sizeof *message->schedule);
		message->schedule->expires_ms = 1700000000000;
		message->flags |= TR_MSG_LOG_RECORD | TR_MSG_DEAD;
		message->account = fix->dead;
		message->attempts = 7;
		assert_int_equal(tr_change_put(&fix->change, message, TR_STR("h.log_hook"), TR_COL_ACCEPTED,
					 1 + (int)(letter - fix->letters) % 3),
			TR_OK);
		memcpy(letter->id, message->id, 16);
		letter->slot = message->slot;
		letter->seq = message->seq;
		tr_message_free(message);
	}
	assert_int_equal(commit(fix), TR_OK);
}

static void
setup(struct fix *fix, uint64_t segment_bytes, uint32_t count)
{
	memset(fix, 0, sizeof *fix);
	bed_init(&fix->bed, segment_bytes);
	open_spool(fix);
	if (count > 0)
		put_letters(fix, count);
}

static int
move(struct fix *fix, uint32_t first, uint32_t count)
{
	int err;

	begin(fix);
	fix->change.intake = true;
	for (uint32_t i = first; i < first + count; i++)
		assert_int_equal(tr_change_move(&fix->change, fix->letters[i].slot, fix->hook, NEW_MS + i, 5,
					 TR_MSG_LOG_RECORD | TR_MSG_RENEWED),
			TR_OK);
	err = commit(fix);
	for (uint32_t i = first; i < first + count; i++)
		fix->letters[i].moved = err == TR_OK;
	return err;
}

static struct tr_message *
load(struct fix *fix, uint32_t i)
{
	struct tr_message *message;

	assert_int_equal(bed_load(&fix->bed, fix->letters[i].slot, &message), TR_OK);
	return message;
}

/* Each is what it must be, and the ledger knows. */
static void
check_all(struct fix *fix)
{
	struct tr_ledger ledger;
	int64_t moved = 0, stays = 0;

	for (uint32_t i = 0; i < fix->count; i++) {
		const struct letter *letter = &fix->letters[i];
		struct tr_message *message = load(fix, i);
		struct tr_buf tenant = {0};
		int units = 1 + (int)i % 3;

		*(letter->moved ? &moved : &stays) += units;
		assert_int_equal(message->account, letter->moved ? fix->hook : fix->dead);
		assert_int_equal(message->attempts, letter->moved ? 0 : 7);
		assert_int_equal((message->flags & TR_MSG_DEAD) != 0, !letter->moved);
		assert_int_equal(message->schedule->expires_ms == 0, letter->moved);
		assert_int_equal(tr_meta_get(&message->meta, TR_STR("dead_letter")).data == NULL, letter->moved);
		assert_int_equal(tr_meta_get_string(&message->meta, TR_STR("tenant"), &tenant), TR_OK);
		assert_true(tr_str_eq((struct tr_str){tenant.data, tenant.len}, TR_STR("t")));
		tr_buf_free(&tenant);
		assert_int_equal(memcmp(message->id, letter->id, 16) == 0, !letter->moved);
		assert_true(message->created_ns == tr_uuid1_wall_ns(message->id));
		if (letter->moved) {
			uint8_t id[16];

			assert_int_equal(message->created_ns / TR_NS_PER_MS, NEW_MS + i);
			assert_int_equal(message->due_ms, 5);
			assert_int_equal(tr_stub_created_ms(tr_spool_stub(fix->bed.spool, letter->slot)), NEW_MS + i);
			memcpy(id, letter->id, 16);
			tr_uuid1_renew(id, NEW_MS + i);
			assert_memory_equal(message->id, id, 16); /* the same each time that it is read */
		}
		tr_message_free(message);
	}
	assert_int_equal(tr_spool_ledger(fix->bed.spool, &ledger), TR_OK);
	assert_int_equal(ledger.accounts[fix->dead].waiting, stays);
	assert_int_equal(ledger.accounts[fix->dead].columns[TR_COL_MOVED_OUT], moved);
	assert_int_equal(ledger.accounts[fix->hook].columns[TR_COL_MOVED_IN], moved);
	assert_int_equal(ledger.accounts[fix->hook].waiting, moved);
	for (uint32_t i = 0; i < ledger.count; i++)
		assert_int_equal(tr_account_expected(&ledger.accounts[i]), ledger.accounts[i].waiting);
	tr_ledger_fini(&ledger);
}

static void
reopen(struct fix *fix)
{
	tr_spool_close(fix->bed.spool);
	open_spool(fix);
	check_all(fix);
}

static void
teardown(struct fix *fix)
{
	tr_spool_close(fix->bed.spool);
	fix->bed.spool = NULL;
	bed_fini(&fix->bed);
}

static void
a_moved_letter_is_a_new_record(void **state)
{
	struct fix fix;
	struct tr_message *message;
	uint64_t bytes;
	struct tr_spool_figures figures;

	setup(&fix, 65536, 30);
	check_all(&fix);
	tr_spool_figures(fix.bed.spool, &figures);
	bytes = figures.live_bytes;
	assert_int_equal(move(&fix, 10, 10), TR_OK);
	check_all(&fix);
	tr_spool_figures(fix.bed.spool, &figures);
	assert_int_equal(figures.live_bytes, bytes); /* nothing was written again */
	reopen(&fix);
	reopen(&fix);
	/* what is stored of it anew is the record */
	message = load(&fix, 10);
	assert_true(message->flags & TR_MSG_RENEWED);
	message->schedule->expires_ms = 42;
	begin(&fix);
	assert_int_equal(tr_change_put(&fix.change, message, TR_STR("h.log_hook"), TR_COL_NONE, 1 + 10 % 3), TR_OK);
	assert_int_equal(message->flags, TR_MSG_LOG_RECORD);
	assert_int_equal(commit(&fix), TR_OK);
	tr_message_free(message);
	message = load(&fix, 10);
	assert_int_equal(message->flags, TR_MSG_LOG_RECORD);
	assert_int_equal(message->schedule->expires_ms, 42);
	assert_null(tr_meta_get(&message->meta, TR_STR("dead_letter")).data);
	tr_message_free(message);
	teardown(&fix);
}

/* The frames are copied while letters become records; some before, some after. */
static void
it_may_be_copied_forward(void **state)
{
	struct fix fix;

	setup(&fix, 16384, 0);
	fix.bed.config.floor_bytes = 16384;
	reopen(&fix);
	for (int i = 0; i < 4; i++)
		put_letters(&fix, 10); /* a change is at most half a segment */
	for (uint32_t round = 0; round < 8; round++) {
		struct tr_spool_figures figures;

		for (int i = 0; i < 40; i++) { /* others come and go: the letters are what the oldest segments hold */
			struct tr_message *message = tr_message_new();

			assert_int_equal(tr_message_set_data(message, TR_STR("other")), TR_OK);
			begin(&fix);
			assert_int_equal(
				tr_change_put(&fix.change, message, TR_STR("other"), TR_COL_ACCEPTED, 1), TR_OK);
			assert_int_equal(commit(&fix), TR_OK);
			begin(&fix);
			assert_int_equal(
				tr_change_done(&fix.change, message->slot, TR_COL_DELIVERED, TR_REASON_NONE, 1), TR_OK);
			assert_int_equal(commit(&fix), TR_OK);
			tr_message_free(message);
		}
		assert_int_equal(move(&fix, round * 5, 5), TR_OK);
		tr_spool_figures(fix.bed.spool, &figures);
		assert_true(round < 2 || figures.copied_bytes > 0);
		check_all(&fix);
		reopen(&fix);
	}
	teardown(&fix);
}

/* On a disk that fails on demand. */
static void
setup_on_disk(struct fix *fix, uint32_t count)
{
	memset(fix, 0, sizeof *fix);
	bed_init(&fix->bed, 65536);
	disk_install(1);
	strcpy(fix->bed.meta, "/sim/meta");
	strcpy(fix->bed.data, "/sim/data");
	open_spool(fix);
	put_letters(fix, count);
}

static void
teardown_disk(struct fix *fix)
{
	teardown(fix);
	disk_uninstall();
}

static void
one_that_is_refused_stays_a_letter(void **state)
{
	struct fix fix;

	setup_on_disk(&fix, 20);
	assert_int_equal(move(&fix, 0, 5), TR_OK);
	disk_fail_nth(DISK_WRITE, 1, EIO, false);
	assert_int_equal(move(&fix, 5, 15), TR_EIO);
	check_all(&fix);
	disk_heal();
	assert_int_equal(move(&fix, 5, 5), TR_OK);
	reopen(&fix);
	teardown_disk(&fix);
}

/* The power goes at each operation: all of a change's letters have become records, or none. */
static void
a_power_cut_leaves_all_or_none(void **state)
{
	uint64_t calls = 0;

	for (uint64_t nth = 0; nth <= calls; nth++) { /* 0: nothing fails, which tells how many there are */
		struct fix fix;
		struct tr_message *message;

		setup_on_disk(&fix, 20);
		disk_calls_clear();
		if (nth > 0)
			disk_fail_nth(DISK_CHANGES, nth, EIO, true);
		(void)move(&fix, 0, 10);
		if (nth == 0)
			calls = disk_calls(DISK_CHANGES);
		assert_in_range(calls, 2, 100);
		disk_cut(nth);
		tr_spool_close(fix.bed.spool);
		disk_revive();
		open_spool(&fix);
		message = load(&fix, 0);
		for (uint32_t i = 0; i < 10; i++)
			fix.letters[i].moved = message->account == fix.hook;
		tr_message_free(message);
		check_all(&fix);
		assert_true(nth > 0 || fix.letters[0].moved);
		teardown_disk(&fix);
	}
}

static void
without_flush_it_is_seen_at_once(void **state)
{
	struct fix fix;

	setup(&fix, 65536, 0);
	fix.bed.config.no_flush = true;
	reopen(&fix);
	put_letters(&fix, 20);
	assert_int_equal(move(&fix, 0, 10), TR_OK);
	for (uint32_t i = 0; i < 20; i++)
		assert_int_equal(tr_stub_account(tr_spool_stub(fix.bed.spool, fix.letters[i].slot)),
			i < 10 ? fix.hook : fix.dead);
	reopen(&fix);
	teardown(&fix);
}

static void
a_repair_keeps_it(void **state)
{
	struct fix fix;
	struct tr_buf out = {0};
	char *error = NULL;

	setup(&fix, 65536, 20);
	assert_int_equal(move(&fix, 3, 9), TR_OK);
	tr_spool_close(fix.bed.spool);
	assert_int_equal(tr_spool_repair(fix.bed.meta, fix.bed.data, NULL, &out, &error), TR_OK);
	tr_buf_free(&out);
	open_spool(&fix);
	check_all(&fix);
	teardown(&fix);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_moved_letter_is_a_new_record),
		cmocka_unit_test(it_may_be_copied_forward),
		cmocka_unit_test(one_that_is_refused_stays_a_letter),
		cmocka_unit_test(a_power_cut_leaves_all_or_none),
		cmocka_unit_test(without_flush_it_is_seen_at_once),
		cmocka_unit_test(a_repair_keeps_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
