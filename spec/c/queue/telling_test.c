/* Outcomes that are told while the message stays with its session, for another host at once. */
#include "rig.h"

static struct rig_session *holder; /* hangs with a message */
static struct tr_telling telling;
static struct tr_message *back;
static int told;

static int64_t
hang_once(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	if (holder != NULL)
		return 0;
	holder = session;
	return -1;
}

static void
is_told(struct tr_telling *mine, struct tr_message *message)
{
	assert_ptr_equal(mine, &telling);
	told++;
	back = message;
}

/* A message for two is in hand: one has it, the other's host has said goodbye. */
static void
begin(struct rig *rig)
{
	static const struct tr_outcome outcomes[] = {
		{.kind = TR_OUT_DELIVERED,
			.response = {250, {0, 0, 0}, TR_STR("queued"), {NULL, 0}},
			.retry_after_ns = -1},
		{.kind = TR_OUT_TRANSIENT,
			.response = {421, {0, 0, 0}, TR_STR("goodbye"), {NULL, 0}},
			.retry_after_ns = -1},
	};
	struct tr_message *message;

	holder = NULL;
	back = NULL;
	told = 0;
	telling = (struct tr_telling){.told = is_told};
	rig_init(rig);
	rig->send = hang_once;
	rig_open(rig);
	message = rig_message("x.example", 1);
	assert_int_equal(tr_message_add_rcpt(message, TR_STR("n2@example.net")), TR_OK);
	rig_put_message(rig, tr_engine_worker(rig->engine, 0), message);
	rig_run(rig, TR_NS_PER_S);
	assert_non_null(holder);
	message = holder->held;
	assert_int_equal(message->rcpt_count, 2);
	holder->held = NULL;
	holder->held_count = 0;
	assert_true(tr_session_tell_rcpts(holder->session, message, outcomes, &telling));
	assert_int_equal(told, 0); /* what was said is to be stored first */
}

/* The session takes up its work again. */
static void
go_on(void)
{
	tr_loop_defer(holder->loop, &holder->defer, rig_step);
}

static void
who_is_kept_stays_in_hand(void **state)
{
	struct rig rig;

	begin(&rig);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(told, 1);
	assert_non_null(back);
	assert_int_equal(back->rcpt_count, 1);
	assert_string_equal(back->rcpts[0].email, "n2@example.net");
	assert_int_equal(back->attempts, 0);
	assert_int_equal(rig_column(&rig, TR_COL_DELIVERED), 1);
	assert_int_equal(rig.events[TR_EV_DELIVERY], 1);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 1);
	assert_int_equal(rig_figures(&rig).in_flight, 1);
	holder->held = back; /* the next host takes it */
	holder->held_count = 1;
	rig_report(holder);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig_column(&rig, TR_COL_DELIVERED), 2);
	assert_int_equal(rig.events[TR_EV_DELIVERY], 2);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
a_session_that_ends_meanwhile_leaves_it_to_the_queue(void **state)
{
	struct rig rig;

	begin(&rig);
	tr_session_untell(&telling);
	go_on();
	rig_run(&rig, 10 * MINUTE_NS);
	assert_int_equal(told, 0);
	assert_int_equal(rig.calls, 2); /* the one that hung, and one for the recipient that was kept */
	assert_int_equal(rig_column(&rig, TR_COL_DELIVERED), 2);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_is_kept_stays_in_hand),
		cmocka_unit_test(a_session_that_ends_meanwhile_leaves_it_to_the_queue),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
