#include "cli/dot_scan.h"

#include <string.h>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* Offset of the first CR LF . or, if there is none, one from which on there is none: the last bytes are left to
 * the caller, which goes over them byte by byte. */
static size_t
skip(const char *data, size_t len)
{
	size_t at = 0;

#ifdef __SSE2__
	for (; at + 18 <= len; at += 16) {
		__m128i cr = _mm_loadu_si128((const __m128i *)(const void *)(data + at));
		__m128i lf = _mm_loadu_si128((const __m128i *)(const void *)(data + at + 1));
		__m128i dot = _mm_loadu_si128((const __m128i *)(const void *)(data + at + 2));
		__m128i hit =
			_mm_and_si128(_mm_cmpeq_epi8(lf, _mm_set1_epi8('\n')), _mm_cmpeq_epi8(dot, _mm_set1_epi8('.')));
		int mask = _mm_movemask_epi8(_mm_and_si128(hit, _mm_cmpeq_epi8(cr, _mm_set1_epi8('\r'))));

		if (mask != 0)
			return at + (size_t)__builtin_ctz((unsigned)mask);
	}
#else
	const char *hit = memmem(data, len, "\r\n.", 3);

	if (hit != NULL)
		return (size_t)(hit - data);
	at = len > 2 ? len - 2 : 0;
#endif
	return at;
}

size_t
tr_dot_scan_take(struct tr_dot_scan *scan, const char *data, size_t len)
{
	int matched = scan->matched;
	size_t tail = 0; /* from here on byte by byte */

	for (size_t at = 0; at < len; at++) {
		if (matched == 0 && at >= tail && len - at >= 18) {
			at += skip(data + at, len - at);
			tail = data[at] == '\r' ? 0 : len;
		}
		char c = data[at];

		switch (matched) {
		case 2:
			matched = c == '.' ? 3 : c == '\r' ? 1 : 0;
			break;
		case 3:
			if (c == '\r') {
				matched = 4;
			} else {
				scan->stuffed++;
				matched = 0;
			}
			break;
		case 4:
			if (c == '\n') {
				scan->matched = 0;
				return at + 1;
			}
			scan->stuffed++;
			matched = c == '\r' ? 1 : 0;
			break;
		case 1:
			matched = c == '\n' ? 2 : c == '\r' ? 1 : 0;
			break;
		default:
			matched = c == '\r' ? 1 : 0;
			break;
		}
	}
	scan->matched = matched;
	return 0;
}
