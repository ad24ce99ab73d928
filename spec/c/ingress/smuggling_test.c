/* SMTP smuggling, from the client before us to the next hop: every text of up to six bytes of CR, LF, dot, NUL and a
 * letter goes through the listener's scanner and, where it is taken, through the client's writer. Only CRLF.CRLF ends
 * what comes in, and what goes out has no other end, even for a next hop that takes any CR or LF for a line end and
 * drops NULs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ingress/smtp_data.h"
#include "transport/smtp_client_internal.h"

#define ODD_BYTES 6

static void
collect(void *arg, const char *run, size_t len)
{
	tr_buf_add(arg, run, len);
}

/* Where a line is that consists of a dot, if any CR or LF ends lines and NULs are nothing. */
static bool
has_an_end(const char *text, size_t len)
{
	char line[2] = "";
	size_t chars = 0;

	for (size_t i = 0; i < len; i++) {
		if (text[i] == '\r' || text[i] == '\n') {
			if (chars == 1 && line[0] == '.')
				return true;
			chars = 0;
		} else if (text[i] != '\0') {
			line[0] = chars++ == 0 ? text[i] : '\0';
		}
	}
	return false;
}

struct wire {
	struct tr_loop *loop;
	struct tr_stream *stream;
	int fd; /* the next hop's end */
	char got[256];
	size_t len;
};

static void
forward(struct wire *wire, struct tr_str head, struct tr_str body)
{
	struct tr_bytes parts[2] = {{0}, {0}};
	ssize_t got;

	if (head.len > 0)
		tr_bytes_set(&parts[0], tr_blob_new(head.data, head.len));
	if (body.len > 0)
		tr_bytes_set(&parts[1], tr_blob_new(body.data, body.len));
	tr_smtpc_write_body(wire->stream, &parts[0], &parts[1]);
	tr_stream_flush(wire->stream);
	got = read(wire->fd, wire->got, sizeof wire->got);
	assert_true(got > 0 && (size_t)got < sizeof wire->got);
	wire->len = (size_t)got;
	tr_bytes_fini(&parts[0]);
	tr_bytes_fini(&parts[1]);
}

static void
check_sent(const struct wire *wire)
{
	size_t len = wire->len - 3;

	assert_true(wire->len >= 3);
	assert_memory_equal(wire->got + len, ".\r\n", 3);
	assert_true(len == 0 || (len >= 2 && memcmp(wire->got + len - 2, "\r\n", 2) == 0));
	assert_false(has_an_end(wire->got, len));
}

/* A strict next hop, which takes a leading dot off each line, has the text as it was. */
static void
check_kept(const struct wire *wire, const struct tr_buf *text)
{
	char plain[sizeof wire->got];
	size_t len = 0;

	for (size_t i = 0; i + 3 < wire->len; i++) {
		bool start = i == 0 || (i >= 2 && wire->got[i - 2] == '\r' && wire->got[i - 1] == '\n');

		if (!start || wire->got[i] != '.')
			plain[len++] = wire->got[i];
	}
	if (text->len >= 2 && memcmp(text->data + text->len - 2, "\r\n", 2) == 0) { /* else a line end was added */
		assert_int_equal(len, text->len);
		assert_memory_equal(plain, text->data, len);
	}
}

static void
one(struct wire *wire, const char *odd, size_t odd_len)
{
	static const enum tr_smtp_line_ends modes[] = {TR_SMTP_LINES_DENY, TR_SMTP_LINES_ALLOW, TR_SMTP_LINES_FIX};
	char input[64] = "a";
	size_t len = 1;

	memcpy(input + len, odd, odd_len);
	len += odd_len;
	const char *strict = memmem(input, len, "\r\n.\r\n", 5);
	memcpy(input + len, "b\r\n.\r\n", 6);
	len += 6;
	for (size_t i = 0; i < TR_COUNT(modes); i++) {
		struct tr_smtp_data data;
		struct tr_buf text = {0};
		bool ended = false;

		tr_smtp_data_init(&data, modes[i], 998, 1000);
		size_t used = tr_smtp_data_scan(&data, input, len, collect, &text, &ended);
		assert_true(ended);
		assert_int_equal(used, strict != NULL ? (size_t)(strict + 5 - input) : len);
		if (modes[i] != TR_SMTP_LINES_DENY || !data.lone) {
			forward(wire, (struct tr_str){NULL, 0}, (struct tr_str){text.data, text.len});
			check_sent(wire);
			if (!data.lone)
				check_kept(wire, &text);
			forward(wire, TR_STR("X: y\r\n"), (struct tr_str){text.data, text.len});
			check_sent(wire);
		}
		tr_buf_free(&text);
	}
}

static void
no_text_has_two_ends(void **state)
{
	static const char bytes[] = {'\r', '\n', '.', '\0', 'z'};
	static const struct tr_stream_handlers handlers;
	struct wire wire = {0};
	int fds[2];

	(void)state;
	assert_int_equal(tr_loop_new(&wire.loop), TR_OK);
	tr_loop_enter(wire.loop);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	wire.fd = fds[1];
	wire.stream = tr_stream_new(wire.loop, fds[0], &handlers, NULL);
	assert_non_null(wire.stream);
	for (size_t len = 0; len <= ODD_BYTES; len++) {
		size_t count = 1;

		for (size_t i = 0; i < len; i++)
			count *= sizeof bytes;
		for (size_t at = 0; at < count; at++) {
			char odd[ODD_BYTES + 1];
			size_t rest = at;

			for (size_t i = 0; i < len; i++, rest /= sizeof bytes)
				odd[i] = bytes[rest % sizeof bytes];
			one(&wire, odd, len);
		}
	}
	tr_stream_abort(wire.stream);
	close(wire.fd);
	tr_loop_run_until(wire.loop, NULL, NULL, 0);
	tr_loop_free(wire.loop);
}

/* The search for dots looks at 64 bytes at a time: an odd place anywhere in more than that. */
static void
dots_are_found_anywhere(void **state)
{
	static const char *const odd[] = {"\n.\n", "\r.\r", "\n.\r\n", "\r\n\0.\r\n", "\n\0\0.\0\n", "\r\n.z"};
	static const size_t lens[] = {3, 3, 4, 6, 6, 4};
	static const struct tr_stream_handlers handlers;
	struct wire wire = {0};
	int fds[2];

	(void)state;
	assert_int_equal(tr_loop_new(&wire.loop), TR_OK);
	tr_loop_enter(wire.loop);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	wire.fd = fds[1];
	wire.stream = tr_stream_new(wire.loop, fds[0], &handlers, NULL);
	assert_non_null(wire.stream);
	for (size_t i = 0; i < TR_COUNT(odd); i++) {
		for (size_t at = 0; at < 150; at++) {
			char text[200];

			memset(text, 'x', sizeof text);
			memcpy(text + at, odd[i], lens[i]);
			forward(&wire, (struct tr_str){NULL, 0}, (struct tr_str){text, sizeof text});
			check_sent(&wire);
			/* one dot more than there was, and the line end and the final dot */
			assert_int_equal(wire.len, sizeof text + 1 + 5);
		}
	}
	tr_stream_abort(wire.stream);
	close(wire.fd);
	tr_loop_run_until(wire.loop, NULL, NULL, 0);
	tr_loop_free(wire.loop);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_text_has_two_ends),
		cmocka_unit_test(dots_are_found_anywhere),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
