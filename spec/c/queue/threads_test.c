/* Several workers under the real clock: nothing is lost, nothing is counted twice. Meant for ThreadSanitizer, too. */
#include <pthread.h>

#include "rig.h"

#define WORKERS 3
#define MESSAGES 20000
#define QUEUES 7
#define RUN_NS (10 * MINUTE_NS) /* of what takes a second unless the machine is busy */

struct runner {
	struct rig *rig;
	uint32_t index, left, number;
	struct tr_timer timer;
	struct tr_mail mail;
	pthread_t thread;
};

static bool as_mail; /* not log records */

static void
put_some(struct tr_timer *timer)
{
	struct runner *runner = tr_container_of(timer, struct runner, timer);
	struct tr_worker *worker = tr_engine_worker(runner->rig->engine, runner->index);

	for (int i = 0; i < 200 && runner->left > 0; i++, runner->left--) {
		char queue[32];
		struct tr_message *message;

		snprintf(queue, sizeof queue, "q%u.%s", runner->number++ % QUEUES, as_mail ? "test" : "log_hook");
		message = rig_message(queue, runner->left);
		if (!as_mail)
			message->flags |= TR_MSG_LOG_RECORD;
		rig_put_message(runner->rig, worker, message);
	}
	if (runner->left == 0)
		runner->rig->put_all++;
	else
		tr_timer_start(tr_loop_wheel(runner->rig->loops[runner->index]), timer, TR_NS_PER_MS, put_some);
}

static void
start_putting(struct tr_mail *mail)
{
	struct runner *runner = tr_container_of(mail, struct runner, mail);

	put_some(&runner->timer);
}

static void
stop_loop(struct tr_mail *mail)
{
	tr_loop_stop(tr_loop_current());
}

static void *
run(void *arg)
{
	struct runner *runner = arg;

	tr_loop_run(runner->rig->loops[runner->index]);
	return NULL;
}

static void
small_batches(struct rig *rig, const char *name, struct tr_queue_config *config)
{
	config->batch_size = 10;
	config->retry_interval_ns = 50 * TR_NS_PER_MS;
	config->max_retry_interval_ns = 50 * TR_NS_PER_MS;
}

static void
small_path(struct rig *rig, const char *name, struct tr_path_config *config)
{
	config->max_ready = 300; /* so that lines and loads are in use */
	config->idle_timeout_ns = 20 * TR_NS_PER_MS;
	config->gate.backoff_ns = 10 * TR_NS_PER_MS;
	config->gate.backoff_max_ns = 20 * TR_NS_PER_MS;
}

/* Every seventh call fails, by a counter all threads share. */
static int64_t
sometimes_fails(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	if (rig->calls % 7 == 0)
		rig_fail(outcome, 451);
	return 0;
}

/* Sends happen on all threads: the first loop looks every few milliseconds. */
static void
tick(struct tr_timer *timer)
{
	tr_timer_start(tr_loop_wheel(tr_loop_current()), timer, 5 * TR_NS_PER_MS, tick);
}

static bool
all_sent(void *arg)
{
	return ((struct rig *)arg)->sent >= MESSAGES;
}

struct field {
	struct rig rig;
	struct runner runners[WORKERS];
	struct tr_mail stops[WORKERS];
	struct tr_timer ticker;
};

/* Opens, runs until `done` or for `limit_ns`, stops. put: each worker puts its part in. */
static void
one_run(struct field *field, bool put, bool (*done)(void *arg), int64_t limit_ns)
{
	struct rig *rig = &field->rig;

	rig_open(rig);
	memset(field->runners, 0, sizeof field->runners);
	memset(field->stops, 0, sizeof field->stops);
	for (uint32_t i = 0; i < WORKERS; i++) {
		struct runner *runner = &field->runners[i];

		runner->rig = rig;
		runner->index = i;
		runner->left = MESSAGES / WORKERS + (i == 0 ? MESSAGES % WORKERS : 0);
		runner->mail.fn = start_putting;
		if (put)
			tr_loop_post(rig->loops[i], &runner->mail);
		if (i > 0)
			assert_int_equal(pthread_create(&runner->thread, NULL, run, runner), 0);
	}
	tr_timer_start(tr_loop_wheel(rig->loops[0]), &field->ticker, TR_NS_PER_MS, tick);
	tr_loop_run_until(rig->loops[0], done, rig, limit_ns);
	tr_engine_stop(rig->engine, tr_mono_ns() + RUN_NS, rig_stopped, rig);
	assert_true(tr_loop_run_until(rig->loops[0], rig_is_stopped, rig, 2 * RUN_NS));
	tr_timer_stop(tr_loop_wheel(rig->loops[0]), &field->ticker);
	for (uint32_t i = 1; i < WORKERS; i++) {
		field->stops[i].fn = stop_loop;
		tr_loop_post(rig->loops[i], &field->stops[i]);
		assert_int_equal(pthread_join(field->runners[i].thread, NULL), 0);
	}
}

