#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "net/stream.h"

#define LIMIT_NS (60 * TR_NS_PER_S)

static struct tr_loop *loop;

struct end { /* one side of a connection, as its owner sees it */
	struct tr_stream *stream;
	struct tr_buf got;
	int data_calls, drained_calls, closed_calls, err;
	bool keep; /* leaves its input where it is */
	bool pause_after;
};

static void
on_data(struct tr_stream *stream, void *arg)
{
	struct end *end = arg;
	struct tr_buf *in = tr_stream_input(stream);

	end->data_calls++;
	if (end->keep)
		return;
	tr_buf_add(&end->got, in->data, in->len);
	tr_buf_consume(in, in->len);
	if (end->pause_after)
		tr_stream_pause(stream);
}

static void
on_drained(struct tr_stream *stream, void *arg)
{
	((struct end *)arg)->drained_calls++;
}

static void
on_closed(struct tr_stream *stream, int err, void *arg)
{
	struct end *end = arg;

	end->closed_calls++;
	end->err = err;
}

static const struct tr_stream_handlers handlers = {on_data, on_drained, on_closed};

static int
setup(void **state)
{
	return tr_loop_new(&loop);
}

static int
setup_virtual(void **state)
{
	tr_clock_virtual(INT64_C(1795630930) * TR_NS_PER_S);
	return tr_loop_new(&loop);
}

static int
teardown(void **state)
{
	for (int i = 0; i < 3; i++) /* what is closed is freed at the turn's end */
		tr_loop_turn(loop);
	tr_loop_free(loop);
	tr_clock_real();
	return tr_hold_count();
}

/* Our end of a socket pair, and the peer's raw descriptor. */
static int
open_end(struct end *end)
{
	int fds[2];

	memset(end, 0, sizeof *end);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	end->stream = tr_stream_new(loop, fds[0], &handlers, end);
	assert_non_null(end->stream);
	fcntl(fds[1], F_SETFL, O_NONBLOCK);
	return fds[1];
}

static void
shut_end(struct end *end)
{
	tr_stream_abort(end->stream);
	tr_buf_free(&end->got);
}

static bool
is_closed(void *arg)
{
	return ((struct end *)arg)->closed_calls > 0;
}

static bool
has_data(void *arg)
{
	return ((struct end *)arg)->data_calls > 0;
}

static void
writes_of_a_turn_leave_together(void **state)
{
	struct end end;
	int peer = open_end(&end);
	char bytes[64];

	tr_stream_write(end.stream, "220 ", 4);
	tr_stream_write(end.stream, "hello\r\n", 7);
	assert_int_equal(recv(peer, bytes, sizeof bytes, MSG_DONTWAIT), -1);
	assert_int_equal(tr_stream_backlog(end.stream), 11);
	tr_loop_turn(loop);
	assert_int_equal(recv(peer, bytes, sizeof bytes, 0), 11);
	assert_memory_equal(bytes, "220 hello\r\n", 11);
	assert_int_equal(tr_stream_backlog(end.stream), 0);
	tr_stream_write(end.stream, "now", 3);
	tr_stream_flush(end.stream);
	assert_int_equal(recv(peer, bytes, sizeof bytes, MSG_DONTWAIT), 3);
	shut_end(&end);
	close(peer);
}

/* Copied text and shared bytes keep their order, whatever the kernel takes at a time. */
static void
blobs_and_copies_keep_their_order(void **state)
{
	struct end end;
	int peer = open_end(&end);
	struct tr_blob *blob = tr_blob_new(NULL, 3 * 1024 * 1024);
	size_t total = 0, want = blob->len + 2 * 5;
	char *all = malloc(want);

	for (size_t i = 0; i < blob->len; i++)
		blob->data[i] = (char)(i * 7 + i / 251);
	tr_stream_write(end.stream, "head\n", 5);
	tr_stream_write_blob(end.stream, blob, blob->data, blob->len);
	tr_stream_write(end.stream, "tail\n", 5);
	for (int i = 0; i < 100000 && total < want; i++) {
		ssize_t got;

		tr_loop_turn(loop);
		while ((got = recv(peer, all + total, want - total, 0)) > 0)
			total += (size_t)got;
	}
	assert_int_equal(total, want);
	assert_memory_equal(all, "head\n", 5);
	assert_memory_equal(all + 5, blob->data, blob->len);
	assert_memory_equal(all + 5 + blob->len, "tail\n", 5);
	tr_loop_turn(loop);
	assert_int_equal(end.drained_calls, 1);
	assert_int_equal(atomic_load(&blob->refs), 1); /* its reference is gone with the last byte */
	tr_blob_unref(blob);
	free(all);
	shut_end(&end);
	close(peer);
}

