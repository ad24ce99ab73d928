/* Rates of queues and of source selection, in the process and shared with other nodes. */
#include "sources.h"

/* --- max_message_rate of a queue --------------------------------------------------------------------------------- */

static const char *rate_text;

static void
with_rate(struct rig *rig, const char *name, struct tr_queue_config *config)
{
	assert_int_equal(tr_rate_spec_parse(tr_str(rate_text), &config->message_rate, &(const char *){NULL}), TR_OK);
	config->retry_interval_ns = 10 * MINUTE_NS;
}

static uint64_t moments[4096]; /* ms at which messages were sent */
static uint32_t moment_count;

static int64_t
timed(struct rig *rig, struct rig_session *session, struct tr_outcome *outcome)
{
	for (uint32_t i = 0; i < session->held_count && moment_count < TR_COUNT(moments); i++)
		moments[moment_count++] = (uint64_t)tr_mono_ns() / TR_NS_PER_MS;
	return 0;
}

/* Puts `count`, and checks that in no 100 ms more than `window` are sent, and how many in 10 s. */
static void
keeps_rate(const char *text, uint32_t count, uint32_t window, uint32_t in_10_s)
{
	struct rig rig;
	uint64_t begin_ms;
	uint32_t sent;

	begin(&rig);
	rate_text = text;
	moment_count = 0;
	rig.queue_config = with_rate;
	rig.send = timed;
	for (uint32_t i = 0; i < count; i++)
		rig_put(&rig, "x.example", i);
	begin_ms = (uint64_t)tr_mono_ns() / TR_NS_PER_MS;
	rig_run(&rig, 10 * TR_NS_PER_S);
	sent = (uint32_t)rig.sent;
	for (uint32_t i = 0; i + window < moment_count; i++)
		assert_true(moments[i + window] - moments[i] >= 95);
	if (sent < in_10_s * 99 / 100 || sent > in_10_s * 101 / 100 + 1)
		fail_msg("%s: %u sent in 10 s, not %u", text, sent, in_10_s);
	assert_true(begin_ms <= moments[0]);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 0);
	assert_true(rig.events[TR_EV_DELAYED] <= count);
	assert_int_equal(rig_figures(&rig).timers, 0); /* they wait in the line */
	rig_run(&rig, HOUR_NS);
	assert_int_equal(rig.sent, count);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
a_queue_keeps_its_message_rate(void **state)
{
	keeps_rate("100/s,max_burst=1", 2000, 12, 1000);
	keeps_rate("20/s,max_burst=5", 600, 8, 205);
	keeps_rate("local:2/s", 100, 3, 22);
	keeps_rate("60/min,max_burst=1", 50, 2, 11);
}

static void
a_rate_that_goes_lets_them_all_go(void **state)
{
	struct rig rig;

	begin(&rig);
	rate_text = "1/min,max_burst=1";
	rig.queue_config = with_rate;
	rig.send = timed;
	for (uint32_t i = 0; i < 100; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, 30 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 1);
	rig.queue_config = NULL;
	rig_run(&rig, 90 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 100);
	rig_fini(&rig);
}

/* --- the same, shared by a backend that answers after 5 ms ----------------------------------------------------------
 */

struct backend {
	struct tr_shaping *counts; /* what all nodes have */
	bool broken;
	uint32_t asked;
};
struct question {
	struct tr_timer timer;
	struct backend *backend;
	struct tr_shared_op *op;
	struct tr_loop *loop;
};

static void
answer(struct tr_timer *timer)
{
	struct question *question = tr_container_of(timer, struct question, timer);
	struct tr_shared_op *op = question->op;
	struct tr_throttle *throttle = NULL;

	op->flight = NULL;
	op->granted = true; /* leases work, and are enough for all */
	op->err = question->backend->broken && op->kind == TR_SHARED_THROTTLE ? TR_EIO : TR_OK;
	if (op->err == TR_OK && op->kind == TR_SHARED_THROTTLE) {
		assert_int_equal(tr_throttle_get(question->backend->counts, op->key, op->spec, &throttle), TR_OK);
		tr_throttle_check(throttle, tr_mono_ns(), op->quantity, &op->result);
		tr_throttle_unref(throttle);
	}
	free(question);
	op->then(op);
}

static const char *expected_key = "schedq-x.example-message-rate:10:10:1";

static int
ask_backend(void *arg, struct tr_loop *loop, struct tr_shared_op *op)
{
	struct question *question = calloc(1, sizeof *question);

	if (op->kind == TR_SHARED_THROTTLE) {
		assert_string_equal(op->key.data, expected_key);
		((struct backend *)arg)->asked++;
	}
	question->backend = arg;
	question->op = op;
	question->loop = loop;
	op->flight = question;
	tr_timer_start(tr_loop_wheel(loop), &question->timer, 5 * TR_NS_PER_MS, answer);
	return TR_OK;
}

static void
forget_question(void *arg, struct tr_shared_op *op)
{
	struct question *question = op->flight;

	tr_timer_stop(tr_loop_wheel(question->loop), &question->timer);
	op->flight = NULL;
	free(question);
}