static void
close_run(struct rig *rig)
{
	tr_spool_close(rig->spool);
	tr_engine_free(rig->engine);
	tr_loop_enter(NULL);
	for (uint32_t i = 0; i < WORKERS; i++)
		tr_loop_free(rig->loops[i]);
}

static void
field_init(struct field *field)
{
	memset(field, 0, sizeof *field);
	rig_init(&field->rig);
	tr_clock_real();
	field->rig.workers = WORKERS;
	field->rig.send = sometimes_fails;
	field->rig.queue_config = small_batches;
	field->rig.path_config = small_path;
}

static void
field_fini(struct field *field)
{
	char command[128];

	snprintf(command, sizeof command, "rm -rf %s", field->rig.dir);
	assert_int_equal(system(command), 0);
}

static void
nothing_is_lost_between_workers(void **state)
{
	static struct field field;

	field_init(&field);
	one_run(&field, true, all_sent, RUN_NS);
	assert_int_equal(field.rig.sent, MESSAGES);
	assert_int_equal(field.rig.events[TR_EV_DELIVERY], MESSAGES);
	assert_int_equal(rig_check(&field.rig), 0);
	close_run(&field.rig);
	field_fini(&field);
}

/* Seven queues on all workers share five connections, short ones, and two rates. */
static void
limited_path(struct rig *rig, const char *name, struct tr_path_config *config)
{
	const char *why;

	small_path(rig, name, config);
	config->idle_timeout_ns = TR_NS_PER_MS;
	config->limits = calloc(1, sizeof *config->limits);
	config->limits[config->limit_count++] = (struct tr_named_limit){strdup("all"), {5, false}};
	config->message_rates = calloc(2, sizeof *config->message_rates);
	config->message_rates[0].name = strdup("half");
	config->message_rates[1].name = strdup("all");
	tr_rate_spec_parse(TR_STR("2000/s,max_burst=50"), &config->message_rates[0].spec, &why);
	tr_rate_spec_parse(TR_STR("4000/s,max_burst=1"), &config->message_rates[1].spec, &why);
	config->message_rate_count = 2;
	tr_rate_spec_parse(TR_STR("500/s"), &config->connection_rate, &why);
}

static void
limits_hold_between_workers(void **state)
{
	static struct field field;

	field_init(&field);
	field.rig.path_config = limited_path;
	one_run(&field, true, all_sent, RUN_NS);
	assert_int_equal(field.rig.sent, MESSAGES);
	assert_in_range(field.rig.peak, 1, 5);
	assert_int_equal(rig_check(&field.rig), 0);
	close_run(&field.rig);
	field_fini(&field);
}

static bool
a_third_sent(void *arg)
{
	struct rig *rig = arg;

	return rig->sent >= MESSAGES / 3 && rig->put_all >= WORKERS && rig->under_way == 0;
}

static void
slow_path(struct rig *rig, const char *name, struct tr_path_config *config)
{
	small_path(rig, name, config);
	config->connection_limit = 1;
}

static int64_t
half_a_millisecond(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	sometimes_fails(rig, session, outcome);
	return TR_NS_PER_MS / 2;
}

static void
nothing_is_lost_by_a_stop_in_the_middle(void **state)
{
	static struct field field;

	field_init(&field);
	field.rig.path_config = slow_path;
	field.rig.send = half_a_millisecond;
	one_run(&field, true, a_third_sent, RUN_NS);
	assert_int_equal(field.rig.sent + rig_check(&field.rig), MESSAGES);
	close_run(&field.rig);
	field.rig.send = sometimes_fails;
	one_run(&field, false, all_sent, RUN_NS);
	assert_int_equal(field.rig.sent, MESSAGES);
	assert_int_equal(rig_check(&field.rig), 0);
	close_run(&field.rig);
	field_fini(&field);
}

