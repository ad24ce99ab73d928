/* Sites: queues with the same next hop share a ready queue; while it is asked they wait, and without one they fail. */
#include "rig.h"

static const char *site_text, *site_error;
static int64_t life_ns;
static struct tr_sched *asked; /* not answered yet */
static bool late;              /* the answer comes by answer() */
static char sites[64][64];     /* of the messages sent, in order */
static uint32_t site_count;

static void
answer(void)
{
	struct tr_sched *sched = asked;

	assert_non_null(sched);
	asked = NULL;
	tr_sched_site(sched, site_text, tr_mono_ns() + life_ns, site_error);
}

static void
ask_site(struct rig *rig, struct tr_sched *sched)
{
	assert_null(asked);
	asked = sched;
	if (!late)
		answer();
}

static void
by_smtp(struct rig *rig, const char *name, struct tr_queue_config *config)
{
	if (strstr(name, "lua") != NULL)
		return;
	config->protocol = TR_PROTO_SMTP;
	config->retry_interval_ns = 10 * MINUTE_NS;
}

static int64_t
noted(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	for (uint32_t i = 0; i < session->held_count && site_count < TR_COUNT(sites); i++)
		snprintf(sites[site_count++], sizeof sites[0], "%s", tr_ready_name(session->session->ready).data);
	return 0;
}

static void
begin(struct rig *rig)
{
	rig_init(rig);
	site_text = "(a|b).mx.test";
	site_error = NULL;
	life_ns = HOUR_NS;
	asked = NULL;
	late = false;
	site_count = 0;
	rig->site = ask_site;
	rig->queue_config = by_smtp;
	rig->send = noted;
	rig_open(rig);
}

static void
queues_of_one_site_share_a_ready_queue(void **state)
{
	struct rig rig;

	begin(&rig);
	rig_put(&rig, "a.test", 1);
	rig_put(&rig, "b.test", 2);
	rig_put(&rig, "a.test", 3);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(site_count, 3);
	for (uint32_t i = 0; i < 3; i++)
		assert_string_equal(sites[i], "unspecified->(a|b).mx.test@smtp_client");
	assert_int_equal(rig_figures(&rig).readies, 1);
	assert_int_equal(rig.sites_asked, 2); /* once a queue */
	rig_fini(&rig);
}

static void
only_queues_of_mail_are_asked_about(void **state)
{
	struct rig rig;

	begin(&rig);
	rig_put(&rig, "lua.test", 1);
	rig_put(&rig, "x.log_hook", 2);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sites_asked, 0);
	assert_int_equal(site_count, 2);
	rig_fini(&rig);
}

/* More than a queue keeps in memory: the rest waits in the line, in its order. */
static void
messages_wait_for_a_slow_answer(void **state)
{
	struct rig rig;

	begin(&rig);
	late = true;
	for (uint32_t i = 0; i < 300; i++)
		rig_put(&rig, "a.test", i);
	rig_run(&rig, 5 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 0);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 0);
	assert_int_equal(rig_check(&rig), 300);
	answer();
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 300);
	assert_int_equal(rig.sites_asked, 1);
	rig_fini(&rig);
}

static void
a_stop_does_not_wait_for_an_answer(void **state)
{
	struct rig rig;

	begin(&rig);
	late = true;
	rig_put(&rig, "a.test", 1);
	rig_run(&rig, TR_NS_PER_S);
	assert_non_null(asked);
	rig_close(&rig);
	asked = NULL;
	late = false;
	rig_open(&rig);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 1);
	rig_fini(&rig);
}

static void
without_a_site_each_message_fails_for_now(void **state)
{
	struct rig rig;

	begin(&rig);
	site_text = NULL;
	site_error = "no such domain";
	life_ns = MINUTE_NS;
	for (uint32_t i = 0; i < 300; i++)
		rig_put(&rig, "a.test", i);
	rig_run(&rig, 2 * TR_NS_PER_S);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 300);
	assert_int_equal(rig.last_code, 451);
	assert_string_equal(rig.last_text, "no such domain");
	assert_int_equal(rig_figures(&rig).timers, 300);
	assert_int_equal(rig.sites_asked, 1);
	site_text = "mx.test";
	site_error = NULL;
	rig_run(&rig, 12 * MINUTE_NS); /* the next attempt */
	assert_int_equal(rig.sent, 300);
	assert_int_equal(rig.sites_asked, 2);
	rig_fini(&rig);
}

static void
a_new_site_is_followed_when_the_old_answer_runs_out(void **state)
{
	struct rig rig;

	begin(&rig);
	rig_put(&rig, "a.test", 1);
	rig_run(&rig, TR_NS_PER_S);
	site_text = "new.mx.test";
	rig_put(&rig, "a.test", 2); /* the old answer holds */
	rig_run(&rig, TR_NS_PER_S);
	rig_run(&rig, HOUR_NS);
	rig_put(&rig, "a.test", 3);
	rig_run(&rig, TR_NS_PER_S);
	assert_string_equal(sites[1], "unspecified->(a|b).mx.test@smtp_client");
	assert_string_equal(sites[2], "unspecified->new.mx.test@smtp_client");
	assert_int_equal(rig.sites_asked, 2);
	/* and before, if somebody knows better */
	site_text = "newest.mx.test";
	tr_queue_forget_site(tr_engine_worker(rig.engine, 0), TR_STR("a.test"));
	rig_put(&rig, "a.test", 4);
	rig_run(&rig, TR_NS_PER_S);
	assert_string_equal(sites[3], "unspecified->newest.mx.test@smtp_client");
	rig_fini(&rig);
}

/* The line is long, its ready queue full, when the answer runs out: it moves on in order, and nothing is lost. */
static void
a_long_line_moves_to_its_new_site(void **state)
{
	struct rig rig;

	begin(&rig);
	for (uint32_t i = 0; i < 3000; i++)
		rig_put(&rig, "a.test", i);
	life_ns = TR_NS_PER_S;
	site_text = NULL;
	site_error = "the name server is away";
	tr_queue_forget_site(tr_engine_worker(rig.engine, 0), TR_STR("a.test"));
	rig_run(&rig, 2 * TR_NS_PER_S);
	site_text = "new.mx.test";
	site_error = NULL;
	life_ns = HOUR_NS;
	rig_run(&rig, HOUR_NS);
	assert_int_equal(rig.sent, 3000);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(queues_of_one_site_share_a_ready_queue),
		cmocka_unit_test(only_queues_of_mail_are_asked_about),
		cmocka_unit_test(messages_wait_for_a_slow_answer),
		cmocka_unit_test(a_stop_does_not_wait_for_an_answer),
		cmocka_unit_test(without_a_site_each_message_fails_for_now),
		cmocka_unit_test(a_new_site_is_followed_when_the_old_answer_runs_out),
		cmocka_unit_test(a_long_line_moves_to_its_new_site),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