static void
input_is_bounded_and_goes_on_when_consumed(void **state)
{
	struct end end;
	int peer = open_end(&end);
	char block[1000];
	size_t sent = 0, got = 0;

	memset(block, 'x', sizeof block);
	end.keep = true;
	tr_stream_set_input_limit(end.stream, 1500);
	for (int i = 0; i < 10; i++)
		sent += (size_t)send(peer, block, sizeof block, 0);
	for (int i = 0; i < 10; i++)
		tr_loop_turn(loop);
	assert_int_equal(tr_stream_input(end.stream)->len, 1500);
	for (int i = 0; i < 100 && got < sent; i++) {
		struct tr_buf *in = tr_stream_input(end.stream);

		got += in->len;
		assert_true(in->len <= 1500);
		tr_buf_consume(in, in->len);
		tr_loop_turn(loop);
	}
	assert_int_equal(got, sent);
	shut_end(&end);
	close(peer);
}

static void
a_paused_stream_reads_nothing_and_resumes(void **state)
{
	struct end end;
	int peer = open_end(&end);

	end.pause_after = true;
	assert_int_equal(send(peer, "a", 1, 0), 1);
	assert_true(tr_loop_run_until(loop, has_data, &end, LIMIT_NS));
	assert_int_equal(send(peer, "b", 1, 0), 1);
	close(peer);
	for (int i = 0; i < 5; i++)
		tr_loop_turn(loop);
	assert_int_equal(end.data_calls, 1);
	assert_int_equal(end.closed_calls, 0); /* the end is seen after resume, and after the bytes before it */
	end.pause_after = false;
	tr_stream_resume(end.stream);
	assert_true(tr_loop_run_until(loop, is_closed, &end, LIMIT_NS));
	assert_int_equal(end.data_calls, 2);
	assert_int_equal(end.err, TR_ECLOSED);
	assert_memory_equal(end.got.data, "ab", 2);
	shut_end(&end);
}

static void
resume_offers_what_was_left(void **state)
{
	struct end end;
	int peer = open_end(&end);

	end.keep = true;
	assert_int_equal(send(peer, "line", 4, 0), 4);
	assert_true(tr_loop_run_until(loop, has_data, &end, LIMIT_NS));
	tr_stream_pause(end.stream);
	end.keep = false;
	tr_stream_resume(end.stream);
	assert_int_equal(end.data_calls, 1); /* not inside the call */
	tr_loop_turn(loop);
	assert_int_equal(end.data_calls, 2);
	assert_int_equal(end.got.len, 4);
	shut_end(&end);
	close(peer);
}

static void
what_came_before_the_end_is_offered_first(void **state)
{
	struct end end;
	int peer = open_end(&end);

	assert_int_equal(send(peer, "last", 4, 0), 4);
	close(peer);
	assert_true(tr_loop_run_until(loop, is_closed, &end, LIMIT_NS));
	assert_int_equal(end.closed_calls, 1);
	assert_int_equal(end.err, TR_ECLOSED);
	assert_int_equal(end.got.len, 4);
	shut_end(&end);
}

/* A peer that said why and closed, while we were writing: its words are still read. */
static void
a_failed_write_does_not_hide_what_the_peer_said(void **state)
{
	struct end end;
	int peer = open_end(&end);

	assert_int_equal(send(peer, "421 bye", 7, 0), 7);
	close(peer);
	tr_stream_write(end.stream, "MAIL", 4);
	tr_stream_flush(end.stream);
	assert_int_equal(end.closed_calls, 0); /* never inside a call of the owner */
	assert_true(tr_loop_run_until(loop, is_closed, &end, LIMIT_NS));
	assert_int_equal(end.closed_calls, 1);
	assert_int_equal(end.got.len, 7);
	tr_stream_write(end.stream, "more", 4);
	assert_int_equal(tr_stream_backlog(end.stream), 0);
	shut_end(&end);
}

