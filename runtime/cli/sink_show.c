#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/json.h"
#include "cli/sink.h"

/* Prints sink->text as one line: control characters out of the way of the terminal, cut to its width between two
 * characters. */
static void
print_line(struct tr_sink *sink)
{
	struct tr_buf *text = &sink->text;
	int columns = tr_terminal_columns(STDOUT_FILENO);
	int column = 0;
	size_t end = 0;

	for (; end < text->len; end++) {
		unsigned char c = (unsigned char)text->data[end];

		if (c < 0x20 || c == 0x7f)
			text->data[end] = ' ';
		if (c == 0xc2 && end + 1 < text->len && (text->data[end + 1] & 0xe0) == 0x80) /* U+0080 to U+009F */
			text->data[end] = text->data[end + 1] = ' ';
		if ((c & 0xc0) == 0x80)
			continue; /* the inside of a UTF-8 character */
		if (columns > 0 && column == columns)
			break;
		column++;
	}
	tr_progress_clear(&sink->progress);
	fwrite(text->data, 1, end, stdout);
	putchar('\n');
	fflush(stdout);
}

static void
add_time(struct tr_buf *text)
{
	time_t now = (time_t)(tr_wall_ns() / TR_NS_PER_S);
	struct tm tm;

	localtime_r(&now, &tm);
	tr_buf_addf(text, "%02d:%02d:%02d  ", tm.tm_hour, tm.tm_min, tm.tm_sec);
}

/* A string without its quotes, anything else as it stands. */
static void
add_value(struct tr_buf *text, struct tr_str value)
{
	size_t before = text->len;

	if (value.data == NULL) {
		tr_buf_addc(text, '-');
		return;
	}
	if (tr_json_type(value) == TR_JSON_STRING && tr_json_unescape(value, text) == TR_OK)
		return;
	text->len = before;
	tr_buf_add_str(text, value);
}

static void
pad(struct tr_buf *text, size_t from, size_t width)
{
	do
		tr_buf_addc(text, ' ');
	while (text->len < from + width && !text->failed);
}

void
tr_sink_show_record(struct tr_sink *sink, struct tr_str record, bool valid, int status)
{
	struct tr_buf *text = &sink->text;
	size_t from;

	tr_buf_clear(text);
	add_time(text);
	if (status != 200)
		tr_buf_addf(text, status == 0 ? "[no answer] " : "[%d] ", status);
	if (!valid || record.data[0] != '{') {
		tr_buf_addf(text, valid ? "%zu bytes that are no object" : "%zu bytes that are no JSON", record.len);
		print_line(sink);
		return;
	}
	from = text->len;
	add_value(text, tr_json_get(record, "type"));
	pad(text, from, 17);
	from = text->len;
	add_value(text, tr_json_get(record, "recipient"));
	pad(text, from, 28);

	struct tr_str response = tr_json_get(record, "response");

	if (response.data != NULL && tr_json_type(response) == TR_JSON_OBJECT) {
		struct tr_str code = tr_json_get(response, "code");

		if (code.data != NULL) {
			add_value(text, code);
			tr_buf_addc(text, ' ');
		}
		add_value(text, tr_json_get(response, "content"));
	}
	tr_buf_addz(text, "  queue=");
	add_value(text, tr_json_get(record, "queue"));
	print_line(sink);
}

void
tr_sink_show_mail(struct tr_sink *sink, struct tr_str from, struct tr_str first_rcpt, int rcpts, int64_t size, int code)
{
	struct tr_buf *text = &sink->text;

	tr_buf_clear(text);
	add_time(text);
	if (code != 250)
		tr_buf_addf(text, code == 0 ? "[no answer] " : "[%d] ", code);
	tr_buf_addz(text, "mail             <");
	tr_buf_add_str(text, from);
	tr_buf_addz(text, "> to <");
	tr_buf_add_str(text, first_rcpt);
	tr_buf_addc(text, '>');
	if (rcpts > 1)
		tr_buf_addf(text, " and %d more", rcpts - 1);
	tr_buf_addf(text, "  %s bytes", tr_grouped(size));
	print_line(sink);
}
