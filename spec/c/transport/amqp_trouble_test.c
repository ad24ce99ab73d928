/* AMQP with a broker that nacks, returns, blocks, closes, says nothing, or dies between any two frames. */
#include "amqp_peer.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/diag.h"
#include "transport/amqp_internal.h"

#define LIMIT_NS (120 * TR_NS_PER_S)
#define PATIENT_MS 60000 /* what must not run out, however slow the machine is */
#define SHORT_MS 600     /* what is to run out; a frame that is under way needs less */
#define MESSAGES_MAX 8

static struct tr_loop *loop;
static struct tr_amqp *amqp;

static void
quiet(void *arg, enum tr_level level, const char *target, const char *text)
{
}

static int
setup(void **state)
{
	tr_log_sink(quiet, NULL);
	assert_int_equal(tr_loop_new(&loop), TR_OK);
	tr_loop_enter(loop);
	assert_int_equal(tr_amqp_new(loop, &amqp), TR_OK);
	return 0;
}

static int
teardown(void **state)
{
	tr_amqp_free(amqp);
	assert_int_equal(tr_hold_count(), 0);
	tr_loop_free(loop);
	tr_log_sink(NULL, NULL);
	return 0;
}

/* --- helpers ------------------------------------------------------------------------------------------------ */

struct answer {
	enum tr_amqp_status status;
	int err;
	uint16_t code;
	bool permanent;
	char text[256];
};

struct publishing {
	bool done;
	uint32_t count;
	struct answer answers[MESSAGES_MAX];
};

static void
done(struct tr_amqp_call *call)
{
	struct publishing *publishing = call->owner;

	for (uint32_t i = 0; i < call->count; i++) {
		struct tr_amqp_result result;
		struct answer *answer = &publishing->answers[i];

		tr_amqp_call_result(call, i, &result);
		*answer = (struct answer){result.status, result.err, result.reply_code, result.permanent, ""};
		snprintf(answer->text, sizeof answer->text, "%.*s", (int)result.text.len, result.text.data);
	}
	publishing->done = true;
	tr_amqp_call_free(call);
}

static bool
is_done(void *arg)
{
	return ((struct publishing *)arg)->done;
}

static struct tr_str payload = TR_STR("hello");
static uint16_t beat_s; /* between heartbeats; 0: none */

/* Begins to publish "hello" to the queue events, so many times. */
static void
begin(struct publishing *publishing, const struct amqp_peer *peer, uint32_t count, int64_t connect_ms,
	int64_t timeout_ms)
{
	struct tr_amqp_settings settings = {
		.hosts = {{TR_STR("127.0.0.1"), peer->port}},
		.host_count = 1,
		.username = TR_STR("guest"),
		.password = TR_STR("guest"),
		.vhost = TR_STR("/"),
		.heartbeat_s = beat_s,
		.pool_size = 1,
		.connect_timeout_ns = connect_ms * TR_NS_PER_MS,
		.wait_timeout_ns = PATIENT_MS * TR_NS_PER_MS,
		.publish_timeout_ns = timeout_ms * TR_NS_PER_MS,
		.idle_timeout_ns = 60 * TR_NS_PER_S,
	};
	const struct tr_amqp_message message = {
		.exchange = TR_STR(""), .routing_key = TR_STR("events"), .payload = payload, .mandatory = true};
	struct tr_amqp_pool *pool;
	struct tr_amqp_call *call;

	assert_int_equal(tr_amqp_pool(amqp, &settings, &pool), TR_OK);
	call = tr_amqp_call_new(pool, count);
	assert_non_null(call);
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(tr_amqp_call_add(call, &message), TR_OK);
	call->publish_timeout_ns = settings.publish_timeout_ns;
	*publishing = (struct publishing){.count = count};
	call->done = done;
	call->owner = publishing;
	tr_amqp_call_start(call);
}

static void
await(struct publishing *publishing)
{
	assert_true(tr_loop_run_until(loop, is_done, publishing, LIMIT_NS));
}

static struct publishing
publish_within(const struct amqp_peer *peer, uint32_t count, int64_t connect_ms, int64_t timeout_ms)
{
	struct publishing publishing;

	begin(&publishing, peer, count, connect_ms, timeout_ms);
	await(&publishing);
	return publishing;
}

