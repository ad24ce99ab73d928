/* Pools, calls and threads of AMQP without a broker: connections are refused, or accepted by one who says nothing. With
 * a broker: spec/transport/amqp_spec.lua. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/diag.h"
#include "transport/amqp_internal.h"

#define LIMIT_NS (60 * TR_NS_PER_S)

static struct tr_loop *loop;
static struct tr_amqp *amqp;
static int mute_fd; /* of a listener that never answers */
static uint16_t mute_port;
static uint32_t done_count, failed_count;

static void
quiet(void *arg, enum tr_level level, const char *target, const char *text)
{
}

static int
setup(void **state)
{
	struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof addr;

	tr_log_sink(quiet, NULL);
	done_count = failed_count = 0;
	assert_int_equal(tr_loop_new(&loop), TR_OK);
	tr_loop_enter(loop);
	assert_int_equal(tr_amqp_new(loop, &amqp), TR_OK);
	mute_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(mute_fd, (struct sockaddr *)&addr, sizeof addr), 0);
	assert_int_equal(listen(mute_fd, 64), 0);
	assert_int_equal(getsockname(mute_fd, (struct sockaddr *)&addr, &len), 0);
	mute_port = ntohs(addr.sin_port);
	return 0;
}

static int
teardown(void **state)
{
	tr_amqp_free(amqp);
	close(mute_fd);
	assert_int_equal(tr_hold_count(), 0);
	tr_loop_free(loop);
	tr_log_sink(NULL, NULL);
	return 0;
}

/* --- helpers ------------------------------------------------------------------------------------------------ */

static struct tr_amqp_pool *
pool_named(const char *name, uint16_t port, uint32_t size)
{
	struct tr_amqp_settings settings = {
		.hosts = {{TR_STR("127.0.0.1"), port}},
		.host_count = 1,
		.username = TR_STR("guest"),
		.password = TR_STR("guest"),
		.vhost = TR_STR("/"),
		.connection_name = tr_str(name),
		.pool_size = size,
		.connect_timeout_ns = 60 * TR_NS_PER_S,
		.wait_timeout_ns = 60 * TR_NS_PER_S,
		.publish_timeout_ns = 60 * TR_NS_PER_S,
		.idle_timeout_ns = TR_NS_PER_MS,
	};
	struct tr_amqp_pool *pool;

	assert_int_equal(tr_amqp_pool(amqp, &settings, &pool), TR_OK);
	return pool;
}

static void
done(struct tr_amqp_call *call)
{
	struct tr_amqp_result result;

	for (uint32_t i = 0; i < call->count; i++) {
		tr_amqp_call_result(call, i, &result);
		failed_count += result.status == TR_AMQP_FAILED;
	}
	done_count++;
	tr_amqp_call_free(call);
}

static struct tr_amqp_call *
call_of(struct tr_amqp_pool *pool, uint32_t count)
{
	const struct tr_amqp_message message = {
		.exchange = TR_STR(""), .routing_key = TR_STR("events"), .payload = TR_STR("hello")};
	struct tr_amqp_call *call = tr_amqp_call_new(pool, count);

	assert_non_null(call);
	for (uint32_t i = 0; i < count; i++)
		assert_int_equal(tr_amqp_call_add(call, &message), TR_OK);
	call->done = done;
	return call;
}

static void
run_until_done(uint32_t wanted)
{
	int64_t limit_ns = tr_amqp_real_ns() + LIMIT_NS;

	while (done_count < wanted) {
		if (tr_amqp_real_ns() > limit_ns)
			fail_msg("%u of %u calls are done", done_count, wanted);
		tr_loop_turn(loop);
	}
}

static uint32_t
pool_count(void)
{
	uint32_t count = 0;

	for (struct tr_amqp_pool *pool = amqp->pools; pool != NULL; pool = pool->next)
		count++;
	return count;
}

/* Until no thread is left: they end by themselves when idle. */
static void
await_no_threads(void)
{
	int64_t limit_ns = tr_amqp_real_ns() + LIMIT_NS;
	bool any = true;

	while (any) {
		if (tr_amqp_real_ns() > limit_ns)
			fail_msg("threads do not end");
		pthread_mutex_lock(&amqp->lock);
		any = amqp->connections != NULL;
		pthread_mutex_unlock(&amqp->lock);
	}
}

/* Reads a frame's head at `at`, which moves behind its payload and end. Returns the payload's length. */
static uint32_t
next_frame(const struct tr_buf *out, size_t *at, int type)
{
	const unsigned char *head = (const unsigned char *)out->data + *at;
	uint32_t len = (uint32_t)head[3] << 24 | (uint32_t)head[4] << 16 | (uint32_t)head[5] << 8 | head[6];

	assert_int_equal(head[0], type);
	assert_int_equal(head[1] << 8 | head[2], TR_AMQP_CHANNEL);
	*at += 7 + len + 1;
	assert_true(*at <= out->len);
	assert_int_equal((unsigned char)out->data[*at - 1], 0xce);
	return len;
}

/* --- tests -------------------------------------------------------------------------------------------------- */

static void
test_pools_that_nobody_uses_go(void **state)
{
	char name[24];

	for (int i = 0; i < 100; i++) {
		snprintf(name, sizeof name, "n%d", i);
		tr_amqp_call_start(call_of(pool_named(name, 1, 1), 1));
		run_until_done((uint32_t)i + 1);
		await_no_threads();
	}
	assert_int_equal(failed_count, 100);
	pool_named("last", 1, 1);
	assert_int_equal(pool_count(), 1);
}

