#include "transport/smtp_client_internal.h"

/* Eight bytes a step: every message is looked at before it is sent. */
bool
tr_smtpc_is_ascii(struct tr_str bytes)
{
	const char *at = bytes.data;
	size_t left = bytes.len;
	uint64_t word;

	while (left >= 64) {
		uint64_t all = 0;

		for (int i = 0; i < 8; i++) {
			memcpy(&word, at + i * 8, sizeof word);
			all |= word;
		}
		if (all & UINT64_C(0x8080808080808080))
			return false;
		at += 64;
		left -= 64;
	}
	for (; left > 0; at++, left--) {
		if (*at & 0x80)
			return false;
	}
	return true;
}

/* What lies between the places where a dot is to be added goes out by reference. */
static void
write_part(struct tr_stream *stream, const struct tr_bytes *part, size_t len, bool line_start)
{
	const char *run = part->data, *end = part->data + len, *hit;

	if (len == 0)
		return;
	if (line_start && *run == '.')
		tr_stream_write(stream, ".", 1);
	for (const char *at = run; (hit = memmem(at, (size_t)(end - at), "\n.", 2)) != NULL; at = hit + 2) {
		tr_stream_write_blob(stream, part->blob, run, (size_t)(hit + 1 - run));
		tr_stream_write(stream, ".", 1);
		run = hit + 1;
	}
	tr_stream_write_blob(stream, part->blob, run, (size_t)(end - run));
}

void
tr_smtpc_write_body(struct tr_stream *stream, const struct tr_bytes *head, const struct tr_bytes *body)
{
	const struct tr_bytes *tail = body->len > 0 ? body : head; /* holds the last byte */
	size_t head_len = head->len, body_len = body->len;
	size_t *tail_len = body->len > 0 ? &body_len : &head_len;
	bool newline = *tail_len == 0 || tail->data[*tail_len - 1] == '\n';
	char before = '\0'; /* the last byte but one */

	if (*tail_len >= 2)
		before = tail->data[*tail_len - 2];
	else if (tail == body && head->len > 0)
		before = head->data[head->len - 1];
	if (newline && *tail_len > 0 && before != '\r') { /* LF.CRLF would not end the data for a strict peer */
		(*tail_len)--;
		newline = false;
	}
	write_part(stream, head, head_len, true);
	write_part(stream, body, body_len, head->len == 0 || head->data[head->len - 1] == '\n');
	if (newline)
		tr_stream_write(stream, ".\r\n", 3);
	else
		tr_stream_write(stream, "\r\n.\r\n", 5);
}