static void
a_shared_rate_is_kept_together_and_held_while_the_backend_is_away(void **state)
{
	struct backend backend = {NULL, false, 0};
	struct tr_shaping_backend table = {.arg = &backend, .start = ask_backend, .cancel = forget_question};
	struct tr_throttle *others;
	struct tr_throttle_result result;
	struct rig rig;
	uint64_t sent;

	begin(&rig);
	rig_close(&rig);
	assert_int_equal(tr_shaping_new(&backend.counts), TR_OK);
	assert_int_equal(tr_shaping_new(&rig.shaping), TR_OK);
	tr_shaping_set_backend(rig.shaping, &table);
	rate_text = "10/s";
	moment_count = 0;
	rig.queue_config = with_rate;
	rig.send = timed;
	rig_open(&rig);
	for (uint32_t i = 0; i < 200; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, 10 * TR_NS_PER_S);
	assert_true(rig.sent >= 100 && rig.sent <= 111); /* a burst and ten seconds */
	assert_true(backend.asked < 400);
	sent = rig.sent;
	backend.broken = true;
	rig_run(&rig, 10 * TR_NS_PER_S);
	assert_true(rig.sent <= sent + 1);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 0);
	backend.broken = false;
	/* another node takes all that has come together meanwhile */
	assert_int_equal(
		tr_throttle_get(backend.counts, TR_STR("schedq-x.example-message-rate:10:10:1"),
			&(struct tr_rate_spec){.quantity = 10, .burst = 10, .period_ns = TR_NS_PER_S}, &others),
		TR_OK);
	sent = rig.sent;
	tr_throttle_check(others, tr_mono_ns(), 10, &result);
	tr_throttle_unref(others);
	rig_run(&rig, 5 * TR_NS_PER_S);
	assert_true(rig.sent > sent + 30 && rig.sent <= sent + 61);
	rig_run(&rig, 30 * TR_NS_PER_S);
	assert_int_equal(rig.sent, 200);
	for (uint32_t i = 0; i < 100; i++) /* a question is out when it stops */
		rig_put(&rig, "x.example", i);
	rig_run(&rig, TR_NS_PER_MS);
	rig_close(&rig);
	tr_shaping_free(rig.shaping);
	rig.shaping = NULL;
	tr_shaping_free(backend.counts);
	rig.queue_config = NULL;
	rig_open(&rig);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

static void
selects_a(struct rig *rig, const char *name, struct tr_path_config *config)
{
	if (name[0] == 'a')
		config->selection_rate = (struct tr_rate_spec){.quantity = 100, .burst = 10, .period_ns = TR_NS_PER_S};
}

static void
a_rate_of_selection_sends_the_others_elsewhere(void **state)
{
	static const uint32_t one[] = {1};
	struct rig rig;

	begin(&rig);
	rig.path_config = selects_a;
	for (uint32_t i = 0; i < 1000; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, TR_NS_PER_S / 100);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 1000);
	assert_true(by_source[0] >= 10 && by_source[0] <= 120);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 0);
	rig_fini(&rig);

	begin(&rig); /* the only source: the contract's outcome */
	use_pool("a", one);
	rig.path_config = selects_a;
	for (uint32_t i = 0; i < 100; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_true(rig.sent >= 10 && rig.sent < 100);
	assert_int_equal(rig.sent + rig.events[TR_EV_TRANSIENT_FAILURE], 100);
	rig_fini(&rig);
}

static void
a_shared_rate_of_selection_is_asked_for(void **state)
{
	struct backend backend = {NULL, false, 0};
	struct tr_shaping_backend table = {.arg = &backend, .start = ask_backend, .cancel = forget_question};
	struct rig rig;
	uint64_t asked;

	expected_key = "kumomta.source_selection_rate.a->x.example@lua:make.test.a:100:10:1";
	begin(&rig);
	rig_close(&rig);
	assert_int_equal(tr_shaping_new(&backend.counts), TR_OK);
	assert_int_equal(tr_shaping_new(&rig.shaping), TR_OK);
	tr_shaping_set_backend(rig.shaping, &table);
	rig.path_config = selects_a;
	rig_open(&rig);
	for (uint32_t i = 0; i < 1000; i++) {
		rig_put(&rig, "x.example", i);
		rig_run(&rig, 2 * TR_NS_PER_MS);
	}
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 1000);
	if (by_source[0] < 50 || by_source[0] > 220)
		fail_msg("%lu from a", by_source[0]);
	assert_true(backend.asked > 0);
	assert_int_equal(rig.events[TR_EV_TRANSIENT_FAILURE], 0);
	memset(by_source, 0, sizeof by_source);
	backend.broken = true; /* the other sources have none to ask for */
	table.fallback_local = true;
	rig_run(&rig, TR_NS_PER_S);
	for (uint32_t i = 0; i < 100; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig.sent, 1100);
	assert_true(by_source[0] <= 20); /* a bucket of its own */
	backend.broken = false;          /* what it decided by itself meanwhile was for a while only */
	rig_run(&rig, 2 * TR_NS_PER_S);
	asked = backend.asked;
	for (uint32_t i = 0; i < 100; i++)
		rig_put(&rig, "x.example", i);
	rig_run(&rig, TR_NS_PER_S);
	assert_true(backend.asked > asked);
	for (uint32_t i = 0; i < 100; i++) /* a question may be out when it stops */
		rig_put(&rig, "x.example", i);
	rig_run(&rig, TR_NS_PER_MS);
	rig_close(&rig);
	tr_shaping_free(rig.shaping);
	rig.shaping = NULL;
	tr_shaping_free(backend.counts);
	rig_open(&rig);
	rig_run(&rig, TR_NS_PER_S);
	assert_int_equal(rig_check(&rig), 0);
	rig_fini(&rig);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_queue_keeps_its_message_rate),
		cmocka_unit_test(a_rate_that_goes_lets_them_all_go),
		cmocka_unit_test(a_shared_rate_is_kept_together_and_held_while_the_backend_is_away),
		cmocka_unit_test(a_rate_of_selection_sends_the_others_elsewhere),
		cmocka_unit_test(a_shared_rate_of_selection_is_asked_for),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
