#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "ingress/smtp_data.h"

#define NO_LIMIT 1000000

struct result {
	struct tr_buf text;
	size_t used;
	bool ended, too_big, long_line, lone;
	uint64_t lines;
};

static void
collect(void *arg, const char *run, size_t len)
{
	assert_true(len > 0);
	tr_buf_add(arg, run, len);
}

/* Scans `input` cut before each byte whose bit is set in `cuts` (bit 0: before byte 1 ...). */
static void
scan(struct result *out, struct tr_str input, enum tr_smtp_line_ends ends, size_t line_limit, uint64_t max,
	uint64_t cuts)
{
	struct tr_smtp_data data;
	size_t from = 0;

	memset(out, 0, sizeof *out);
	tr_smtp_data_init(&data, ends, line_limit, max);
	for (size_t i = 1; i <= input.len && !out->ended; i++) {
		if (i < input.len && !(i <= 64 && (cuts >> (i - 1) & 1)))
			continue;
		/* a copy of its own size: reading past a piece is seen by the sanitizer */
		char *piece = malloc(i - from);
		memcpy(piece, input.data + from, i - from);
		size_t used = tr_smtp_data_scan(&data, piece, i - from, collect, &out->text, &out->ended);
		free(piece);
		assert_true(out->ended || used == i - from);
		out->used += used;
		from = i;
	}
	out->too_big = data.too_big;
	out->long_line = data.long_line;
	out->lone = data.lone;
	out->lines = data.lines;
	if (!out->too_big && !out->long_line && !(out->lone && ends == TR_SMTP_LINES_DENY))
		assert_int_equal(out->text.len, data.bytes);
}

static void
assert_text(const struct result *got, struct tr_str want)
{
	assert_int_equal(got->text.len, want.len);
	if (want.len > 0)
		assert_memory_equal(got->text.data, want.data, want.len);
}

struct text_case {
	struct tr_str input; /* the end of data lies at its end, or nowhere */
	bool ends;
	struct tr_str allow, fix; /* text with ALLOW and FIX; same bytes as allow if .data is NULL */
	bool lone;
};
#define S(literal)                             \
	{                                      \
		(literal), sizeof(literal) - 1 \
	}

static const struct text_case cases[] = {
	{S(".\r\n"), true, S(""), {NULL, 0}, false}, /* an empty text */
	{S("\r\n.\r\n"), true, S("\r\n"), {NULL, 0}, false},
	{S("a\r\n.\r\n"), true, S("a\r\n"), {NULL, 0}, false},
	{S("a\r\nb\r\n.\r\n"), true, S("a\r\nb\r\n"), {NULL, 0}, false},
	/* transparency, also on the very first line */
	{S("..\r\n.\r\n"), true, S(".\r\n"), {NULL, 0}, false},
	{S("..a\r\n..b\r\n.c\r\n.\r\n"), true, S(".a\r\n.b\r\nc\r\n"), {NULL, 0}, false},
	{S("a.\r\n.\r\n"), true, S("a.\r\n"), {NULL, 0}, false},
	/* smuggling: none of these ends the text */
	{S("a\n.\nb\r\n.\r\n"), true, S("a\n.\nb\r\n"), S("a\r\n.\r\nb\r\n"), true},
	{S("a\r.\rb\r\n.\r\n"), true, S("a\r.\rb\r\n"), S("a\r\n.\r\nb\r\n"), true},
	{S("a\r\n.\nb\r\n.\r\n"), true, S("a\r\n\nb\r\n"), S("a\r\n\r\nb\r\n"), true},
	{S("a\n.\r\nb\r\n.\r\n"), true, S("a\n.\r\nb\r\n"), S("a\r\n.\r\nb\r\n"), true},
	{S("a\r\n.\rb\r\n.\r\n"), true, S("a\r\n\rb\r\n"), S("a\r\n\r\nb\r\n"), true},
	{S("a\r.\r\nb\r\n.\r\n"), true, S("a\r.\r\nb\r\n"), S("a\r\n.\r\nb\r\n"), true},
	{S("a\r\n.\r\r\n.\r\n"), true, S("a\r\n\r\r\n"), S("a\r\n\r\n\r\n"), true},
	{S("a\r\r\n.\r\n"), true, S("a\r\r\n"), S("a\r\n\r\n"), true},
	{S("a\n\r\n.\r\n"), true, S("a\n\r\n"), S("a\r\n\r\n"), true},
	{S(".\na\r\n.\r\n"), true, S("\na\r\n"), S("\r\na\r\n"), true},
	{S(".\ra\r\n.\r\n"), true, S("\ra\r\n"), S("\r\na\r\n"), true},
	{S("a\0b\r\n\0\r\n.\r\n"), true, S("a\0b\r\n\0\r\n"), {NULL, 0}, false}, /* NUL is a byte like any other */
	{S("no end\r\n"), false, S("no end\r\n"), {NULL, 0}, false},
	{S("a\n.\n"), false, S("a\n.\n"), S("a\r\n.\r\n"), true},
};

