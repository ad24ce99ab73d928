/* Taking messages in, on a real spool and engine (spec/c/queue/rig.h). */
#include "../queue/rig.h"

#include <errno.h>

#include "disk.h"
#include "ingress/receive.h"

struct seen {
	int calls, status;
	uint32_t count;
	struct {
		bool queued, dropped, refused;
		char id[33], error[100];
	} items[4];
};

static void
received(struct tr_receive *receive, int status)
{
	struct seen *seen = receive->owner;

	seen->calls++;
	seen->status = status;
	seen->count = receive->count;
	for (uint32_t i = 0; i < receive->count; i++) {
		const struct tr_receive_item *item = &receive->items[i];

		seen->items[i].queued = item->queued;
		seen->items[i].dropped = item->dropped;
		seen->items[i].refused = item->refused;
		memcpy(seen->items[i].id, item->id, sizeof item->id);
		snprintf(seen->items[i].error, sizeof seen->items[i].error, "%s",
			item->error != NULL ? item->error : "");
	}
}

static bool
is_called(void *arg)
{
	return ((struct seen *)arg)->calls > 0;
}

/* Starts one with messages for the named queues. */
static struct tr_receive *
begin(struct rig *rig, struct seen *seen, unsigned flags, uint32_t count, const char *const *queues)
{
	struct tr_receive *receive = tr_receive_new(tr_engine_worker(rig->engine, 0), count);

	memset(seen, 0, sizeof *seen);
	for (uint32_t i = 0; i < count; i++)
		receive->items[i].message = rig_message(queues[i], i);
	receive->flags = flags;
	receive->owner = seen;
	tr_receive_start(receive, received);
	return receive;
}

static void
take(struct rig *rig, struct seen *seen, unsigned flags, uint32_t count, const char *const *queues)
{
	begin(rig, seen, flags, count, queues);
	assert_true(tr_loop_run_until(rig->loops[0], is_called, seen, 10 * TR_NS_PER_S));
	assert_int_equal(seen->calls, 1);
	assert_int_equal(seen->count, count);
}

static const char *const two[] = {"a.example", "b.example"};
static const char *const with_null[] = {"a.example", "null"};

static void
stores_before_it_answers(void **state)
{
	struct rig rig;
	struct seen seen;

	rig_init(&rig);
	rig_open(&rig);
	begin(&rig, &seen, 0, 2, two);
	assert_int_equal(rig_column(&rig, TR_COL_ACCEPTED), 0);
	assert_int_equal(seen.calls, 0); /* the commit is still to come */
	assert_true(tr_loop_run_until(rig.loops[0], is_called, &seen, 10 * TR_NS_PER_S));
	assert_int_equal(seen.status, TR_OK);
	assert_int_equal(rig_column(&rig, TR_COL_ACCEPTED), 2);
	assert_true(seen.items[0].queued && seen.items[1].queued);
	assert_int_equal(strlen(seen.items[1].id), 32);
	assert_int_equal(rig.events[TR_EV_RECEPTION], 2);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig_column(&rig, TR_COL_DELIVERED), 2);
	rig_fini(&rig);
}

static void
counts_and_drops_what_is_for_null(void **state)
{
	static const struct {
		unsigned flags;
		uint64_t receptions;
	} cases[] = {{0, 2}, {TR_RECEIVE_NULL_SILENT, 1}, {TR_RECEIVE_SILENT, 0}};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct rig rig;
		struct seen seen;

		rig_init(&rig);
		rig_open(&rig);
		take(&rig, &seen, cases[i].flags, 2, with_null);
		assert_int_equal(seen.status, TR_OK);
		assert_true(seen.items[0].queued);
		assert_true(seen.items[1].dropped && !seen.items[1].queued);
		assert_int_equal(rig.events[TR_EV_RECEPTION], cases[i].receptions);
		assert_int_equal(rig_column(&rig, TR_COL_ACCEPTED), 2);
		assert_int_equal(rig_column(&rig, TR_COL_DROPPED), 1);
		rig_fini(&rig);
	}
}

