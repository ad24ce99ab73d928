/* What must go on when the spool is slow or refuses, and when the engine stops. */
#include <errno.h>

#include "rig.h"
#include "spool/internal.h"

/* The commits are behind, as a session sees it. The next commit ends it. */
static void
set_pressure(struct rig *rig, bool on)
{
	atomic_store(&rig->spool->outcome_stuck, on);
}

static bool down;

static int64_t
up_or_down(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	if (down)
		rig_fail(outcome, 451);
	return 0;
}

static void
one_session(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->connection_limit = 1;
	config->idle_timeout_ns = HOUR_NS;
	config->gate.failures_to_close = 2;
	config->gate.backoff_ns = config->gate.backoff_max_ns = 10 * TR_NS_PER_S;
}

/* A probe that may not take anything yet must not be the last one. */
static void
probe_under_pressure_is_repeated(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.send = up_or_down;
	rig.path_config = one_session;
	rig_open(&rig);
	down = true;
	for (uint32_t i = 0; i < 10; i++)
		rig_put(&rig, "one.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.calls, 2);
	assert_int_equal(rig_figures(&rig).ready, 8);
	down = false;
	set_pressure(&rig, true);
	rig_run(&rig, 15 * TR_NS_PER_S); /* the probe comes and may take nothing */
	assert_int_equal(rig.calls, 2);
	set_pressure(&rig, false);
	rig_run(&rig, 15 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 8);
	rig_fini(&rig);
}

static void
idle_for_long(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->connection_limit = 1;
	config->idle_timeout_ns = HOUR_NS;
}

/* A session that finds nothing, then waits while the commits are behind, is woken when they are not. */
static void
waits_no_longer_than_the_pressure(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.path_config = idle_for_long;
	rig_open(&rig);
	rig_put(&rig, "one.example", 0);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 1);
	struct tr_session *session = &tr_engine_worker(rig.engine, 0)->sessions->pub;
	struct rig_session *mine = session->task;
	struct tr_message *list;
	enum tr_take why;

	tr_session_unwait(session); /* it has just asked in vain, ... */
	mine->waiting = false;
	tr_timer_stop(tr_loop_wheel(mine->loop), &mine->timer);
	assert_int_equal(tr_session_take(session, 1, 0, &list, &why), 0);
	assert_int_equal(why, TR_TAKE_EMPTY);
	rig_put(&rig, "one.example", 1); /* ... and before it waits one comes */
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig_figures(&rig).ready, 1);
	set_pressure(&rig, true);
	assert_true(tr_session_wait(session));
	mine->waiting = true;
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 1);
	set_pressure(&rig, false);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 2);
	rig_fini(&rig);
}

static void
keep_message(struct tr_outbox *outbox, int status)
{
	*(int *)outbox->owner = status;
}

/* The drop of a message for the null queue is refused: it has no queue to go back to, and is tried again. */
static void
refused_null_drop_is_tried_again(void **state)
{
	struct rig rig;
	struct tr_message *message = rig_message("null", 1);
	struct tr_worker *worker;
	struct outcome_op *op;
	struct tr_outbox put;
	int status = 1;

	rig_init(&rig);
	rig_open(&rig);
	worker = tr_engine_worker(rig.engine, 0);
	tr_outbox_init(&put, worker, keep_message, &status);
	assert_int_equal(tr_change_put(&put.change, message, TR_STR("null"), TR_COL_ACCEPTED, 1), TR_OK);
	tr_outbox_submit(&put);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(status, TR_OK);
	/* as tr_queue_insert() does, without memory for the change */
	tr_spool_stub(rig.spool, message->slot)->queue = NO_SCHED;
	count_add(rig.engine, IN_FLIGHT, 1);
	op = op_new(worker);
	op_end(op, message, TR_COL_DROPPED, TR_REASON_NULL_QUEUE);
	op->outbox.change.failed = true;
	op_submit(op);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig_figures(&rig).parked, 1);
	assert_int_equal(rig_check(&rig), 1);
	rig_run(&rig, 11 * TR_NS_PER_S);
	assert_int_equal(rig_figures(&rig).parked, 0);
	assert_int_equal(rig_check(&rig), 0);
	assert_int_equal(rig_column(&rig, TR_COL_DROPPED), 1);
	rig_fini(&rig);
}

