/* The spool's everyday life: put, load, state, done, recover; outbox; body files; locks. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include "bed.c"

static void
round_trip(void **state)
{
	struct bed bed;
	uint32_t index[20];

	bed_init(&bed, 65536);
	bed_open(&bed);
	for (int i = 0; i < 20; i++)
		index[i] = bed_put(&bed, (size_t)i * 400, true, i + 1);
	bed_wait(&bed);
	assert_int_equal(bed.ok, 20);
	bed_check(&bed);
	bed_done(&bed, index[3], TR_COL_DELIVERED);
	bed_done(&bed, index[19], TR_COL_BOUNCED);
	bed_state(&bed, index[5], 1800000000123, 7);
	bed_outbox(&bed, index[6], 3);
	bed_wait(&bed);
	bed_check(&bed);
	for (int i = 0; i < 3; i++) { /* a restart changes nothing */
		bed_close(&bed);
		bed_open(&bed);
		assert_int_equal(bed.recovery.messages, 20);
		assert_int_equal(bed.recovery.damaged_frames, 0);
		assert_int_equal(bed.recovery.torn_bytes, 0);
		bed_check(&bed);
	}
	bed_fini(&bed);
}

/* --- one change, and what becomes of it ------------------------------------------------------------------- */

struct one {
	struct tr_change change;
	int status;
	bool done;
};

static void
one_done(struct tr_change *change, int status)
{
	struct one *one = tr_container_of(change, struct one, change);

	one->status = status;
	one->done = true;
}

static bool
one_over(void *arg)
{
	return ((struct one *)arg)->done;
}

static void
one_init(struct bed *bed, struct one *one)
{
	memset(one, 0, sizeof *one);
	tr_change_init(&one->change, bed->spool, bed->loop, one_done, NULL);
}

static int
one_run(struct bed *bed, struct one *one)
{
	tr_spool_submit(&one->change);
	assert_true(tr_loop_run_until(bed->loop, one_over, one, 60 * TR_NS_PER_S));
	return one->status;
}

static struct tr_message *
message_new(const char *body)
{
	struct tr_message *message = tr_message_new();

	assert_non_null(message);
	assert_int_equal(tr_message_add_rcpt(message, TR_STR("b@example.org")), TR_OK);
	assert_int_equal(tr_message_set_data(message, tr_str(body)), TR_OK);
	return message;
}

static struct tr_account
account_of(struct bed *bed, uint16_t index)
{
	struct tr_ledger ledger;
	struct tr_account account;

	assert_int_equal(tr_spool_ledger(bed->spool, &ledger), TR_OK);
	assert_true(index < ledger.count);
	account = ledger.accounts[index];
	tr_ledger_fini(&ledger);
	return account;
}

static void
a_stored_message_is_replaced(void **state)
{
	struct tr_message *message = message_new("first"), *back;
	struct bed bed;
	struct one one;

	bed_init(&bed, 65536);
	bed_open(&bed);
	one_init(&bed, &one);
	assert_int_equal(tr_change_put(&one.change, message, TR_STR("q"), TR_COL_ACCEPTED, 100000), TR_OK);
	assert_int_equal(one_run(&bed, &one), TR_OK);
	assert_int_equal(tr_spool_stub(bed.spool, message->slot)->units, UINT16_MAX);
	assert_int_equal(account_of(&bed, 0).waiting, 100000);
	/* one recipient was delivered, the others stay */
	assert_int_equal(tr_message_set_data(message, TR_STR("second")), TR_OK);
	one_init(&bed, &one);
	assert_int_equal(tr_change_put(&one.change, message, TR_STR("r"), TR_COL_NONE, 99999), TR_OK);
	assert_int_equal(tr_change_count(&one.change, 0, TR_COL_DELIVERED, TR_REASON_NONE, 1), TR_OK);
	assert_int_equal(one_run(&bed, &one), TR_OK);
	assert_int_equal(account_of(&bed, 0).waiting, 99999);
	assert_int_equal(bed_load(&bed, message->slot, &back), TR_OK);
	assert_true(tr_str_eq(tr_bytes_str(&back->body), TR_STR("second")));
	assert_string_equal(back->queue, "r");
	tr_message_free(back);
	one_init(&bed, &one);
	assert_int_equal(tr_change_done(&one.change, message->slot, TR_COL_BOUNCED, TR_REASON_NONE, 99999), TR_OK);
	assert_int_equal(one_run(&bed, &one), TR_OK);
	assert_int_equal(account_of(&bed, 0).waiting, 0);
	assert_int_equal(account_of(&bed, 0).columns[TR_COL_BOUNCED], 99999);
	tr_message_free(message);
	bed_fini(&bed);
}

