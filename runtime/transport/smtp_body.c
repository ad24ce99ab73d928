#include "transport/smtp_client_internal.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

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

/* A line that begins with a dot, or that a peer which drops NULs could take for one. */
static bool
is_dotted(const char *at, const char *end)
{
	while (at < end && *at == '\0')
		at++;
	return at < end && *at == '.';
}

/* The first CR or LF after which a dot is to be added, or NULL. A lone CR counts, too: there are peers that take it for
 * a line end, and "CR . CR" for the end of the data. memchr() by itself would look at each line: 85,000 instructions
 * for 10 KB. */
static const char *
find_dot(const char *at, const char *end)
{
	while (end - at >= 2) {
		const char *stop = end - 1;

#ifdef __SSE2__
		const __m128i lfs = _mm_set1_epi8('\n'), crs = _mm_set1_epi8('\r'), dots = _mm_set1_epi8('.'),
			      nuls = _mm_setzero_si128();

		for (; end - at > 64; at += 64) {
			__m128i any = _mm_setzero_si128();

			for (int i = 0; i < 64; i += 16) {
				__m128i here = _mm_loadu_si128((const __m128i *)(const void *)(at + i));
				__m128i next = _mm_loadu_si128((const __m128i *)(const void *)(at + i + 1));
				__m128i ends = _mm_or_si128(_mm_cmpeq_epi8(here, lfs), _mm_cmpeq_epi8(here, crs));
				__m128i odd = _mm_or_si128(_mm_cmpeq_epi8(next, dots), _mm_cmpeq_epi8(next, nuls));

				any = _mm_or_si128(any, _mm_and_si128(ends, odd));
			}
			if (_mm_movemask_epi8(any) != 0) {
				stop = at + 64; /* in here */
				break;
			}
		}
#endif
		for (; at < stop; at++) {
			if ((*at == '\n' || *at == '\r') && is_dotted(at + 1, end))
				return at;
		}
	}
	return NULL;
}

/* What lies between the places where a dot is to be added goes out by reference. */
static void
write_part(struct tr_stream *stream, const struct tr_bytes *part, size_t len, bool line_start)
{
	const char *run = part->data, *end, *hit;

	if (len == 0) /* its data may be NULL */
		return;
	end = run + len;
	if (line_start && is_dotted(run, end))
		tr_stream_write(stream, ".", 1);
	for (const char *at = run; (hit = find_dot(at, end)) != NULL; at = hit + 1) {
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
	write_part(stream, body, body_len,
		head->len == 0 || head->data[head->len - 1] == '\n' || head->data[head->len - 1] == '\r');
	if (newline)
		tr_stream_write(stream, ".\r\n", 3);
	else
		tr_stream_write(stream, "\r\n.\r\n", 5);
}