static void
a_deadline_is_not_renewed_by_bytes(void **state)
{
	struct end end;
	int peer = open_end(&end);

	tr_stream_deadline(end.stream, 20 * TR_NS_PER_MS);
	assert_int_equal(send(peer, "x", 1, 0), 1);
	assert_true(tr_loop_run_until(loop, is_closed, &end, LIMIT_NS));
	assert_int_equal(end.err, TR_ETIMEDOUT);
	assert_int_equal(end.got.len, 1);
	/* last words are still possible */
	tr_stream_write(end.stream, "421", 3);
	tr_stream_close(end.stream, TR_NS_PER_S);
	tr_loop_turn(loop);
	char bytes[8];
	assert_int_equal(recv(peer, bytes, sizeof bytes, 0), 3);
	assert_int_equal(recv(peer, bytes, sizeof bytes, 0), 0);
	tr_buf_free(&end.got);
	close(peer);
	for (int i = 0; i < 3; i++)
		tr_loop_turn(loop);
}

/* --- connections over TCP -------------------------------------------------------------------------------------- */

struct room {
	struct tr_listener *listener;
	int fd; /* accepted, -1 */
	int accepted;
	struct tr_stream *stream; /* connected */
	int err, errnum, then_calls;
};

static void
on_accepted(void *arg, int fd, const struct tr_sockaddr *peer)
{
	struct room *room = arg;

	room->accepted++;
	room->fd = fd;
}

static void
on_connected(void *arg, struct tr_stream *stream, int err, int errnum)
{
	struct room *room = arg;

	room->then_calls++;
	room->stream = stream;
	room->err = err;
	room->errnum = errnum;
}

static bool
both_there(void *arg)
{
	struct room *room = arg;

	return room->then_calls > 0 && room->fd >= 0;
}

static bool
told(void *arg)
{
	return ((struct room *)arg)->then_calls > 0;
}

static void
open_room(struct room *room)
{
	struct tr_sockaddr at;
	int errnum;

	*room = (struct room){.fd = -1};
	assert_int_equal(tr_sockaddr_parse(tr_str("127.0.0.1:0"), 0, &at), TR_OK);
	assert_int_equal(tr_listener_new(loop, &at, on_accepted, room, &room->listener, &errnum), TR_OK);
	assert_true(tr_sockaddr_port(tr_listener_local(room->listener)) > 0);
}

static void
connects_and_accepts(void **state)
{
	struct room room;
	char here[64], there[64];

	open_room(&room);
	assert_non_null(tr_stream_connect(loop, tr_listener_local(room.listener), NULL, LIMIT_NS, on_connected, &room));
	assert_int_equal(room.then_calls, 0);
	assert_true(tr_loop_run_until(loop, both_there, &room, LIMIT_NS));
	assert_int_equal(room.err, TR_OK);
	tr_sockaddr_text(tr_stream_peer(room.stream), true, there);
	tr_sockaddr_text(tr_listener_local(room.listener), true, here);
	assert_string_equal(there, here);
	assert_false(tr_stream_stale(room.stream));
	close(room.fd);
	for (int64_t until_ns = tr_mono_ns() + LIMIT_NS; !tr_stream_stale(room.stream) && tr_mono_ns() < until_ns;)
		tr_loop_turn(loop);
	assert_true(tr_stream_stale(room.stream));
	tr_stream_abort(room.stream);
	tr_listener_free(room.listener);
}

static void
a_refused_connection_is_told(void **state)
{
	struct room room = {.fd = -1};
	struct tr_sockaddr at;
	int fd = socket(AF_INET, SOCK_STREAM, 0); /* the port is ours, and nobody listens */

	assert_int_equal(tr_sockaddr_parse(tr_str("127.0.0.1:0"), 0, &at), TR_OK);
	assert_int_equal(bind(fd, (struct sockaddr *)&at.ss, at.len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at.ss, &at.len), 0);
	assert_non_null(tr_stream_connect(loop, &at, NULL, LIMIT_NS, on_connected, &room));
	assert_true(tr_loop_run_until(loop, told, &room, LIMIT_NS));
	assert_null(room.stream);
	assert_int_equal(room.err, TR_EREFUSED);
	assert_int_equal(room.errnum, ECONNREFUSED);
	close(fd);
}

static void
a_cancelled_connect_is_silent(void **state)
{
	struct room room;

	open_room(&room);
	tr_connect_cancel(
		tr_stream_connect(loop, tr_listener_local(room.listener), NULL, LIMIT_NS, on_connected, &room));
	for (int i = 0; i < 5; i++)
		tr_loop_turn(loop);
	assert_int_equal(room.then_calls, 0);
	if (room.fd >= 0)
		close(room.fd);
	tr_listener_free(room.listener);
}

