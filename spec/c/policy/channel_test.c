/* Queues of bytes between threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "base/clock.h"
#include "policy/channel.h"

#define SENDERS 3
#define ITEMS 5000
#define LIMIT_NS (120 * TR_NS_PER_S)

static struct tr_loop *loop;
static struct tr_channel *channel;
static struct tr_channel_waiter waiter;
static int received, next[SENDERS], woken;
static bool over;

static int
setup(void **state)
{
	received = woken = 0;
	over = false;
	memset(next, 0, sizeof next);
	return tr_loop_new(&loop);
}

static int
teardown(void **state)
{
	tr_channel_unref(channel);
	tr_loop_free(loop);
	return tr_hold_count();
}

static int
send_number(struct tr_channel *to, int sender, int number)
{
	int item[2] = {sender, number};

	return tr_channel_send(to, (struct tr_str){(const char *)item, sizeof item});
}

static void receive_all(struct tr_channel_waiter *w);

/* Takes what is there, in order of each sender, and waits for more. */
static void
receive_all(struct tr_channel_waiter *w)
{
	int err;

	woken++;
	do {
		struct tr_buf bytes = {0};

		while ((err = tr_channel_receive(channel, &bytes)) == TR_OK) {
			int item[2];

			assert_int_equal(bytes.len, sizeof item);
			memcpy(item, bytes.data, sizeof item);
			assert_int_equal(item[1], next[item[0]]++);
			received++;
			tr_buf_clear(&bytes);
		}
		tr_buf_free(&bytes);
		if (err == TR_ECLOSED) {
			over = true;
			return;
		}
	} while (tr_channel_wait(channel, w, true, loop, receive_all) == TR_EAGAIN);
}

static void *
sender_main(void *arg)
{
	int sender = (int)(intptr_t)arg;

	for (int i = 0; i < ITEMS; i++)
		while (send_number(channel, sender, i) == TR_EAGAIN)
			sched_yield();
	return NULL;
}

static bool
is_over(void *arg)
{
	return over;
}

static bool
has_all(void *arg)
{
	return received == SENDERS * ITEMS;
}

static void
test_many_senders(void **state)
{
	pthread_t threads[SENDERS];

	channel = tr_channel_open("many", 100);
	assert_non_null(channel);
	receive_all(&waiter);
	for (int i = 0; i < SENDERS; i++)
		pthread_create(&threads[i], NULL, sender_main, (void *)(intptr_t)i);
	assert_true(tr_loop_run_until(loop, has_all, NULL, LIMIT_NS));
	for (int i = 0; i < SENDERS; i++)
		pthread_join(threads[i], NULL);
	tr_channel_close(channel);
	assert_true(tr_loop_run_until(loop, is_over, NULL, LIMIT_NS));
	assert_int_equal(received, SENDERS * ITEMS);
	assert_int_equal(send_number(channel, 0, 0), TR_ECLOSED);
}

static void
room(struct tr_channel_waiter *w)
{
	woken++;
}

static bool
is_woken(void *arg)
{
	return woken > 0;
}

static void
test_waits_for_room(void **state)
{
	struct tr_channel_waiter second;
	struct tr_buf bytes = {0};

	channel = tr_channel_open("room", 1);
	assert_int_equal(tr_channel_wait(channel, &waiter, false, loop, room), TR_EAGAIN); /* there is some */
	assert_int_equal(send_number(channel, 0, 0), TR_OK);
	assert_int_equal(send_number(channel, 0, 1), TR_EAGAIN);
	assert_int_equal(tr_channel_wait(channel, &waiter, false, loop, room), TR_OK);
	assert_int_equal(tr_channel_wait(channel, &second, false, loop, room), TR_OK);
	assert_true(tr_channel_leave(&waiter));
	assert_int_equal(tr_channel_receive(channel, &bytes), TR_OK);
	assert_false(tr_channel_leave(&second)); /* on its way */
	assert_true(tr_loop_run_until(loop, is_woken, NULL, LIMIT_NS));
	assert_int_equal(woken, 1);
	assert_int_equal(tr_channel_length(channel), 0);
	tr_buf_free(&bytes);
}

static void
test_one_receiver(void **state)
{
	struct tr_channel_waiter second;

	channel = tr_channel_open("one", 0);
	assert_int_equal(tr_channel_wait(channel, &waiter, true, loop, room), TR_OK);
	assert_int_equal(tr_channel_wait(channel, &second, true, loop, room), TR_EEXIST);
	assert_true(tr_channel_leave(&waiter));
	assert_int_equal(tr_channel_wait(channel, &second, true, loop, room), TR_OK);
	tr_channel_close(channel);
	assert_true(tr_loop_run_until(loop, is_woken, NULL, LIMIT_NS));
	assert_true(tr_channel_closed(channel));
}

static void
test_is_found_by_name(void **state)
{
	struct tr_channel *again;
	struct tr_buf bytes = {0};

	channel = tr_channel_open("name", 7);
	again = tr_channel_open("name", 0);
	assert_ptr_equal(again, channel);
	assert_int_equal(send_number(channel, 0, 0), TR_OK);
	tr_channel_unref(again);
	tr_channel_unref(channel); /* what is in it stays */
	channel = tr_channel_open("name", 0);
	assert_int_equal(tr_channel_length(channel), 1);
	assert_int_equal(tr_channel_receive(channel, &bytes), TR_OK);
	assert_int_equal(tr_channel_receive(channel, &bytes), TR_EAGAIN);
	tr_buf_free(&bytes);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_many_senders, setup, teardown),
		cmocka_unit_test_setup_teardown(test_waits_for_room, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_receiver, setup, teardown),
		cmocka_unit_test_setup_teardown(test_is_found_by_name, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
