#include "ingress/smtp_data.h"

enum state {
	AT_START,  /* of a line: after CRLF, or of the text */
	AT_DOT,    /* "." at the start of a line */
	AT_DOT_CR, /* "." CR at the start of a line */
	AT_TEXT,
	AT_CR, /* CR whose next byte is not known */
};

struct out {
	struct tr_smtp_data *data;
	void (*emit)(void *arg, const char *run, size_t len);
	void *arg;
	const char *run; /* first byte not yet handed on; NULL: none */
};

void
tr_smtp_data_init(struct tr_smtp_data *data, enum tr_smtp_line_ends line_ends, size_t line_limit, uint64_t max_bytes)
{
	*data = (struct tr_smtp_data){
		.line_ends = line_ends, .line_limit = line_limit, .max_bytes = max_bytes, .state = AT_START};
}

static void
hand_on(struct out *out, const char *from, size_t len)
{
	struct tr_smtp_data *data = out->data;

	if (len == 0 || data->too_big || data->long_line || (data->lone && data->line_ends == TR_SMTP_LINES_DENY))
		return;
	if (len > data->max_bytes - data->bytes) {
		data->too_big = true;
		return;
	}
	data->bytes += len;
	out->emit(out->arg, from, len);
}

/* Hands on what was kept back before `to`. */
static void
end_run(struct out *out, const char *to)
{
	if (out->run != NULL && to > out->run)
		hand_on(out, out->run, (size_t)(to - out->run));
	out->run = NULL;
}

static void
add_to_line(struct tr_smtp_data *data, size_t len)
{
	data->line_len += len;
	if (data->line_len > data->line_limit)
		data->long_line = true;
}

static void
end_line(struct tr_smtp_data *data)
{
	data->line_len = 0;
	data->lines++;
}

/* A CR or LF on its own, whose byte is kept back from out->run on: before it lies `before`. */
static void
lone_end(struct out *out, char byte)
{
	struct tr_smtp_data *data = out->data;

	data->lone = true;
	if (data->line_ends == TR_SMTP_LINES_FIX)
		hand_on(out, "\r\n", 2);
	else
		hand_on(out, &byte, 1);
	if (byte == '\n' || data->line_ends == TR_SMTP_LINES_FIX)
		end_line(data); /* whoever reads the text later takes it for one */
	else
		add_to_line(data, 1);
}

/* Text up to the next line end. `lf` is the next LF at or after `at`, or `end`. Returns where to go on. */
static const char *
text(struct out *out, const char *at, const char *lf, const char *end)
{
	struct tr_smtp_data *data = out->data;
	const char *cr = memchr(at, '\r', (size_t)(lf - at));

	if (out->run == NULL)
		out->run = at;
	if (cr == NULL) {
		add_to_line(data, (size_t)(lf - at));
		if (lf == end)
			return end;
		end_run(out, lf);
		lone_end(out, '\n');
		return lf + 1;
	}
	add_to_line(data, (size_t)(cr - at));
	if (cr + 1 == lf && lf < end) { /* the usual case: the run goes on */
		end_line(data);
		data->state = AT_START;
		return lf + 1;
	}
	end_run(out, cr);
	data->state = AT_CR;
	return cr + 1;
}

size_t
tr_smtp_data_scan(struct tr_smtp_data *data, const char *piece, size_t len,
	void (*emit)(void *arg, const char *run, size_t len), void *arg, bool *ended)
{
	struct out out = {data, emit, arg, NULL};
	const char *at = piece, *end = piece + len, *lf = NULL;

	*ended = false;
	while (at < end) {
		switch ((enum state)data->state) {
		case AT_START:
			if (*at == '.') {
				end_run(&out, at);
				data->state = AT_DOT;
				at++;
			} else {
				data->state = AT_TEXT;
			}
			break;
		case AT_DOT: /* the dot itself is not part of the text */
			data->state = *at == '\r' ? AT_DOT_CR : AT_TEXT;
			at += *at == '\r';
			break;
		case AT_DOT_CR:
			if (*at == '\n') {
				*ended = true;
				return (size_t)(at + 1 - piece);
			}
			data->state = AT_CR;
			break;
		case AT_CR: /* nothing is kept back here */
			data->state = AT_TEXT;
			if (*at == '\n') {
				hand_on(&out, "\r\n", 2);
				end_line(data);
				data->state = AT_START;
				at++;
			} else {
				lone_end(&out, '\r');
			}
			break;
		case AT_TEXT:
			if (lf == NULL || lf < at) {
				lf = memchr(at, '\n', (size_t)(end - at));
				if (lf == NULL)
					lf = end;
			}
			at = text(&out, at, lf, end);
			break;
		}
	}
	end_run(&out, end);
	return len;
}
