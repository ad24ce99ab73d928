/* Hash, checksum and shared bytes. */
#include <stdlib.h>
#if defined(__x86_64__)
#include <wmmintrin.h>
#endif

#include "base/buf.h"
#include "base/pool.h"

uint64_t
tr_hash(const void *data, size_t len)
{
	const uint64_t prime = UINT64_C(0x100000001b3);
	const unsigned char *at = data;
	uint64_t hash = UINT64_C(0xcbf29ce484222325) ^ len;

	for (; len >= 8; at += 8, len -= 8) {
		uint64_t word;

		memcpy(&word, at, 8);
		hash = (hash ^ word) * prime;
		hash ^= hash >> 29;
	}
	for (; len > 0; at++, len--)
		hash = (hash ^ *at) * prime;
	hash ^= hash >> 32; /* users mask the low bits */
	hash *= UINT64_C(0x9e3779b97f4a7c15);
	return hash ^ (hash >> 29);
}

/* --- CRC32C: polynomial 0x1EDC6F41, reflected (RFC 3720 section 12.1) --------------------------- */

static uint32_t crc_table[8][256]; /* filled before main(), then constant */

typedef uint32_t crc_fn(uint32_t crc, const void *data, size_t len);
static crc_fn *crc_best = tr_crc32c_table;

uint32_t
tr_crc32c_table(uint32_t crc, const void *data, size_t len)
{
	const unsigned char *at = data;

	crc = ~crc;
	for (; len >= 8; at += 8, len -= 8) { /* eight bytes a step */
		uint32_t low, high;

		memcpy(&low, at, 4);
		memcpy(&high, at + 4, 4);
		low ^= crc;
		crc = crc_table[7][low & 255] ^ crc_table[6][low >> 8 & 255] ^ crc_table[5][low >> 16 & 255] ^
		      crc_table[4][low >> 24] ^ crc_table[3][high & 255] ^ crc_table[2][high >> 8 & 255] ^
		      crc_table[1][high >> 16 & 255] ^ crc_table[0][high >> 24];
	}
	for (; len > 0; at++, len--)
		crc = crc_table[0][(crc ^ *at) & 255] ^ crc >> 8;
	return ~crc;
}

#if defined(__x86_64__)
/* The instruction takes three cycles but can start in each: three streams side by side. The sum of a stream is moved
 * over the n bytes behind it by a product with x^(8n) mod P, carry-less; the instruction itself reduces that, and adds
 * 33 to the exponent on the way, so crc_over[n / 8] is x^(8n - 33). */
enum { STREAM = 128, STREAM_MIN = 4 }; /* words of a stream, at most and at least */
static uint32_t crc_over[2 * STREAM + 1];

static void
crc_over_init(void)
{
	uint32_t power = 1; /* x^31: the bits are reflected */

	for (size_t words = 1; words < TR_COUNT(crc_over); words++) {
		crc_over[words] = power;
		for (int byte = 0; byte < 8; byte++)
			power = crc_table[0][power & 255] ^ power >> 8;
	}
}

__attribute__((target("sse4.2,pclmul"))) static inline uint64_t
crc_moved(uint64_t crc, size_t words)
{
	return (uint64_t)_mm_cvtsi128_si64(_mm_clmulepi64_si128(
		_mm_cvtsi64_si128((long long)crc), _mm_cvtsi64_si128((long long)crc_over[words]), 0));
}

#define CRC_STEP(to, from, word) __builtin_memcpy(&word, from, 8), to = __builtin_ia32_crc32di(to, word)

