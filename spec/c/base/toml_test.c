#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/toml.h"

/* The items as one line: {key@LINE:COLUMN value ...}. */
static void
show(const struct tr_toml *doc, struct tr_buf *out)
{
	struct tr_toml_item item;
	size_t at = 0;

	while (tr_toml_next(doc, &at, &item)) {
		switch (item.type) {
		case TR_TOML_TABLE:
			tr_buf_addf(out, "{");
			break;
		case TR_TOML_ARRAY:
			tr_buf_addf(out, "[");
			break;
		case TR_TOML_END:
			tr_buf_addf(out, ". ");
			break;
		case TR_TOML_KEY:
			tr_buf_addf(out, "%.*s@%u:%u=", (int)item.text_len, item.text, item.line, item.column);
			break;
		case TR_TOML_STRING:
			tr_buf_addf(out, "'%.*s'@%u ", (int)item.text_len, item.text, item.line);
			break;
		case TR_TOML_INTEGER:
			tr_buf_addf(out, "%lld ", (long long)item.integer);
			break;
		case TR_TOML_REAL:
			tr_buf_addf(out, "%g ", item.real);
			break;
		case TR_TOML_BOOL:
			tr_buf_addf(out, "%s ", item.boolean ? "true" : "false");
			break;
		case TR_TOML_TIME:
			tr_buf_addf(out, "<%.*s> ", (int)item.text_len, item.text);
			break;
		}
	}
	tr_buf_addc(out, '\0');
}

static void
a_document_is_a_list_in_the_order_of_the_file(void **state)
{
	static const struct {
		const char *text, *items;
	} cases[] = {
		{"", "{. "},
		{"b = 1\na = 2\n", "{b@1:1=1 a@2:1=2 . "},
		{"s = \"x\"\nl = 'y'\nr = 1.5\nt = true\nf = false\nn = -3\n",
			"{s@1:1='x'@1 l@2:1='y'@2 r@3:1=1.5 t@4:1=true f@5:1=false n@6:1=-3 . "},
		{"['z.log_hook']\nx = 1\n\n[default]\ny = [1, [2]]\n",
			"{z.log_hook@1:2={x@2:1=1 . default@4:2={y@5:1=[1 [2 . . . . "},
		{"[a.\"b.c\".d]\nk = {x = 1, w = 2}\n", "{a@1:2={b.c@1:4={d@1:10={k@2:1={x@2:6=1 w@2:13=2 . . . . . "},
		{"d = 2026-11-25T22:00:00Z\ne = 2026-11-25\ng = 07:30:00\n",
			"{d@1:1=<2026-11-25T22:00:00Z> e@2:1=<2026-11-25> g@3:1=<07:30:00> . "},
		{"\xef\xbb\xbf\"\xc3\xbc\" = '\xc3\xbc' # \xc3\xbc\n", "{\xc3\xbc@1:1='\xc3\xbc'@1 . "},
		{"x = [\n[1],\n  [2]\n]\n[ 't' ]\n", "{x@1:1=[[1 . [2 . . t@5:3={. . "},
		{"[[r]]\nregex = 'a'\n[[r]]\nregex = '''b\nc'''\n",
			"{r@1:3=[{regex@2:1='a'@2 . {regex@4:1='b\nc'@4 . . . "},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_toml *doc;
		struct tr_toml_error error;
		struct tr_buf items = {0};

		assert_int_equal(tr_toml_parse(cases[i].text, strlen(cases[i].text), &doc, &error), TR_OK);
		show(doc, &items);
		assert_string_equal(items.data, cases[i].items);
		tr_buf_free(&items);
		tr_toml_free(doc);
	}
}

static void
what_is_not_toml_is_told_with_its_place(void **state)
{
	static const struct {
		const char *text;
		uint32_t line;
		const char *why; /* part of the text */
	} cases[] = {
		{"a = \n", 1, ""},
		{"x = 1\ny = 'half\n", 2, ""},
		{"[a]\nx = 1\n[a]\n", 3, "redefine"},
		{"x = 1\nx = 2\n", 2, "redefine"},
		{"[unfinished\n", 1, ""},
		{"a = 1\n\nx\xff = 2\n", 3, "quotes"},
		{"a = '\xff'\n", 1, "utf-8"},
		{"o.i\xcd\xab = 1\n", 1, "quotes"},
		{"\xef\xbb\xbf# BOM\n\xc3\xbc = 1\n", 2, "quotes"},
		{"a = 1\n[=b]\n", 2, "name of a table"},
		{" [ [ =b]\n", 1, "name of a table"},
		{"k = 99999999999999999999\n", 1, ""},
		{"x = [1, 2\n", 1, "end-of-file"},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_toml *doc;
		struct tr_toml_error error = {0};

		assert_int_equal(tr_toml_parse(cases[i].text, strlen(cases[i].text), &doc, &error), TR_EINVAL);
		assert_null(doc);
		assert_int_equal(error.line, cases[i].line);
		assert_true(error.text[0] != '\0');
		assert_null(strchr(error.text, '\n'));
		assert_non_null(strstr(error.text, cases[i].why));
	}
}