/* A source that is not ours: the error comes through the callback, not out of the call. */
static void
a_bad_source_address_is_told(void **state)
{
	struct room room;
	struct tr_sockaddr source;

	open_room(&room);
	assert_int_equal(tr_sockaddr_parse(tr_str("192.0.2.1:0"), 0, &source), TR_OK);
	assert_non_null(
		tr_stream_connect(loop, tr_listener_local(room.listener), &source, LIMIT_NS, on_connected, &room));
	assert_int_equal(room.then_calls, 0);
	assert_true(tr_loop_run_until(loop, told, &room, LIMIT_NS));
	assert_int_equal(room.errnum, EADDRNOTAVAIL);
	assert_true(room.err < 0);
	tr_listener_free(room.listener);
}

static bool
accepted_one(void *arg)
{
	return ((struct room *)arg)->accepted > 0;
}

/* No descriptor is left: accepting rests, and goes on alone once there is one. */
static void
rests_when_descriptors_run_out(void **state)
{
	struct room room;
	struct rlimit old, low;
	int client, probe;

	open_room(&room);
	client = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	probe = dup(client);
	connect(client, (const struct sockaddr *)&tr_listener_local(room.listener)->ss,
		tr_listener_local(room.listener)->len);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	low = old;
	low.rlim_cur = (rlim_t)probe + 1;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	for (int i = 0; i < 20; i++)
		tr_loop_turn(loop);
	assert_int_equal(room.accepted, 0);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_true(tr_loop_run_until(loop, accepted_one, &room, LIMIT_NS));
	close(room.fd);
	close(client);
	close(probe);
	tr_listener_free(room.listener);
}

static void
a_second_listener_of_one_port_is_refused(void **state)
{
	struct room room;
	struct tr_listener *second;
	int errnum = 0;

	open_room(&room);
	assert_int_equal(tr_listener_new(loop, tr_listener_local(room.listener), on_accepted, &room, &second, &errnum),
		TR_EEXIST);
	assert_null(second);
	assert_int_equal(errnum, EADDRINUSE);
	tr_listener_free(room.listener);
}

/* --- the virtual clock -------------------------------------------------------------------------------------------- */

static void
fired(struct tr_timer *timer)
{
}

/* Time does not jump while the peer may still say something, and jumps when nobody reads. */
static void
reading_holds_the_virtual_clock(void **state)
{
	struct end end;
	int peer = open_end(&end);
	struct tr_timer timer = {0};

	assert_int_equal(tr_hold_count(), 1);
	tr_stream_pause(end.stream);
	assert_int_equal(tr_hold_count(), 0);
	tr_timer_start(tr_loop_wheel(loop), &timer, 3600 * TR_NS_PER_S, fired);
	tr_loop_advance(loop, 7200 * TR_NS_PER_S);
	assert_false(tr_timer_running(&timer));
	tr_stream_resume(end.stream);
	assert_int_equal(tr_hold_count(), 1);
	tr_stream_rest(end.stream, true);
	assert_int_equal(tr_hold_count(), 0);
	assert_int_equal(send(peer, "a", 1, 0), 1);
	assert_true(tr_loop_run_until(loop, has_data, &end, LIMIT_NS)); /* and yet it is read */
	tr_stream_write(end.stream, "b", 1);
	assert_int_equal(tr_hold_count(), 1); /* until the kernel has it */
	tr_loop_turn(loop);
	assert_int_equal(tr_hold_count(), 0);
	tr_stream_rest(end.stream, false);
	assert_int_equal(tr_hold_count(), 1);
	close(peer);
	assert_true(tr_loop_run_until(loop, is_closed, &end, LIMIT_NS));
	assert_int_equal(tr_hold_count(), 0);
	shut_end(&end);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
		TEST(writes_of_a_turn_leave_together),
		TEST(blobs_and_copies_keep_their_order),
		TEST(input_is_bounded_and_goes_on_when_consumed),
		TEST(a_paused_stream_reads_nothing_and_resumes),
		TEST(resume_offers_what_was_left),
		TEST(what_came_before_the_end_is_offered_first),
		TEST(a_failed_write_does_not_hide_what_the_peer_said),
		TEST(a_deadline_is_not_renewed_by_bytes),
		TEST(connects_and_accepts),
		TEST(a_refused_connection_is_told),
		TEST(a_cancelled_connect_is_silent),
		TEST(a_bad_source_address_is_told),
		TEST(rests_when_descriptors_run_out),
		TEST(a_second_listener_of_one_port_is_refused),
		cmocka_unit_test_setup_teardown(reading_holds_the_virtual_clock, setup_virtual, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
