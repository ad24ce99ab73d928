#include "cli/json_split.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { BLOCK = 64 };

struct masks {
	uint64_t quote, backslash, bracket, comma;
};

struct walk {
	const char *data;
	int64_t depth, base; /* base: depth at which records lie: 0 for objects in a row, 1 inside an array */
	size_t start;        /* of the record under way */
	struct tr_json_split found;
	void (*each)(void *arg, struct tr_str record);
	void *arg;
};

#ifdef __SSE2__
static inline uint64_t
equal(const __m128i block[4], char c)
{
	__m128i wanted = _mm_set1_epi8(c);
	uint64_t mask = 0;

#pragma GCC unroll 4 /* -O2 alone keeps the loop, a third slower */
	for (int i = 0; i < 4; i++)
		mask |= (uint64_t)(uint32_t)_mm_movemask_epi8(_mm_cmpeq_epi8(block[i], wanted)) << (16 * i);
	return mask;
}

static inline struct masks
look(const char *data)
{
	__m128i block[4], folded[4];
	struct masks masks;

#pragma GCC unroll 4 /* -O2 alone keeps the loop, a third slower */
	for (int i = 0; i < 4; i++) {
		block[i] = _mm_loadu_si128((const __m128i *)(const void *)(data + 16 * i));
		folded[i] = _mm_or_si128(block[i], _mm_set1_epi8(0x20)); /* [ and { become {, ] and } become } */
	}
	masks.quote = equal(block, '"');
	masks.backslash = equal(block, '\\');
	masks.bracket = equal(folded, '{') | equal(folded, '}');
	masks.comma = equal(block, ',');
	return masks;
}
#else
static inline struct masks
look(const char *data)
{
	struct masks masks = {0, 0, 0, 0};

	for (int i = 0; i < BLOCK; i++) {
		uint64_t bit = UINT64_C(1) << i;

		if (data[i] == '"')
			masks.quote |= bit;
		else if (data[i] == '\\')
			masks.backslash |= bit;
		else if (data[i] == ',')
			masks.comma |= bit;
		else if ((data[i] | 32) == '{' || (data[i] | 32) == '}')
			masks.bracket |= bit;
	}
	return masks;
}
#endif

static void
give(struct walk *walk, size_t end)
{
	struct tr_str record = {walk->data + walk->start, end - walk->start};

	while (record.len > 0 && strchr(" \t\r\n", *record.data) != NULL) {
		record.data++;
		record.len--;
	}
	while (record.len > 0 && strchr(" \t\r\n", record.data[record.len - 1]) != NULL)
		record.len--;
	if (record.len == 0)
		return; /* the inside of an empty array */
	walk->found.records++;
	if (walk->each != NULL)
		walk->each(walk->arg, record);
}

static void
step(struct walk *walk, size_t at)
{
	switch (walk->data[at]) {
	case '{':
		if (walk->depth == 0) {
			walk->base = 0;
			walk->start = at;
		}
		walk->depth++;
		break;
	case '[':
		if (walk->depth == 0) {
			walk->base = 1;
			walk->start = at + 1;
		}
		walk->depth++;
		break;
	case ',':
		if (walk->depth == 1 && walk->base == 1) {
			give(walk, at);
			walk->start = at + 1;
		}
		break;
	default: /* } or ] */
		walk->depth--;
		if (walk->depth < 0) {
			walk->found.malformed = true;
			walk->depth = 0;
		} else if (walk->depth == 0) {
			give(walk, walk->base == 1 ? at : at + 1);
		}
		break;
	}
}

struct tr_json_split
tr_json_split(struct tr_str body, void (*each)(void *arg, struct tr_str record), void *arg)
{
	struct walk walk = {.data = body.data, .each = each, .arg = arg};
	uint64_t in_string = 0; /* all ones while a string goes on from the block before */
	bool escaped = false;   /* the first byte of the block follows a backslash that counts */
	size_t first = 0;

	while (first < body.len && strchr(" \t\r\n", body.data[first]) != NULL && body.data[first] != '\0')
		first++;
	if (first == body.len)
		return walk.found;
	if (body.data[first] != '{' && body.data[first] != '[') {
		walk.start = first;
		give(&walk, body.len);
		return walk.found;
	}
	for (size_t at = first; at < body.len; at += BLOCK) {
		char last[BLOCK];
		const char *block = body.data + at;

		if (body.len - at < BLOCK) {
			memset(last, ' ', sizeof last);
			memcpy(last, block, body.len - at);
			block = last;
		}
		struct masks masks = look(block);

		if (masks.backslash != 0 || escaped) { /* rare: bit by bit */
			for (int i = 0; i < BLOCK; i++) {
				uint64_t bit = UINT64_C(1) << i;

				if (escaped) {
					masks.quote &= ~bit;
					escaped = false;
				} else if (masks.backslash & bit) {
					escaped = true;
				}
			}
		}
		uint64_t inside = masks.quote; /* prefix sums modulo 2: ones from a quote up to the next */

		inside ^= inside << 1;
		inside ^= inside << 2;
		inside ^= inside << 4;
		inside ^= inside << 8;
		inside ^= inside << 16;
		inside ^= inside << 32;
		inside ^= in_string;
		in_string = (uint64_t)((int64_t)inside >> 63);
		uint64_t marks = masks.bracket & ~inside;

		/* most commas lie inside records, where they mean nothing: whole blocks of them are skipped */
		if (marks != 0 || walk.depth == 1)
			marks |= masks.comma & ~inside;
		for (; marks != 0; marks &= marks - 1)
			step(&walk, at + (size_t)__builtin_ctzll(marks));
	}
	if (in_string != 0 || walk.depth != 0)
		walk.found.malformed = true;
	return walk.found;
}