static struct publishing
publish(const struct amqp_peer *peer, uint32_t count, int64_t timeout_ms)
{
	return publish_within(peer, count, PATIENT_MS, timeout_ms);
}

static void
assert_answer(const struct publishing *publishing, uint32_t i, enum tr_amqp_status status, const char *text)
{
	const struct answer *answer = &publishing->answers[i];

	if (answer->status != status || strstr(answer->text, text) == NULL)
		fail_msg("message %u: %d %s %u '%s'", i, answer->status, tr_err_name(answer->err), answer->code,
			answer->text);
}

/* One connection; what is said on it. */
static struct publishing
with_script(const char *script, uint32_t count, int64_t timeout_ms)
{
	const char *const scripts[] = {script};
	struct amqp_peer peer;
	struct publishing publishing;

	amqp_peer_start(&peer, scripts, 1);
	publishing = publish(&peer, count, timeout_ms);
	tr_amqp_free(amqp); /* hangs up */
	amqp_peer_stop(&peer);
	assert_int_equal(tr_amqp_new(loop, &amqp), TR_OK);
	return publishing;
}

/* --- tests -------------------------------------------------------------------------------------------------- */

static void
test_confirms_in_any_form(void **state)
{
	static const char *const scripts[] = {AMQP_LOGIN "mmmaaah", AMQP_LOGIN "mmmAh", AMQP_LOGIN "mmmaAh",
		AMQP_LOGIN "mambmauah", AMQP_LOGIN "mmmbAuh"};

	for (size_t i = 0; i < TR_COUNT(scripts); i++) {
		struct publishing publishing = with_script(scripts[i], 3, PATIENT_MS);

		for (uint32_t at = 0; at < 3; at++)
			assert_answer(&publishing, at, TR_AMQP_ACKED, "");
	}
}

static void
test_nack_and_return_are_of_one_message(void **state)
{
	struct publishing publishing = with_script(AMQP_LOGIN "mmmanah", 3, PATIENT_MS);

	assert_answer(&publishing, 0, TR_AMQP_ACKED, "");
	assert_answer(&publishing, 1, TR_AMQP_NACKED, "nacked");
	assert_answer(&publishing, 2, TR_AMQP_ACKED, "");
	publishing = with_script(AMQP_LOGIN "mrah", 1, PATIENT_MS);
	assert_answer(&publishing, 0, TR_AMQP_RETURNED, "returned by the broker: 312 NO_ROUTE");
	assert_int_equal(publishing.answers[0].code, 312);
	publishing = with_script(AMQP_LOGIN "mr", 1, PATIENT_MS); /* and dies before the confirm */
	assert_answer(&publishing, 0, TR_AMQP_RETURNED, "312");
}

static void
test_silence_is_bounded(void **state)
{
	static const char *const mute[] = {"h"};
	struct publishing publishing = with_script(AMQP_LOGIN "mmah", 2, 1000);
	struct amqp_peer peer;

	assert_answer(&publishing, 0, TR_AMQP_ACKED, "");
	assert_answer(&publishing, 1, TR_AMQP_FAILED, "has not confirmed");
	assert_int_equal(publishing.answers[1].err, TR_ETIMEDOUT);
	amqp_peer_start(&peer, mute, 1); /* not even a greeting */
	publishing = publish_within(&peer, 1, 200, PATIENT_MS);
	assert_answer(&publishing, 0, TR_AMQP_FAILED, "");
	assert_int_equal(publishing.answers[0].err, TR_ETIMEDOUT);
	tr_amqp_free(amqp);
	amqp_peer_stop(&peer);
	assert_int_equal(tr_amqp_new(loop, &amqp), TR_OK);
}

/* More than a socket takes in, for one who does not read. */
static void
test_a_write_is_bounded(void **state)
{
	size_t len = (size_t)32 << 20;
	char *data = calloc(1, len);
	struct publishing publishing;

	assert_non_null(data);
	payload = (struct tr_str){data, len};
	publishing = with_script(AMQP_LOGIN "h", 1, 500);
	assert_answer(&publishing, 0, TR_AMQP_FAILED, "has not confirmed");
	assert_int_equal(publishing.answers[0].err, TR_ETIMEDOUT);
	payload = TR_STR("hello");
	free(data);
}