static void
logs_what_is_only_to_be_logged(void **state)
{
	struct tr_receive *receive;
	struct rig rig;
	struct seen seen = {0};

	rig_init(&rig);
	rig_open(&rig);
	receive = tr_receive_new(tr_engine_worker(rig.engine, 0), 1);
	receive->items[0].message = rig_message("a.example", 1);
	receive->items[0].log_only = true;
	receive->owner = &seen;
	tr_receive_start(receive, received);
	assert_true(tr_loop_run_until(rig.loops[0], is_called, &seen, 10 * TR_NS_PER_S));
	assert_int_equal(rig.events[TR_EV_RECEPTION], 1);
	assert_int_equal(rig_column(&rig, TR_COL_ACCEPTED), 0);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
refuses_all_for_one_bad_queue_when_told(void **state)
{
	struct rig rig;
	struct seen seen;

	rig_init(&rig);
	rig_open(&rig);
	rig.queue_error = "policy says no";
	take(&rig, &seen, TR_RECEIVE_ALL_OR_NONE, 2, with_null);
	assert_int_equal(seen.status, TR_EINVAL);
	assert_string_equal(seen.items[0].error, "policy says no");
	assert_int_equal(rig.events[TR_EV_RECEPTION], 0);
	assert_int_equal(rig_column(&rig, TR_COL_ACCEPTED), 0);
	rig_fini(&rig);
}

static void
logs_a_bounce_for_one_bad_queue_otherwise(void **state)
{
	struct rig rig;
	struct seen seen;

	rig_init(&rig);
	rig_open(&rig);
	rig.queue_error = "policy says no";
	take(&rig, &seen, 0, 2, with_null);
	assert_int_equal(seen.status, TR_OK);
	assert_true(seen.items[0].refused && !seen.items[0].queued);
	assert_string_equal(seen.items[0].error, "policy says no");
	assert_true(seen.items[1].dropped);
	assert_int_equal(rig.events[TR_EV_RECEPTION], 2);
	assert_int_equal(rig.events[TR_EV_BOUNCE], 1);
	assert_int_equal(rig_column(&rig, TR_COL_ACCEPTED), 1); /* the one for null */
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
refuses_a_routing_meta_that_is_no_string(void **state)
{
	struct tr_receive *receive;
	struct rig rig;
	struct seen seen = {0};

	rig_init(&rig);
	rig_open(&rig);
	receive = tr_receive_new(tr_engine_worker(rig.engine, 0), 1);
	receive->items[0].message = rig_message("a.example", 1);
	assert_int_equal(tr_meta_set(&receive->items[0].message->meta, TR_STR("queue"), TR_STR("7")), TR_OK);
	receive->flags = TR_RECEIVE_ALL_OR_NONE;
	receive->owner = &seen;
	tr_receive_start(receive, received);
	assert_true(tr_loop_run_until(rig.loops[0], is_called, &seen, 10 * TR_NS_PER_S));
	assert_int_equal(seen.status, TR_EINVAL);
	assert_true(seen.items[0].error[0] != '\0');
	rig_fini(&rig);
}

static void
stores_nothing_when_the_disk_is_full(void **state)
{
	struct rig rig;
	struct seen seen;
	const char *why;

	rig_init(&rig);
	disk_install(1);
	strcpy(rig.sub, "/sim/spool");
	rig_open(&rig);
	disk_fail_nth(DISK_WRITE | DISK_ALLOCATE, 1, ENOSPC, true);
	take(&rig, &seen, 0, 2, two);
	assert_int_equal(seen.status, TR_ENOSPC);
	assert_false(seen.items[0].queued || seen.items[1].queued);
	disk_heal();
	while (!tr_spool_accepts(rig.spool, &why)) /* the spool's own thread notices */
		rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig_column(&rig, TR_COL_ACCEPTED), 0);
	assert_int_equal(rig_check(&rig), 0);
	take(&rig, &seen, 0, 2, two);
	assert_int_equal(seen.status, TR_OK);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig_column(&rig, TR_COL_DELIVERED), 2);
	rig_fini(&rig);
	disk_uninstall();
}

static void
goes_on_when_nobody_waits(void **state)
{
	struct rig rig;
	struct seen seen;

	rig_init(&rig);
	rig_open(&rig);
	tr_receive_forget(begin(&rig, &seen, 0, 2, two));
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(seen.calls, 0);
	assert_int_equal(rig_column(&rig, TR_COL_DELIVERED), 2);
	rig_fini(&rig);
}

static void
says_why_nothing_may_come_in(void **state)
{
	struct rig rig;

	assert_string_equal(tr_receive_closed(NULL), "waiting for spool startup");
	rig_init(&rig);
	rig_open(&rig);
	assert_null(tr_receive_closed(rig.engine));
	tr_engine_stop(rig.engine, tr_mono_ns() + TR_NS_PER_S, rig_stopped, &rig);
	assert_string_equal(tr_receive_closed(rig.engine), "shutting down");
	assert_true(tr_loop_run_until(rig.loops[0], rig_is_stopped, &rig, 60 * TR_NS_PER_S));
	tr_spool_close(rig.spool);
	tr_engine_free(rig.engine);
	tr_loop_enter(NULL);
	tr_loop_free(rig.loops[0]);
	rig_open(&rig);
	rig_fini(&rig);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stores_before_it_answers),
		cmocka_unit_test(counts_and_drops_what_is_for_null),
		cmocka_unit_test(logs_what_is_only_to_be_logged),
		cmocka_unit_test(refuses_all_for_one_bad_queue_when_told),
		cmocka_unit_test(logs_a_bounce_for_one_bad_queue_otherwise),
		cmocka_unit_test(refuses_a_routing_meta_that_is_no_string),
		cmocka_unit_test(stores_nothing_when_the_disk_is_full),
		cmocka_unit_test(goes_on_when_nobody_waits),
		cmocka_unit_test(says_why_nothing_may_come_in),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