static const struct tr_file_ops *disk;
static _Atomic int64_t bad_place;

static ssize_t
read_but_there(int fd, void *data, size_t len, off_t at)
{
	int64_t bad = atomic_load(&bad_place);

	return bad >= at && bad < at + (int64_t)len ? -EIO : disk->pread(fd, data, len, at);
}

static void
one_at_a_time(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->max_ready = 1;
}

/* A message at a place of the disk that cannot be read, the first of its queue, holds no other. */
static void
one_that_cannot_be_read_holds_no_other(void **state)
{
	static struct tr_file_ops ops;
	struct rig rig;

	rig_init(&rig);
	rig.path_config = one_at_a_time;
	disk = tr_file;
	ops = *disk;
	ops.pread = read_but_there;
	tr_file = &ops;
	bad_place = -1;
	rig_open(&rig);
	for (uint32_t i = 0; i < 6; i++) {
		struct tr_message *message = rig_message("one.example", i);

		message->due_ms = tr_wall_ms() + 10000 + 100 * i;
		rig_put_message(&rig, tr_engine_worker(rig.engine, 0), message);
		rig_run(&rig, TR_NS_PER_S / 2);
	}
	assert_int_equal(rig_figures(&rig).timers, 6);
	bad_place = SEG_HEADER + (int64_t)loc_offset(tr_spool_stub(rig.spool, 0)->loc, PUT_ALIGN);
	rig_run(&rig, MINUTE_NS);
	assert_int_equal(rig.sent, 5);
	assert_int_equal(rig_figures(&rig).line, 1);
	bad_place = -1;
	rig_run(&rig, MINUTE_NS);
	assert_int_equal(rig.sent, 6);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
	tr_file = disk;
}