/* What comes while a connection waits for confirms goes along, and each call ends with its own. */
static void
test_calls_go_along_with_those_that_wait(void **state)
{
	static const char *const scripts[] = {AMQP_LOGIN "mmmamAh"};
	struct publishing first, second, third;
	struct amqp_peer peer;

	amqp_peer_start(&peer, scripts, 1);
	begin(&first, &peer, 1, PATIENT_MS, PATIENT_MS);
	while (atomic_load(&peer.messages) < 1)
		tr_loop_turn(loop);
	begin(&second, &peer, 2, PATIENT_MS, PATIENT_MS); /* the first is confirmed only when these have come */
	await(&first);
	assert_answer(&first, 0, TR_AMQP_ACKED, "");
	assert_false(second.done);
	begin(&third, &peer, 1, PATIENT_MS, PATIENT_MS);
	await(&third);
	await(&second);
	assert_answer(&second, 0, TR_AMQP_ACKED, "");
	assert_answer(&second, 1, TR_AMQP_ACKED, "");
	assert_answer(&third, 0, TR_AMQP_ACKED, "");
	assert_int_equal(peer.connections, 1);
	tr_amqp_free(amqp);
	amqp_peer_stop(&peer);
	assert_int_equal(tr_amqp_new(loop, &amqp), TR_OK);
}

/* All that are under way fail with their connection, those to blame are found, whichever call they are of. */
static void
test_the_calls_of_a_window_share_its_end(void **state)
{
	static const char *const scripts[] = {AMQP_LOGIN "mmX", AMQP_LOGIN "mmx", AMQP_LOGIN "mx", AMQP_LOGIN "mah"};
	struct publishing first, second;
	struct amqp_peer peer;

	amqp_peer_start(&peer, scripts, TR_COUNT(scripts));
	for (int i = 0; i < 2; i++) {
		begin(&first, &peer, 1, PATIENT_MS, PATIENT_MS);
		while (atomic_load(&peer.messages) < 1 + 2 * i)
			tr_loop_turn(loop);
		begin(&second, &peer, 1, PATIENT_MS, PATIENT_MS);
		await(&first);
		await(&second);
		assert_answer(&first, 0, TR_AMQP_FAILED, i == 0 ? "320" : "406");
		assert_int_equal(first.answers[0].permanent, i == 1);
		assert_answer(&second, 0, i == 0 ? TR_AMQP_FAILED : TR_AMQP_ACKED, i == 0 ? "320" : "");
	}
	tr_amqp_free(amqp);
	amqp_peer_stop(&peer);
	assert_int_equal(tr_amqp_new(loop, &amqp), TR_OK);
}

/* RabbitMQ's disk alarm: it says blocked and reads no more; when there is room again it goes on. */
static void
test_a_disk_alarm_holds_back(void **state)
{
	struct publishing publishing = with_script(AMQP_LOGIN "bh", 1, SHORT_MS);

	assert_answer(&publishing, 0, TR_AMQP_FAILED, "it has blocked publishers");
	assert_int_equal(publishing.answers[0].err, TR_ETIMEDOUT);
	assert_false(publishing.answers[0].permanent);
	publishing = with_script(AMQP_LOGIN "bmuah", 1, PATIENT_MS);
	assert_answer(&publishing, 0, TR_AMQP_ACKED, "");
}

struct waiting { /* a patient call */
	struct publishing publishing;
	char text[256]; /* what holds it up; "": nothing does */
	uint32_t told;
};

static void
held_up(struct tr_amqp_call *call, const char *text)
{
	struct waiting *waiting = call->owner;

	waiting->told++;
	snprintf(waiting->text, sizeof waiting->text, "%s", text != NULL ? text : "");
}

static bool
is_held_up(void *arg)
{
	return ((struct waiting *)arg)->text[0] != '\0';
}

