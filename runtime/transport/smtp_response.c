#include "transport/smtp_response.h"

static bool
is_digit(char c)
{
	return c >= '0' && c <= '9';
}

int
tr_smtpc_reply_parse(
	struct tr_str input, struct tr_buf *text, struct tr_smtpc_reply *out, size_t *used, const char **why)
{
	size_t at = 0;
	int code = 0;

	tr_buf_clear(text);
	*why = NULL;
	for (;;) {
		const char *line = input.data + at;
		size_t left = input.len - at;
		const char *end =
			left > 0 ? memchr(line, '\n', left < TR_SMTPC_LINE_MAX ? left : TR_SMTPC_LINE_MAX) : NULL;
		size_t len;
		int line_code;

		if (left >= 1 && (line[0] < '2' || line[0] > '5'))
			*why = "a reply that does not begin with a code";
		else if (end == NULL && left >= TR_SMTPC_LINE_MAX)
			*why = "a reply line that is too long";
		else if ((end == NULL ? input.len : (size_t)(end - input.data) + 1) > TR_SMTPC_REPLY_MAX)
			*why = "a reply that is too long";
		if (*why != NULL)
			return TR_EPROTO;
		if (end == NULL)
			return TR_EAGAIN;
		len = (size_t)(end - line);
		at += len + 1;
		if (len > 0 && line[len - 1] == '\r')
			len--;
		if (len < 3 || !is_digit(line[1]) || !is_digit(line[2]) ||
			(len > 3 && line[3] != ' ' && line[3] != '-')) {
			*why = "a reply that does not begin with a code";
			return TR_EPROTO;
		}
		line_code = (line[0] - '0') * 100 + (line[1] - '0') * 10 + (line[2] - '0');
		if (code != 0 && line_code != code) {
			*why = "a reply with several codes";
			return TR_EPROTO;
		}
		if (code != 0)
			tr_buf_addc(text, '\n');
		code = line_code;
		if (len > 4)
			tr_buf_add(text, line + 4, len - 4);
		if (len == 3 || line[3] == ' ')
			break;
	}
	if (text->failed) {
		tr_buf_free(text); /* clears the failure for the next reply */
		return TR_ENOMEM;
	}
	*out = (struct tr_smtpc_reply){.code = code, .text = {text->data ? text->data : "", text->len}};
	*used = at;
	return TR_OK;
}

void
tr_smtpc_offers_parse(struct tr_str text, struct tr_smtpc_offers *out)
{
	const char *at = text.data, *end = text.data + text.len;
	bool first = true; /* the greeting */

	*out = (struct tr_smtpc_offers){false};
	while (at < end) {
		const char *stop = memchr(at, '\n', (size_t)(end - at));
		size_t len = (size_t)((stop != NULL ? stop : end) - at);
		struct tr_str word = {at, 0};

		while (word.len < len && at[word.len] != ' ' && at[word.len] != '=')
			word.len++;
		if (!first) {
			out->pipelining |= tr_str_ieq(word, TR_STR("PIPELINING"));
			out->eightbit |= tr_str_ieq(word, TR_STR("8BITMIME"));
			out->smtputf8 |= tr_str_ieq(word, TR_STR("SMTPUTF8"));
			out->size |= tr_str_ieq(word, TR_STR("SIZE"));
		}
		first = false;
		at += len + 1;
	}
}

/* "C.S.D" at the start, followed by a blank, a line end or nothing. */
static bool
has_enhanced(struct tr_str text)
{
	size_t at = 1;

	if (text.len < 5 || (text.data[0] != '2' && text.data[0] != '4' && text.data[0] != '5'))
		return false;
	for (int part = 0; part < 2; part++) {
		size_t digits = 0;

		if (at >= text.len || text.data[at++] != '.')
			return false;
		while (at < text.len && digits < 3 && is_digit(text.data[at])) {
			at++;
			digits++;
		}
		if (digits == 0)
			return false;
	}
	return at == text.len || text.data[at] == ' ' || text.data[at] == '\n';
}

bool
tr_smtpc_too_many(const struct tr_smtpc_reply *reply, bool *ambiguous)
{
	*ambiguous = false;
	if (has_enhanced(reply->text))
		return memcmp(reply->text.data, "4.5.3", 5) == 0 &&
		       (reply->text.len == 5 || !is_digit(reply->text.data[5]));
	*ambiguous = reply->code == 452 || reply->code == 552;
	return false;
}