static char *
repeat(const char *head, const char *part, size_t count, const char *tail)
{
	struct tr_buf text = {0};

	tr_buf_addz(&text, head);
	for (size_t i = 0; i < count; i++)
		tr_buf_addz(&text, part);
	tr_buf_addz(&text, tail);
	tr_buf_addc(&text, '\0');
	assert_false(text.failed);
	return text.data;
}

static void
depth_is_bounded(void **state)
{
	const struct {
		const char *head, *part, *tail;
		size_t good, bad;
	} cases[] = {
		{"a", ".a", " = 1\n", TR_TOML_MAX_DEPTH - 2, 100000},
		{"[a", ".a", "]\n", TR_TOML_MAX_DEPTH - 2, 100000},
		{"a", ". a", " = 1\n", TR_TOML_MAX_DEPTH - 2, 100000},
		{"a", ".'#'", " = 1\n", TR_TOML_MAX_DEPTH - 2, 100000},
		{"a = ", "[", "\n", 0, 100000},
		{"a = ", "{a.b.c.d = ", "\n", 0, 100},
	};

	for (size_t i = 0; i < TR_COUNT(cases); i++) {
		struct tr_toml *doc;
		struct tr_toml_error error = {0};
		char *text = repeat(cases[i].head, cases[i].part, cases[i].bad, cases[i].tail);

		assert_int_equal(tr_toml_parse(text, strlen(text), &doc, &error), TR_EINVAL);
		assert_int_equal(error.line, 1);
		free(text);
		if (cases[i].good == 0)
			continue;
		text = repeat(cases[i].head, cases[i].part, cases[i].good, cases[i].tail);
		assert_int_equal(tr_toml_parse(text, strlen(text), &doc, &error), TR_OK);
		tr_toml_free(doc);
		free(text);
	}
}

static void
dots_in_texts_and_comments_are_not_parts_of_a_key(void **state)
{
	const char *heads[] = {"# ", "a = '", "a = \"\\\"", "a = '''\n'", "a = \"\"\"\n\"\"", "a = \"#"};
	const char *tails[] = {"\n", "'\n", "\"\n", "''''\n", "\"\"\"\n", "\"\n"};

	for (size_t i = 0; i < TR_COUNT(heads); i++) {
		struct tr_toml *doc;
		struct tr_toml_error error = {0};
		char *text = repeat(heads[i], ". ", 1000, tails[i]);

		assert_int_equal(tr_toml_parse(text, strlen(text), &doc, &error), TR_OK);
		tr_toml_free(doc);
		free(text);
	}
}

static void
a_text_without_end_is_refused(void **state)
{
	static char text[TR_TOML_MAX_BYTES + 1];
	struct tr_toml *doc;
	struct tr_toml_error error = {0};

	memset(text, '\n', sizeof text);
	assert_int_equal(tr_toml_parse(text, sizeof text, &doc, &error), TR_ETOOBIG);
	assert_null(doc);
	assert_string_equal(error.text, "it is larger than 64 MiB");
}

/* Whatever a file is cut to, the answer is a document or an error, and never anything else. */
static void
each_half_written_file_is_read_or_refused(void **state)
{
	static const char text[] =
		"# shaping\n[\"example.com\"]\nmx_rollup = true\nlimits = {a.b = 1, 'c' = \"\\u00e9\"}\n"
		"[[automation]]\nregex = ['a', '''b\n''']\nat = 2026-11-25T22:00:00+01:00\n";

	for (size_t len = 0; len <= sizeof text; len++) { /* the last one has a NUL, which TOML does not allow */
		struct tr_toml *doc;
		struct tr_toml_error error = {0};
		int err = tr_toml_parse(text, len, &doc, &error);

		assert_true(err == TR_OK || (err == TR_EINVAL && error.line > 0 && error.text[0] != '\0'));
		tr_toml_free(doc);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_document_is_a_list_in_the_order_of_the_file),
		cmocka_unit_test(what_is_not_toml_is_told_with_its_place),
		cmocka_unit_test(depth_is_bounded),
		cmocka_unit_test(dots_in_texts_and_comments_are_not_parts_of_a_key),
		cmocka_unit_test(a_text_without_end_is_refused),
		cmocka_unit_test(each_half_written_file_is_read_or_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