static void
accounts_keep_their_names(void **state)
{
	struct tr_message *message = message_new("x");
	struct bed bed;
	struct one one;
	uint16_t hook, again;
	char name[64];

	bed_init(&bed, 65536);
	bed_open(&bed);
	bed_put(&bed, 10, true, 1); /* the segment has begun, so the name is a frame of its own */
	bed_wait(&bed);
	assert_int_equal(tr_spool_account(bed.spool, "webhook", &hook), TR_OK);
	assert_int_equal(hook, 1);
	message->account = hook;
	one_init(&bed, &one);
	assert_int_equal(tr_change_put(&one.change, message, TR_STR("q"), TR_COL_ACCEPTED, 1), TR_OK);
	assert_int_equal(tr_change_count(&one.change, hook, TR_COL_OFFERED, TR_REASON_NONE, 3), TR_OK);
	assert_int_equal(tr_change_count(&one.change, hook, TR_COL_FILTERED, TR_REASON_POLICY, 2), TR_OK);
	assert_int_equal(one_run(&bed, &one), TR_OK);
	bed_save(&bed);
	tr_message_free(message);
	bed_close(&bed);
	for (int i = 0; i < 2; i++) { /* after a stop, and after a kill */
		struct tr_spool *spool;
		struct tr_ledger ledger;
		struct tr_buf text = {0};

		assert_int_equal(tr_spool_open(&bed.config, &spool, NULL), TR_OK);
		assert_int_equal(tr_spool_recover(spool, NULL, NULL, NULL), TR_OK);
		assert_int_equal(tr_spool_account(spool, "webhook", &again), TR_OK);
		assert_int_equal(again, 1);
		assert_true(tr_spool_account_name(spool, again, name));
		assert_string_equal(name, "webhook");
		assert_false(tr_spool_account_name(spool, 2, name));
		assert_int_equal(tr_spool_ledger(spool, &ledger), TR_OK);
		assert_true(tr_ledger_balances(&ledger, &text));
		assert_int_equal(ledger.accounts[1].columns[TR_COL_OFFERED], 3);
		assert_int_equal(ledger.accounts[1].filtered[TR_REASON_POLICY], 2);
		assert_int_equal(ledger.accounts[1].waiting, 1);
		tr_ledger_fini(&ledger);
		tr_spool_close(spool);
		bed_restore(&bed);
	}
	bed_fini(&bed);
}

static void
what_is_too_big_or_dropped_leaves_nothing(void **state)
{
	char *big = calloc(1, 40000);
	struct tr_message *message, *small = message_new("small");
	struct tr_spool_figures figures;
	struct bed bed;
	struct one one;

	memset(big, 'x', 39999);
	message = message_new(big);
	bed_init(&bed, 65536);
	bed.config.change_bytes = 32768;
	bed_open(&bed);
	one_init(&bed, &one);
	assert_int_equal(tr_change_put(&one.change, message, TR_STR("q"), TR_COL_ACCEPTED, 1), TR_ETOOBIG);
	assert_int_equal(message->slot, TR_NO_SLOT);
	assert_int_equal(tr_change_put(&one.change, small, TR_STR("q"), TR_COL_ACCEPTED, 1), TR_OK);
	tr_change_abandon(&one.change);
	one_init(&bed, &one);
	assert_int_equal(one_run(&bed, &one), TR_OK); /* an empty change is answered */
	tr_spool_figures(bed.spool, &figures);
	assert_int_equal(figures.live_messages, 0);
	assert_int_equal(figures.groups, 0);
	tr_message_free(message);
	tr_message_free(small);
	free(big);
	bed_fini(&bed);
}