/* Of three streams of so many words. */
__attribute__((target("sse4.2,pclmul"))) static inline uint64_t
crc_three(uint64_t crc, const unsigned char *at, size_t words)
{
	const unsigned char *second_at = at + 8 * words, *third_at = at + 16 * words;
	uint64_t second = 0, third = 0, word;

	if (words % 2 != 0) {
		CRC_STEP(crc, at, word);
		CRC_STEP(second, second_at, word);
		CRC_STEP(third, third_at, word);
		at += 8;
		second_at += 8;
		third_at += 8;
	}
	for (size_t left = words / 2; left > 0; left--, at += 16, second_at += 16, third_at += 16) {
		CRC_STEP(crc, at, word);
		CRC_STEP(second, second_at, word);
		CRC_STEP(third, third_at, word);
		CRC_STEP(crc, at + 8, word);
		CRC_STEP(second, second_at + 8, word);
		CRC_STEP(third, third_at + 8, word);
	}
	return __builtin_ia32_crc32di(0, crc_moved(crc, 2 * words) ^ crc_moved(second, words)) ^ third;
}

/* The rest of a sum, or a short one; in both functions that follow. */
__attribute__((target("sse4.2,pclmul"))) static inline uint32_t
crc_short(uint64_t wide, const unsigned char *at, size_t len)
{
	uint64_t word;
	uint32_t crc, half;

	for (; len >= 8; at += 8, len -= 8)
		CRC_STEP(wide, at, word);
	crc = (uint32_t)wide;
	if (len >= 4) {
		memcpy(&half, at, 4);
		crc = __builtin_ia32_crc32si(crc, half);
		at += 4;
		len -= 4;
	}
	for (; len > 0; at++, len--)
		crc = __builtin_ia32_crc32qi(crc, *at);
	return ~crc;
}

__attribute__((target("sse4.2,pclmul"), noinline)) static uint32_t
crc_long(uint64_t wide, const unsigned char *at, size_t len)
{
	while (len >= 24 * STREAM_MIN) {
		size_t words = len / 24 < STREAM ? len / 24 : STREAM;

		wide = crc_three(wide, at, words);
		at += 24 * words;
		len -= 24 * words;
	}
	return crc_short(wide, at, len);
}

/* Most sums are of the headers and words of frames: they do not save the registers that long ones take. */
__attribute__((target("sse4.2,pclmul"))) static uint32_t
crc_fast(uint32_t crc, const void *data, size_t len)
{
	return len >= 24 * STREAM_MIN ? crc_long((uint32_t)~crc, data, len) : crc_short((uint32_t)~crc, data, len);
}
#endif

__attribute__((constructor)) static void
crc_choose(void)
{
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t crc = i;

		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ UINT32_C(0x82f63b78) : crc >> 1;
		crc_table[0][i] = crc;
	}
	for (int row = 1; row < 8; row++) {
		for (int i = 0; i < 256; i++)
			crc_table[row][i] = crc_table[0][crc_table[row - 1][i] & 255] ^ crc_table[row - 1][i] >> 8;
	}
#if defined(__x86_64__)
	__builtin_cpu_init();
	if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul")) {
		crc_over_init();
		crc_best = crc_fast;
	}
#endif
}

#ifndef TR_UNCHECKED
uint32_t
tr_crc32c(uint32_t crc, const void *data, size_t len)
{
	return crc_best(crc, data, len);
}
#endif

/* --- blobs --------------------------------------------------------------------------------------- */

static _Atomic size_t blob_bytes;

struct tr_blob *
tr_blob_new(const void *data, size_t len)
{
	struct tr_blob *blob;

	if (len >= PTRDIFF_MAX - sizeof *blob)
		return NULL;
	blob = tr_pool_get(sizeof *blob + len + 1);
	if (blob == NULL)
		return NULL;
	atomic_init(&blob->refs, 1);
	blob->len = len;
	if (data != NULL && len > 0)
		memcpy(blob->data, data, len);
	blob->data[len] = '\0';
	atomic_fetch_add_explicit(&blob_bytes, len, memory_order_relaxed);
	return blob;
}

void
tr_blob_unref(struct tr_blob *blob)
{
	if (blob == NULL || atomic_fetch_sub_explicit(&blob->refs, 1, memory_order_acq_rel) != 1)
		return;
	atomic_fetch_sub_explicit(&blob_bytes, blob->len, memory_order_relaxed);
	tr_pool_put(blob, sizeof *blob + blob->len + 1);
}

size_t
tr_blob_total_bytes(void)
{
	return atomic_load_explicit(&blob_bytes, memory_order_relaxed);
}