static void
pooled(struct rig *rig, const char *name, struct tr_queue_config *config)
{
	small_batches(rig, name, config);
	config->egress_pool = strdup(name[1] == '0' ? "other" : "many");
	if (name[1] == '1')
		config->message_rate = (struct tr_rate_spec){.quantity = 20000, .burst = 200, .period_ns = TR_NS_PER_S};
}

static struct tr_pool_config *
three_sources(struct rig *rig, const char *name, const char **error)
{
	struct tr_pool_config *config = tr_pool_config_new(tr_str(name), 3);

	config->ttl_ns = HOUR_NS; /* asked once, however long it takes */
	for (uint32_t i = 0; i < 3; i++) {
		config->entries[i].name = strdup(i == 0 ? "a" : i == 1 ? "b" : "c");
		config->entries[i].weight = 3 - i;
	}
	return config;
}

static struct tr_source_config *
weak_source(struct rig *rig, const char *name, const char **error)
{
	struct tr_source_config *config = tr_source_config_new(tr_str(name));

	config->ttl_ns = HOUR_NS;
	config->unplumbed = (struct tr_suspend_rule){3, TR_NS_PER_S, 5 * TR_NS_PER_MS};
	return config;
}

/* Now and then a source is not there, as seen by any thread. */
static int64_t
sometimes_unplumbed(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	sometimes_fails(rig, session, outcome);
	if (rig->calls % 50 == 0 && tr_ready_source_failed(session->session->ready, TR_SOURCE_UNPLUMBED, "test")) {
		outcome->kind = TR_OUT_REQUEUE;
		outcome->reason = "SourceIsUnhealthyAndSuspended";
	}
	return 0;
}

static void
nothing_is_lost_between_sources(void **state)
{
	static struct field field;

	field_init(&field);
	field.rig.queue_config = pooled;
	field.rig.pool = three_sources;
	field.rig.source = weak_source;
	field.rig.send = sometimes_unplumbed;
	one_run(&field, true, all_sent, RUN_NS);
	assert_int_equal(field.rig.sent, MESSAGES);
	assert_int_equal(rig_check(&field.rig), 0);
	assert_int_equal(field.rig.pools_asked, 2);
	assert_int_equal(field.rig.sources_asked, 3);
	close_run(&field.rig);
	field_fini(&field);
}

static void
by_smtp(struct rig *rig, const char *name, struct tr_queue_config *config)
{
	small_batches(rig, name, config);
	config->protocol = TR_PROTO_SMTP;
}

/* All queues have one site of two, which changes all the time; now and then there is none. */
static void
changing_site(struct rig *rig, struct tr_sched *sched)
{
	uint32_t turn = rig->sites_asked;
	bool none = turn % 5 == 0;

	tr_sched_site(sched,
		none       ? NULL
		: turn % 2 ? "one.mx.test"
			   : "two.mx.test",
		tr_mono_ns() + (none ? 1 : 5) * TR_NS_PER_MS, none ? "no such domain" : NULL);
}

static int64_t
sometimes_knows_better(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	char queue[16];

	snprintf(queue, sizeof queue, "q%u.test", (uint32_t)(rig->calls % QUEUES));
	if (rig->calls % 10 == 0)
		tr_queue_forget_site(session->session->worker, tr_str(queue));
	return sometimes_fails(rig, session, outcome);
}

static void
sites_change_under_all_workers(void **state)
{
	static struct field field;

	field_init(&field);
	as_mail = true;
	field.rig.queue_config = by_smtp;
	field.rig.site = changing_site;
	field.rig.send = sometimes_knows_better;
	one_run(&field, true, all_sent, RUN_NS);
	as_mail = false;
	assert_int_equal(field.rig.sent, MESSAGES);
	assert_int_equal(rig_check(&field.rig), 0);
	assert_true(field.rig.sites_asked > QUEUES);
	close_run(&field.rig);
	field_fini(&field);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_lost_between_workers),
		cmocka_unit_test(limits_hold_between_workers),
		cmocka_unit_test(nothing_is_lost_by_a_stop_in_the_middle),
		cmocka_unit_test(nothing_is_lost_between_sources),
		cmocka_unit_test(sites_change_under_all_workers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