/* Its deadlines are short: they would pass at once, if they ran. wait_ms: until a connection is there, which may be one
 * that is still to be opened. */
static void
start_patient(const struct amqp_peer *peer, struct waiting *waiting, uint16_t heartbeat_s, int64_t wait_ms)
{
	struct tr_amqp_settings settings = {
		.hosts = {{TR_STR("127.0.0.1"), peer->port}},
		.host_count = 1,
		.username = TR_STR("guest"),
		.password = TR_STR("guest"),
		.vhost = TR_STR("/"),
		.heartbeat_s = heartbeat_s,
		.pool_size = 1,
		.connect_timeout_ns = PATIENT_MS * TR_NS_PER_MS,
		.wait_timeout_ns = SHORT_MS * TR_NS_PER_MS,
		.publish_timeout_ns = SHORT_MS * TR_NS_PER_MS,
		.idle_timeout_ns = 60 * TR_NS_PER_S,
	};
	const struct tr_amqp_message message = {
		.exchange = TR_STR(""), .routing_key = TR_STR("events"), .payload = TR_STR("hello"), .mandatory = true};
	struct tr_amqp_pool *pool;
	struct tr_amqp_call *call;

	memset(waiting, 0, sizeof *waiting);
	waiting->publishing.count = 1;
	assert_int_equal(tr_amqp_pool(amqp, &settings, &pool), TR_OK);
	call = tr_amqp_call_new(pool, 1);
	assert_int_equal(tr_amqp_call_add(call, &message), TR_OK);
	call->done = done;
	call->owner = &waiting->publishing;
	call->patient = true;
	call->wait_timeout_ns = wait_ms * TR_NS_PER_MS;
	call->held_up = held_up;
	tr_amqp_call_start(call);
}

static bool
never(void *arg)
{
	return false;
}

/* A call that is patient waits as long as the alarm takes, whatever its deadlines are, and so does the next one behind
 * it: what the broker has not read is not sent twice. */
static void
test_who_is_patient_waits_for_the_end_of_an_alarm(void **state)
{
	static const char *const scripts[] = {AMQP_LOGIN "mbwuamah"};
	struct waiting first, second;
	struct amqp_peer peer;

	amqp_peer_start(&peer, scripts, TR_COUNT(scripts));
	start_patient(&peer, &first, 60, PATIENT_MS);
	assert_true(tr_loop_run_until(loop, is_held_up, &first, LIMIT_NS));
	assert_non_null(strstr(first.text, "takes no messages for now: low on disk"));
	start_patient(&peer, &second, 60, SHORT_MS);
	assert_true(tr_loop_run_until(loop, is_held_up, &second, LIMIT_NS));
	tr_loop_run_until(loop, never, NULL, 3 * SHORT_MS / 2 * TR_NS_PER_MS); /* their time would be over */
	assert_false(first.publishing.done);
	assert_false(second.publishing.done);
	assert_string_equal(second.text, first.text);
	atomic_store(&peer.go, true);
	assert_true(tr_loop_run_until(loop, is_done, &second.publishing, LIMIT_NS));
	assert_true(first.publishing.done);
	assert_answer(&first.publishing, 0, TR_AMQP_ACKED, "");
	assert_answer(&second.publishing, 0, TR_AMQP_ACKED, "");
	assert_string_equal(first.text, "");
	assert_int_equal(peer.connections, 1);
	assert_int_equal(peer.messages, 2);
	tr_amqp_free(amqp);
	amqp_peer_stop(&peer);
	assert_int_equal(tr_amqp_new(loop, &amqp), TR_OK);
}