static void
the_directory_is_locked(void **state)
{
	struct tr_spool *second;
	char *error = NULL;
	struct bed bed;

	bed_init(&bed, 65536);
	bed_open(&bed);
	assert_int_equal(tr_spool_open(&bed.config, &second, &error), TR_EAGAIN);
	assert_null(second);
	assert_non_null(strstr(error, bed.meta));
	assert_non_null(strstr(error, "stop it first"));
	free(error);
	bed_fini(&bed);
}

/* Whoever only looks at a queue may find a message ended: that is no damage. */
static void
an_ended_message_is_no_damage_to_a_looker(void **state)
{
	struct tr_spool_figures figures;
	struct tr_message *message = NULL;
	struct tr_load load;
	struct bed bed;
	uint32_t at, slot;
	int status = TR_OK;

	bed_init(&bed, 65536);
	bed_open(&bed);
	at = bed_put(&bed, 300, true, 1);
	bed_wait(&bed);
	slot = bed.messages[at].slot;
	bed_done(&bed, at, TR_COL_DELIVERED);
	bed_wait(&bed);
	load = (struct tr_load){.count = 1, .slots = &slot, .messages = &message, .status = &status, .not_ours = true};
	bed_run_load(&bed, &load);
	assert_int_equal(status, TR_ECORRUPT);
	assert_null(message);
	tr_spool_figures(bed.spool, &figures);
	assert_int_equal(figures.damaged_frames, 0);
	bed_fini(&bed);
}

/* --- bodies of their own file -------------------------------------------------------------------------------- */

struct finish {
	int status;
	uint64_t id;
	bool done;
};

static void
finished(void *arg, int status, uint64_t id)
{
	*(struct finish *)arg = (struct finish){status, id, true};
}

static bool
finish_over(void *arg)
{
	return ((struct finish *)arg)->done;
}

static uint64_t
write_body(struct bed *bed, const char *part, int parts)
{
	struct tr_body_file *file;
	struct finish finish = {0};

	assert_int_equal(tr_body_file_new(bed->spool, &file), TR_OK);
	for (int i = 0; i < parts; i++)
		assert_int_equal(tr_body_file_add(file, part, strlen(part)), TR_OK);
	tr_body_file_finish(file, bed->loop, finished, &finish);
	assert_true(tr_loop_run_until(bed->loop, finish_over, &finish, 60 * TR_NS_PER_S));
	assert_int_equal(finish.status, TR_OK);
	return finish.id;
}

static int
body_files(const struct bed *bed)
{
	char command[200];
	int count = 0;
	FILE *pipe;

	snprintf(command, sizeof command, "ls '%s' | grep -c '^body-'", bed->data);
	pipe = popen(command, "r");
	assert_non_null(pipe);
	assert_int_equal(fscanf(pipe, "%d", &count), 1);
	pclose(pipe);
	return count;
}

static bool
no_body_files(void *arg)
{
	return body_files(arg) == 0;
}