/* What found no memory for its queue, or on its way to the worker of that, is counted, and goes there in a while. */
static void
stranded_ones_go_on(void **state)
{
	struct rig rig;
	struct tr_message *message = rig_message("one.example", 1), *other = rig_message("one.example", 2);
	struct tr_worker *worker;
	struct tr_sched *sched;
	struct tr_outbox put;
	int status = 1;

	rig_init(&rig);
	rig_open(&rig);
	worker = tr_engine_worker(rig.engine, 0);
	tr_outbox_init(&put, worker, keep_message, &status);
	assert_int_equal(tr_change_put(&put.change, message, TR_STR("one.example"), TR_COL_ACCEPTED, 1), TR_OK);
	assert_int_equal(tr_change_put(&put.change, other, TR_STR("one.example"), TR_COL_ACCEPTED, 1), TR_OK);
	tr_outbox_submit(&put);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(status, TR_OK);
	/* as tr_queue_insert() and worker_post_slot() do */
	list_add(&worker->stranded, message);
	sched = sched_get(rig.engine, TR_STR("one.example"));
	tr_stub_set_queue(tr_spool_stub(rig.spool, other->slot), sched->index);
	slots_add(rig.spool, &worker->unposted, other->slot);
	tr_message_free(other);
	count_add(rig.engine, IN_PARKED, 2);
	assert_int_equal(rig_check(&rig), 2);
	rig_run(&rig, 12 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 2);
	assert_int_equal(rig_figures(&rig).parked, 0);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

/* Policy's answer for a record could not be stored: it is counted, and asked for again in a while. */
static void
refused_decision_is_asked_for_again(void **state)
{
	struct tr_message *record = rig_message("", 1);
	struct tr_worker *worker;
	struct tr_outbox put;
	struct rig rig;
	int status = 1;

	rig_init(&rig);
	rig_open(&rig);
	worker = tr_engine_worker(rig.engine, 0);
	record->flags |= TR_MSG_LOG_RECORD | TR_MSG_UNDECIDED;
	tr_outbox_init(&put, worker, keep_message, &status);
	assert_int_equal(tr_change_put(&put.change, record, TR_STR(""), TR_COL_ACCEPTED, 1), TR_OK);
	tr_outbox_submit(&put);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(status, TR_OK);
	tr_queue_ask_again(worker, record->slot);
	assert_int_equal(tr_queue_undecided(rig.engine, record->account), 1);
	assert_int_equal(rig_check(&rig), 1);
	rig_run(&rig, 11 * TR_NS_PER_S);
	assert_int_equal(tr_queue_undecided(rig.engine, record->account), 0);
	assert_int_equal(rig_figures(&rig).parked, 1); /* as the rig decides */
	assert_int_equal(rig_check(&rig), 1);
	tr_message_free(record);
	rig_fini(&rig);
}

static uint32_t refusals; /* of changes to come that tell of something */

static void
emit_in_vain(void *arg, struct tr_outbox *outbox, const struct tr_event *event)
{
	if (refusals > 0) {
		refusals--;
		tr_change_fail(&outbox->change, TR_ENOMEM);
	}
	rig_emit(arg, outbox, event);
}

static int64_t
refuse(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	rig_fail(outcome, 550);
	return 0;
}

/* A record dies, and the change with its letter is refused: it waits as it did, is tried again, and becomes a letter.
 */
static void
refused_letter_is_tried_again(void **state)
{
	struct tr_message *record = rig_message("h.log_hook", 1);
	struct rig rig;

	rig_init(&rig);
	rig.send = refuse;
	rig_open(&rig);
	rig.engine->ops.emit = emit_in_vain;
	assert_int_equal(tr_spool_account(rig.spool, "h", &record->account), TR_OK);
	record->flags |= TR_MSG_LOG_RECORD;
	refusals = 2;
	rig_put_message(&rig, tr_engine_worker(rig.engine, 0), record);
	rig_run(&rig, 10 * TR_NS_PER_S);
	assert_int_equal(refusals, 0);
	assert_int_equal(rig.calls, 3);
	assert_int_equal(rig_figures(&rig).parked, 0);
	assert_int_equal(tr_dead_count(tr_engine_dead(rig.engine)), 1);
	assert_int_equal(rig_check(&rig), 1);
	rig_fini(&rig);
}

/* The end of one that is damaged in the spool is refused: it is read again, found damaged again, and counted. */
static void
refused_loss_is_tried_again(void **state)
{
	struct tr_message *message = rig_message("one.example", 1);
	struct outcome_op *op;
	struct tr_sched *sched;
	struct rig rig;
	uint32_t slot;

	rig_init(&rig);
	rig.send = up_or_down;
	down = true;
	rig_open(&rig);
	rig_put_message(&rig, tr_engine_worker(rig.engine, 0), message);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig_figures(&rig).timers, 1);
	sched = rig.engine->workers[0].homes;
	for (slot = 0;
		tr_spool_stub(rig.spool, slot)->queue != sched->index || tr_spool_stub(rig.spool, slot)->seq == 0;)
		slot++;
	slot_wheel_remove(&sched->home->wheel, slot); /* as a load that finds it damaged, without memory for its end */
	count_move(rig.engine, IN_TIMERS, IN_FLIGHT, 1);
	atomic_fetch_sub(&sched->waiting, 1);
	segment_died(rig.spool, atomic_exchange(&tr_spool_stub(rig.spool, slot)->loc, LOC_LOST), 0);
	op = op_new(tr_engine_worker(rig.engine, 0));
	op_lost(op, slot);
	tr_change_fail(&op->outbox.change, TR_ENOMEM);
	op_submit(op);
	rig_run(&rig, TR_NS_PER_S / 2);
	assert_int_equal(rig_figures(&rig).in_flight, 0);
	assert_int_equal(rig_figures(&rig).timers, 1);
	down = false;
	rig_run(&rig, HOUR_NS);
	assert_int_equal(rig.sent, 0);
	assert_int_equal(rig_column(&rig, TR_COL_DROPPED), 1);
	assert_int_equal(rig_figures(&rig).line + rig_figures(&rig).timers + rig_figures(&rig).parked, 0);
	rig_fini(&rig);
}

static void
keep_error(void *arg, const char *error)
{
	*(char **)arg = strdup(error != NULL ? error : "");
}

