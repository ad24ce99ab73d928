/* Hash, checksum and shared bytes. */
#include <stdlib.h>

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
/* The instruction takes three cycles but can start in each: three streams side by side, joined by moving the sum of a
 * part over the bytes behind it, which is linear and so a matter of tables. */
enum { CRC_LONG = 2048, CRC_SHORT = 128 }; /* bytes of a stream */
static uint32_t over_long[4][256], over_short[4][256];

/* The sum `crc` (not inverted) after `len` zero bytes more. */
static uint32_t
crc_over_zeros(uint32_t crc, size_t len)
{
	while (len-- > 0)
		crc = crc_table[0][crc & 255] ^ crc >> 8;
	return crc;
}

static void
crc_over_init(uint32_t table[4][256], size_t len)
{
	for (int byte = 0; byte < 4; byte++) {
		for (int bit = 0; bit < 8; bit++)
			table[byte][1 << bit] = crc_over_zeros(UINT32_C(1) << (8 * byte + bit), len);
		for (int i = 1; i < 256; i++)
			table[byte][i] = table[byte][i & (i - 1)] ^ table[byte][i & -i];
	}
}

static inline uint64_t
crc_over(uint32_t table[4][256], uint64_t crc)
{
	return table[0][crc & 255] ^ table[1][crc >> 8 & 255] ^ table[2][crc >> 16 & 255] ^ table[3][crc >> 24 & 255];
}

__attribute__((target("sse4.2"))) static inline uint64_t
crc_three(uint64_t crc, const unsigned char *at, size_t stream, uint32_t table[4][256])
{
	uint64_t second = 0, third = 0, a, b, c;

	for (size_t i = 0; i < stream; i += 8) {
		memcpy(&a, at + i, 8);
		memcpy(&b, at + stream + i, 8);
		memcpy(&c, at + 2 * stream + i, 8);
		crc = __builtin_ia32_crc32di(crc, a);
		second = __builtin_ia32_crc32di(second, b);
		third = __builtin_ia32_crc32di(third, c);
	}
	crc = crc_over(table, crc) ^ second;
	return crc_over(table, crc) ^ third;
}

__attribute__((target("sse4.2"))) static uint32_t
crc_sse42(uint32_t crc, const void *data, size_t len)
{
	const unsigned char *at = data;
	uint64_t wide = (uint32_t)~crc;

	for (; len >= 3 * CRC_LONG; at += 3 * CRC_LONG, len -= 3 * CRC_LONG)
		wide = crc_three(wide, at, CRC_LONG, over_long);
	for (; len >= 3 * CRC_SHORT; at += 3 * CRC_SHORT, len -= 3 * CRC_SHORT)
		wide = crc_three(wide, at, CRC_SHORT, over_short);
	for (; len >= 8; at += 8, len -= 8) {
		uint64_t word;

		memcpy(&word, at, 8);
		wide = __builtin_ia32_crc32di(wide, word);
	}
	crc = (uint32_t)wide;
	for (; len > 0; at++, len--)
		crc = __builtin_ia32_crc32qi(crc, *at);
	return ~crc;
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
	if (__builtin_cpu_supports("sse4.2")) {
		crc_over_init(over_long, CRC_LONG);
		crc_over_init(over_short, CRC_SHORT);
		crc_best = crc_sse42;
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