static void
a_body_file_lives_with_its_messages(void **state)
{
	struct tr_message *messages[2], *back;
	struct tr_spool_figures figures;
	struct tr_body_file *dropped;
	struct bed bed;
	struct one one;
	uint64_t id, unused;

	bed_init(&bed, 65536);
	bed_open(&bed);
	id = write_body(&bed, "0123456789abcdef", 20000);
	unused = write_body(&bed, "refused", 1);
	assert_int_equal(tr_body_file_new(bed.spool, &dropped), TR_OK);
	assert_int_equal(body_files(&bed), 3);
	tr_body_file_drop(dropped);
	tr_body_file_forget(bed.spool, unused);
	assert_int_equal(body_files(&bed), 1);
	one_init(&bed, &one);
	for (int i = 0; i < 2; i++) { /* a split transaction: two messages share it */
		messages[i] = message_new("");
		messages[i]->body_file = id;
		assert_int_equal(tr_change_put(&one.change, messages[i], TR_STR("q"), TR_COL_ACCEPTED, 1), TR_OK);
	}
	assert_int_equal(one_run(&bed, &one), TR_OK);
	assert_true(tr_spool_stub(bed.spool, messages[0]->slot)->size > 320000);
	tr_spool_figures(bed.spool, &figures);
	assert_true(figures.live_bytes < 2000);
	assert_int_equal(bed_load(&bed, messages[0]->slot, &back), TR_OK);
	assert_int_equal(back->body.len, 320000);
	assert_memory_equal(back->body.data + 319984, "0123456789abcdef", 16);
	tr_message_free(back);
	one_init(&bed, &one);
	assert_int_equal(tr_change_done(&one.change, messages[0]->slot, TR_COL_DELIVERED, TR_REASON_NONE, 1), TR_OK);
	assert_int_equal(one_run(&bed, &one), TR_OK);
	assert_int_equal(body_files(&bed), 1);
	one_init(&bed, &one);
	assert_int_equal(tr_change_done(&one.change, messages[1]->slot, TR_COL_DELIVERED, TR_REASON_NONE, 1), TR_OK);
	assert_int_equal(one_run(&bed, &one), TR_OK);
	assert_true(tr_loop_run_until(bed.loop, no_body_files, &bed, 60 * TR_NS_PER_S));
	tr_message_free(messages[0]);
	tr_message_free(messages[1]);
	bed_fini(&bed);
}

static uint32_t found_slot;

static void
remember_slot(void *arg, const struct tr_recovered *message)
{
	(void)arg;
	found_slot = message->slot;
}

static void
orphans_are_swept_and_others_stay(void **state)
{
	struct tr_message *message = message_new(""), *back;
	struct tr_recovery stats;
	struct bed bed;
	struct one one;
	uint64_t id;

	bed_init(&bed, 65536);
	bed_open(&bed);
	write_body(&bed, "orphan", 1);
	id = write_body(&bed, "kept", 1);
	message->body_file = id;
	one_init(&bed, &one);
	assert_int_equal(tr_change_put(&one.change, message, TR_STR("q"), TR_COL_ACCEPTED, 1), TR_OK);
	assert_int_equal(one_run(&bed, &one), TR_OK);
	tr_message_free(message);
	bed_close(&bed);
	assert_int_equal(body_files(&bed), 2);
	assert_int_equal(tr_spool_open(&bed.config, &bed.spool, NULL), TR_OK);
	assert_int_equal(tr_spool_recover(bed.spool, remember_slot, NULL, &stats), TR_OK);
	assert_int_equal(stats.orphan_bodies, 1);
	assert_int_equal(body_files(&bed), 1);
	assert_int_equal(bed_load(&bed, found_slot, &back), TR_OK);
	assert_true(tr_str_eq(tr_bytes_str(&back->body), TR_STR("kept")));
	assert_int_equal(back->body_file, id);
	tr_message_free(back);
	one_init(&bed, &one);
	assert_int_equal(tr_change_done(&one.change, found_slot, TR_COL_DELIVERED, TR_REASON_NONE, 1), TR_OK);
	assert_int_equal(one_run(&bed, &one), TR_OK);
	assert_true(tr_loop_run_until(bed.loop, no_body_files, &bed, 60 * TR_NS_PER_S));
	bed_fini(&bed);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),
		cmocka_unit_test(a_stored_message_is_replaced),
		cmocka_unit_test(accounts_keep_their_names),
		cmocka_unit_test(what_is_too_big_or_dropped_leaves_nothing),
		cmocka_unit_test(the_directory_is_locked),
		cmocka_unit_test(an_ended_message_is_no_damage_to_a_looker),
		cmocka_unit_test(a_body_file_lives_with_its_messages),
		cmocka_unit_test(orphans_are_swept_and_others_stay),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