/* It waits for no broker that dies meanwhile, and for none that has no heartbeat. */
static void
test_patience_has_an_end(void **state)
{
	static const char *const dying[] = {AMQP_LOGIN "mbw"}, *const mute[] = {AMQP_LOGIN "mbh"};
	struct waiting waiting;
	struct amqp_peer peer;

	amqp_peer_start(&peer, dying, 1);
	start_patient(&peer, &waiting, 60, PATIENT_MS);
	assert_true(tr_loop_run_until(loop, is_held_up, &waiting, LIMIT_NS));
	atomic_store(&peer.go, true);
	assert_true(tr_loop_run_until(loop, is_done, &waiting.publishing, LIMIT_NS));
	assert_answer(&waiting.publishing, 0, TR_AMQP_FAILED, "lost the connection");
	tr_amqp_free(amqp);
	amqp_peer_stop(&peer);
	assert_int_equal(tr_amqp_new(loop, &amqp), TR_OK);
	amqp_peer_start(&peer, mute, 1);
	start_patient(&peer, &waiting, 0, PATIENT_MS);
	assert_true(tr_loop_run_until(loop, is_done, &waiting.publishing, LIMIT_NS));
	assert_answer(&waiting.publishing, 0, TR_AMQP_FAILED, "it has blocked publishers");
	tr_amqp_free(amqp);
	amqp_peer_stop(&peer);
	assert_int_equal(tr_amqp_new(loop, &amqp), TR_OK);
}

static void
test_a_close_is_told_apart(void **state)
{
	static const char *const scripts[] = {AMQP_LOGIN "mmaX", AMQP_LOGIN "mah"};
	struct publishing publishing;
	struct amqp_peer peer;

	amqp_peer_start(&peer, scripts, TR_COUNT(scripts));
	publishing = publish(&peer, 2, PATIENT_MS); /* the broker is shut down */
	assert_answer(&publishing, 0, TR_AMQP_ACKED, "");
	assert_answer(&publishing, 1, TR_AMQP_FAILED, "320 CONNECTION_FORCED");
	assert_false(publishing.answers[1].permanent);
	assert_int_equal(peer.connections, 1);
	publishing = publish(&peer, 1, PATIENT_MS);
	assert_answer(&publishing, 0, TR_AMQP_ACKED, "");
	tr_amqp_free(amqp);
	amqp_peer_stop(&peer);
	assert_int_equal(tr_amqp_new(loop, &amqp), TR_OK);
}

static void
test_one_of_a_window_is_to_blame(void **state)
{
	static const char *const scripts[] = {
		AMQP_LOGIN "mmmax", AMQP_LOGIN "mx", AMQP_LOGIN "mah"}; /* all; the second alone; the third alone */
	struct publishing publishing;
	struct amqp_peer peer;

	amqp_peer_start(&peer, scripts, TR_COUNT(scripts));
	publishing = publish(&peer, 3, PATIENT_MS);
	assert_answer(&publishing, 0, TR_AMQP_ACKED, "");
	assert_answer(&publishing, 1, TR_AMQP_FAILED, "406 PRECONDITION_FAILED");
	assert_true(publishing.answers[1].permanent);
	assert_answer(&publishing, 2, TR_AMQP_ACKED, "");
	tr_amqp_free(amqp);
	amqp_peer_stop(&peer);
	assert_int_equal(tr_amqp_new(loop, &amqp), TR_OK);
}

static void
test_nonsense_ends_the_connection(void **state)
{
	static const char *const scripts[] = {"pg", "psktkkg", AMQP_LOGIN "gh", AMQP_LOGIN "mgh"};

	for (size_t i = 0; i < TR_COUNT(scripts); i++) {
		struct publishing publishing = with_script(scripts[i], 1, PATIENT_MS);

		assert_answer(&publishing, 0, TR_AMQP_FAILED, "");
	}
}

/* It dies before and after each frame, and in the middle of each that it sends: the call fails, and says so; the next
 * one has a new connection. */
static void
test_death_at_every_step(void **state)
{
	static const char whole[] = AMQP_LOGIN "ma";

	for (size_t at = 0; at < sizeof whole - 1; at++) {
		for (int half = 0; half < 2; half++) {
			char dying[sizeof whole + 4];
			const char *const scripts[] = {dying, AMQP_LOGIN "mah"};
			struct publishing publishing;
			struct amqp_peer peer;

			if (half && strchr("pkm", whole[at]) != NULL)
				continue;
			snprintf(dying, sizeof dying, half ? "%.*s/%c" : "%.*s", (int)at, whole, whole[at]);
			amqp_peer_start(&peer, scripts, TR_COUNT(scripts));
			publishing = publish(&peer, 1, PATIENT_MS);
			if (publishing.answers[0].status != TR_AMQP_FAILED || publishing.answers[0].permanent)
				fail_msg("'%s': %d", dying, publishing.answers[0].status);
			publishing = publish(&peer, 1, PATIENT_MS);
			if (publishing.answers[0].status != TR_AMQP_ACKED)
				fail_msg("after '%s': %s", dying, publishing.answers[0].text);
			assert_int_equal(peer.connections, 2);
			tr_amqp_free(amqp);
			amqp_peer_stop(&peer);
			assert_int_equal(tr_amqp_new(loop, &amqp), TR_OK);
		}
	}
}