static void
test_a_pool_with_a_call_or_a_thread_stays(void **state)
{
	struct tr_amqp_pool *held = pool_named("held", mute_port, 1);
	struct tr_amqp_call *building = call_of(held, 1), *under_way = call_of(pool_named("way", mute_port, 1), 1);

	tr_amqp_call_start(under_way);
	pool_named("other", 1, 1);
	pool_named("another", 1, 1);
	assert_int_equal(pool_count(), 3);
	assert_ptr_equal(pool_named("held", mute_port, 1), held);
	tr_amqp_call_free(building);
	tr_amqp_call_cancel(under_way); /* its thread waits for an answer that does not come */
	pool_named("third", 1, 1);
	assert_int_equal(pool_count(), 2);
}

static void
test_many_calls_and_threads(void **state)
{
	struct tr_amqp_pool *pool = pool_named("many", 1, 8);

	for (uint32_t round = 0; round < 20; round++) {
		for (int i = 0; i < 50; i++) {
			struct tr_amqp_call *call = call_of(pool, 3);

			if (i % 10 == 9)
				call->publish_timeout_ns = (round + 1) * TR_NS_PER_S;
			tr_amqp_call_start(call);
			if (i % 5 == 4)
				tr_amqp_call_cancel(call);
		}
		run_until_done((round + 1) * 40);
	}
	assert_int_equal(failed_count, 20 * 40 * 3);
}

static void
test_the_end_while_a_broker_is_mute(void **state)
{
	struct tr_amqp_pool *pool = pool_named("mute", mute_port, 3);
	struct tr_amqp_call *calls[6];
	int peer;
	char byte;
	int64_t began_ns = tr_amqp_real_ns();

	for (size_t i = 0; i < TR_COUNT(calls); i++) {
		calls[i] = call_of(pool, 2);
		tr_amqp_call_start(calls[i]);
	}
	peer = accept(mute_fd, NULL, NULL); /* a thread is at its login */
	assert_true(peer >= 0);
	assert_int_equal(recv(peer, &byte, 1, 0), 1);
	tr_amqp_free(amqp);
	assert_true(tr_amqp_real_ns() - began_ns < LIMIT_NS); /* which is the broker's time */
	for (size_t i = 0; i < TR_COUNT(calls); i++)
		tr_amqp_call_cancel(calls[i]);
	close(peer);
	assert_int_equal(done_count, 0);
	assert_int_equal(tr_amqp_new(loop, &amqp), TR_OK);
}

/* A body of several frames, as a broker of small frames wants it. */
static void
test_the_frames_of_a_message(void **state)
{
	static char body[10000];
	struct tr_amqp_connection connection = {.frame_max = 4096};
	struct tr_amqp_slot slot = {.exchange = amqp_cstring_bytes("mail"),
		.routing_key = amqp_cstring_bytes("events"),
		.mandatory = true,
		.payload = {.data = body, .len = sizeof body},
		.properties = {._flags = AMQP_BASIC_DELIVERY_MODE_FLAG, .delivery_mode = 2}};
	static const char method[] = "\0\x3c\0\x28\0\0\4mail\6events\1",
			  header[] = "\0\x3c\0\0\0\0\0\0\0\0\x27\x10\x10\0\2";
	char got[sizeof body];
	size_t at = 0, from = 0;

	for (size_t i = 0; i < sizeof body; i++)
		body[i] = (char)(i * 7);
	assert_int_equal(tr_amqp_put(&connection, &slot, 0), AMQP_STATUS_OK);
	assert_int_equal(next_frame(&connection.out, &at, AMQP_FRAME_METHOD), sizeof method - 1);
	assert_memory_equal(connection.out.data + 7, method, sizeof method - 1);
	assert_int_equal(next_frame(&connection.out, &at, AMQP_FRAME_HEADER), sizeof header - 1);
	assert_memory_equal(connection.out.data + at - sizeof header, header, sizeof header - 1);
	while (at < connection.out.len) {
		size_t start = at + 7;
		uint32_t len = next_frame(&connection.out, &at, AMQP_FRAME_BODY);

		assert_true(len <= 4096 - 8 && from + len <= sizeof got);
		memcpy(got + from, connection.out.data + start, len);
		from += len;
	}
	assert_int_equal(from, sizeof body);
	assert_memory_equal(got, body, sizeof body);

	tr_buf_clear(&connection.out); /* what fits into no frame is refused, and leaves nothing */
	slot.properties._flags |= AMQP_BASIC_USER_ID_FLAG | AMQP_BASIC_HEADERS_FLAG;
	slot.properties.headers.num_entries = 1;
	slot.properties.headers.entries = &(amqp_table_entry_t){
		amqp_cstring_bytes("x"), {.kind = AMQP_FIELD_KIND_UTF8, .value.bytes = {sizeof body, body}}};
	assert_true(tr_amqp_put(&connection, &slot, 0) < 0);
	assert_int_equal(connection.out.len, 0);
	tr_buf_free(&connection.out);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_pools_that_nobody_uses_go, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_pool_with_a_call_or_a_thread_stays, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many_calls_and_threads, setup, teardown),
		cmocka_unit_test(test_the_frames_of_a_message),
		cmocka_unit_test_setup_teardown(test_the_end_while_a_broker_is_mute, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