static void
resolve_during_the_stop_is_answered(void **state)
{
	struct rig rig;
	char *error = NULL;

	rig_init(&rig);
	rig_open(&rig);
	rig_run(&rig, TR_NS_PER_S);
	tr_engine_stop(rig.engine, tr_mono_ns() + TR_NS_PER_S, rig_stopped, &rig);
	tr_queue_resolve(tr_engine_worker(rig.engine, 0), TR_STR("late.example"), keep_error, &error);
	rig_run(&rig, TR_NS_PER_S / 2);
	assert_non_null(error);
	assert_string_equal(error, "shutting down");
	free(error);
	rig_fini(&rig);
}

static bool moved_on;

static void
two_of_one_path(struct rig *rig, const char *name, struct tr_queue_config *config)
{
	config->refresh_interval_ns = 10 * MINUTE_NS;
	config->reap_interval_ns = MINUTE_NS;
	if (name[0] != 'y')
		return;
	config->batch_size = 2;
	if (moved_on) {
		free(config->constructor);
		config->constructor = strdup("make.other");
	}
}

static void
closes_for_a_day(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->connection_limit = 1;
	config->gate.failures_to_close = 2;
	config->gate.backoff_ns = config->gate.backoff_max_ns = 24 * HOUR_NS;
}

/* A queue that goes to another constructor leaves messages in a ready queue that it only shared; when that queue's
 * maker is gone, too, they follow. */
static void
forsaken_ready_queue_gives_back(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig.send = up_or_down;
	rig.queue_config = two_of_one_path;
	rig.path_config = closes_for_a_day;
	rig_open(&rig);
	down = moved_on = false;
	rig_put(&rig, "x@one.example", 0);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 1);
	down = true;
	for (uint32_t i = 1; i <= 10; i++)
		rig_put(&rig, "y@one.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig_figures(&rig).ready, 8);
	down = false;
	moved_on = true;
	rig_run(&rig, HOUR_NS);
	assert_int_equal(rig.sent, 11);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static struct {
	void (*then)(void *arg, const char *error);
	void *arg;
	uint32_t calls;
} handler;

static bool
promote_wanted(void *arg, struct tr_worker *worker)
{
	return true;
}

static void
promote_later(void *arg, struct tr_worker *worker, struct tr_message *message,
	void (*then)(void *then_arg, const char *error), void *then_arg)
{
	handler.then = then;
	handler.arg = then_arg;
	handler.calls++;
}

/* A handler of throttle_insert_ready_queue that is cancelled by the stop delays nothing and is no error. */
static void
throttle_handler_cancelled_by_the_stop(void **state)
{
	struct rig rig;

	rig_init(&rig);
	rig_open(&rig);
	rig.engine->ops.wants_promote = promote_wanted;
	rig.engine->ops.promote = promote_later;
	handler.calls = 0;
	for (uint32_t i = 0; i < 3; i++)
		rig_put(&rig, "one.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(handler.calls, 1);
	tr_engine_stop(rig.engine, tr_mono_ns() + TR_NS_PER_S, rig_stopped, &rig);
	assert_true(tr_loop_run_until(rig.loops[0], rig_is_stopped, &rig, 60 * TR_NS_PER_S));
	handler.then(handler.arg, "cancelled");
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(handler.calls, 1);
	assert_int_equal(rig.events[TR_EV_DELAYED], 0);
	assert_int_equal(rig_figures(&rig).timers, 0);
	assert_int_equal(rig_figures(&rig).line, 3);
	rig_fini(&rig);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(probe_under_pressure_is_repeated),
		cmocka_unit_test(waits_no_longer_than_the_pressure),
		cmocka_unit_test(refused_null_drop_is_tried_again),
		cmocka_unit_test(one_that_cannot_be_read_holds_no_other),
		cmocka_unit_test(stranded_ones_go_on),
		cmocka_unit_test(refused_decision_is_asked_for_again),
		cmocka_unit_test(refused_letter_is_tried_again),
		cmocka_unit_test(refused_loss_is_tried_again),
		cmocka_unit_test(resolve_during_the_stop_is_answered),
		cmocka_unit_test(forsaken_ready_queue_gives_back),
		cmocka_unit_test(throttle_handler_cancelled_by_the_stop),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