/* Idle for longer than a heartbeat, and the broker is gone: in order, by a reset, or without a word; or without a word
 * while it has a message. What is published then is on a new connection, and what was not confirmed is told when the
 * heartbeats have stopped, long before its own time is over. All at once, since heartbeats count in seconds. */
static void
test_gone_for_longer_than_the_heartbeat(void **state)
{
	static const char *const scripts[][2] = {
		{AMQP_LOGIN "makX", AMQP_LOGIN "mah"},
		{AMQP_LOGIN "makR", AMQP_LOGIN "mah"},
		{AMQP_LOGIN "mae", AMQP_LOGIN "mah"},
		{AMQP_LOGIN "me", AMQP_LOGIN "mah"},
	};
	enum { COUNT = TR_COUNT(scripts), UNCONFIRMED = COUNT - 1 };
	struct publishing publishings[COUNT];
	struct amqp_peer peers[COUNT];

	beat_s = 1;
	for (int i = 0; i < COUNT; i++) {
		amqp_peer_start(&peers[i], scripts[i], 2);
		begin(&publishings[i], &peers[i], 1, PATIENT_MS, PATIENT_MS);
	}
	for (int i = 0; i < UNCONFIRMED; i++) {
		await(&publishings[i]);
		assert_answer(&publishings[i], 0, TR_AMQP_ACKED, "");
	}
	for (int i = 0; i < UNCONFIRMED; i++)
		while (peers[i].ended == 0)
			nanosleep(&(struct timespec){0, TR_NS_PER_MS}, NULL);
	assert_true(tr_loop_run_until(loop, is_done, &publishings[UNCONFIRMED], PATIENT_MS / 2 * TR_NS_PER_MS));
	assert_answer(&publishings[UNCONFIRMED], 0, TR_AMQP_FAILED, "");
	assert_false(publishings[UNCONFIRMED].answers[0].permanent);
	for (int i = 0; i < COUNT; i++) {
		struct publishing again = publish(&peers[i], 1, PATIENT_MS);

		if (i < UNCONFIRMED - 1 && again.answers[0].status == TR_AMQP_FAILED) /* it had not heard of the end */
			again = publish(&peers[i], 1, PATIENT_MS);
		assert_answer(&again, 0, TR_AMQP_ACKED, "");
		assert_int_equal(peers[i].connections, 2);
		assert_int_equal(peers[i].messages, 2);
	}
	beat_s = 0;
	tr_amqp_free(amqp);
	for (int i = 0; i < COUNT; i++)
		amqp_peer_stop(&peers[i]);
	assert_int_equal(tr_amqp_new(loop, &amqp), TR_OK);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_confirms_in_any_form, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nack_and_return_are_of_one_message, setup, teardown),
		cmocka_unit_test_setup_teardown(test_silence_is_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_write_is_bounded, setup, teardown),
		cmocka_unit_test_setup_teardown(test_calls_go_along_with_those_that_wait, setup, teardown),
		cmocka_unit_test_setup_teardown(test_the_calls_of_a_window_share_its_end, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_disk_alarm_holds_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_who_is_patient_waits_for_the_end_of_an_alarm, setup, teardown),
		cmocka_unit_test_setup_teardown(test_patience_has_an_end, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_close_is_told_apart, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_of_a_window_is_to_blame, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nonsense_ends_the_connection, setup, teardown),
		cmocka_unit_test_setup_teardown(test_death_at_every_step, setup, teardown),
		cmocka_unit_test_setup_teardown(test_gone_for_longer_than_the_heartbeat, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