/* Every case, cut at every set of byte boundaries (whole sets for short inputs), gives the same. */
static void
any_cut_gives_the_same_text(void **state)
{
	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		const struct text_case *c = &cases[i];
		struct tr_str fix = c->fix.data != NULL ? c->fix : c->allow;

		for (uint64_t cuts = 0; cuts<UINT64_C(1) << (c->input.len - 1); cuts += c->input.len> 14 ? 37 : 1) {
			for (int ends = TR_SMTP_LINES_DENY; ends <= TR_SMTP_LINES_FIX; ends++) {
				struct result got;

				scan(&got, c->input, ends, NO_LIMIT, NO_LIMIT, cuts);
				assert_int_equal(got.ended, c->ends);
				assert_int_equal(got.used, c->input.len);
				assert_int_equal(got.lone, c->lone);
				assert_false(got.too_big || got.long_line);
				if (ends == TR_SMTP_LINES_ALLOW)
					assert_text(&got, c->allow);
				else if (ends == TR_SMTP_LINES_FIX)
					assert_text(&got, fix);
				else if (!c->lone)
					assert_text(&got, c->allow);
				tr_buf_free(&got.text);
			}
		}
	}
}

static void
what_follows_the_end_is_left(void **state)
{
	struct result got;

	scan(&got, TR_STR("a\r\n.\r\nQUIT\r\n"), TR_SMTP_LINES_DENY, NO_LIMIT, NO_LIMIT, 0);
	assert_true(got.ended);
	assert_int_equal(got.used, 6);
	assert_int_equal(got.lines, 1);
	tr_buf_free(&got.text);
}

static void
lines_are_measured_without_their_ends_and_dots(void **state)
{
	static const struct {
		struct tr_str input;
		bool too_long;
	} lengths[] = {
		{S("12345\r\n.\r\n"), false},
		{S("123456\r\n.\r\n"), true},
		{S(".12345\r\n.\r\n"), false},
		{S(".123456\r\n.\r\n"), true},
		{S("1\r\n12345\r\n12345\r\n.\r\n"), false},
		{S("123456"), true}, /* known before its end comes */
		{S("12345\n12345\r\n.\r\n"), false},
		{S("123\r456\r\n.\r\n"), true},
	};

	for (size_t i = 0; i < TR_COUNT(lengths); i++) {
		for (uint64_t cuts = 0; cuts < 1 << 10; cuts++) {
			struct result got;

			scan(&got, lengths[i].input, TR_SMTP_LINES_ALLOW, 5, NO_LIMIT, cuts);
			assert_int_equal(got.long_line, lengths[i].too_long);
			tr_buf_free(&got.text);
		}
	}
}

/* The size is of the text: exactly the limit is taken, one byte more is not, and the end is still found. */
static void
the_size_limit_is_exact(void **state)
{
	for (uint64_t cuts = 0; cuts < 1 << 12; cuts++) {
		struct result got;

		scan(&got, TR_STR("..abc\r\nd\r\n.\r\n"), TR_SMTP_LINES_DENY, NO_LIMIT, 9, cuts);
		assert_true(got.ended && !got.too_big);
		assert_text(&got, TR_STR(".abc\r\nd\r\n"));
		tr_buf_free(&got.text);
		scan(&got, TR_STR("..abc\r\nd\r\n.\r\n"), TR_SMTP_LINES_DENY, NO_LIMIT, 8, cuts);
		assert_true(got.ended && got.too_big);
		tr_buf_free(&got.text);
	}
}

/* Random texts of the critical bytes against the definition, read straight from RFC 5321 4.5.2 on the whole input. */
static void
agrees_with_the_plain_definition(void **state)
{
	static const char alphabet[] = {'\r', '\n', '.', 'a'};
	unsigned seed = 7;

	for (int round = 0; round < 20000; round++) {
		char input[24];
		size_t len = 1 + (size_t)rand_r(&seed) % sizeof input, at = 0;
		struct tr_buf want = {0};
		struct result got;
		bool ended = false;

		for (size_t i = 0; i < len; i++)
			input[i] = alphabet[rand_r(&seed) % 4];
		while (at < len && !ended) { /* one CRLF line a turn */
			char *end = memmem(input + at, len - at, "\r\n", 2);
			size_t line = end != NULL ? (size_t)(end - input) - at : len - at;
			bool dot = input[at] == '.';

			if (end != NULL && dot && line == 1)
				ended = true;
			else
				tr_buf_add(&want, input + at + dot, line - dot + (end != NULL ? 2 : 0));
			at += line + (end != NULL ? 2 : 0);
		}
		scan(&got, (struct tr_str){input, len}, TR_SMTP_LINES_ALLOW, NO_LIMIT, NO_LIMIT,
			(uint64_t)rand_r(&seed));
		assert_int_equal(got.ended, ended);
		assert_int_equal(got.used, at);
		/* a CR, a dot or a dot and CR at the end of the input is still open, and not handed on */
		assert_true(got.text.len <= want.len && want.len - got.text.len <= 1);
		if (ended)
			assert_int_equal(got.text.len, want.len);
		if (got.text.len > 0)
			assert_memory_equal(got.text.data, want.data, got.text.len);
		tr_buf_free(&got.text);
		tr_buf_free(&want);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_cut_gives_the_same_text),
		cmocka_unit_test(what_follows_the_end_is_left),
		cmocka_unit_test(lines_are_measured_without_their_ends_and_dots),
		cmocka_unit_test(the_size_limit_is_exact),
		cmocka_unit_test(agrees_with_the_plain_definition),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
