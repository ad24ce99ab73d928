#include "base/pool.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
	STEP = 32,          /* bytes between two classes of small blocks */
	SMALL_CLASSES = 48, /* up to 1,536 bytes */
	OCTAVE = 8,         /* classes of larger ones between two powers of two: an eighth is wasted at most */
	FIRST_BITS = 10,    /* the first power of two with such classes */
	LAST_BITS = 16,     /* blocks of more than 64 KiB are malloc's */
	CLASSES = SMALL_CLASSES + (LAST_BITS - FIRST_BITS) * OCTAVE,
	KEPT_BYTES = 8 * 1024 * 1024,  /* of a thread: some thousand records end with one commit */
	LARGE_BYTES = 4 * 1024 * 1024, /* of larger ones, beside them */
};

struct block {
	struct block *next;
};

struct pool {
	struct block *free[CLASSES];
	size_t kept[2]; /* bytes, in small and in larger ones */
	bool ready;     /* the thread's end will empty it */
};

#if defined(__SANITIZE_ADDRESS__)

void *
tr_pool_get(size_t size)
{
	return malloc(size);
}

void
tr_pool_put(void *block, size_t size)
{
	free(block);
}

#else

static _Thread_local struct pool pool;
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void
empty(void *arg)
{
	struct pool *self = arg;

	for (int i = 0; i < CLASSES; i++) {
		while (self->free[i] != NULL) {
			struct block *block = self->free[i];

			self->free[i] = block->next;
			free(block);
		}
	}
	self->kept[0] = self->kept[1] = 0;
	self->ready = false;
}

static void
make_key(void)
{
	(void)pthread_key_create(&key, empty); /* without a key a thread's blocks stay when it ends */
}

/* The class of blocks that are large enough, and their size; CLASSES: malloc's. Bodies of mail come in one size after
 * the other and go in another order: left to malloc() they would be cut up for records that stay, and searched for. */
static size_t
class_of(size_t size, size_t *block_bytes)
{
	size_t class = size == 0 ? 0 : (size - 1) / STEP, bits, step, over;

	*block_bytes = (class + 1) * STEP;
	if (class < SMALL_CLASSES)
		return class;
	*block_bytes = size;
	if (size > (size_t)1 << LAST_BITS)
		return CLASSES;
	bits = 8 * sizeof(long) - 1 -
	       (size_t)__builtin_clzl((unsigned long)(size - 1)); /* 2^bits < size <= 2^(bits + 1) */
	step = ((size_t)1 << bits) / OCTAVE;
	over = (size - 1 - ((size_t)1 << bits)) / step; /* 0 to OCTAVE - 1 */
	*block_bytes = ((size_t)1 << bits) + (over + 1) * step;
	return SMALL_CLASSES + (bits - FIRST_BITS) * OCTAVE + over;
}

void *
tr_pool_get(size_t size)
{
	size_t bytes, class = class_of(size, &bytes);
	struct block *block;

	if (class >= CLASSES)
		return malloc(size);
	block = pool.free[class];
	if (block == NULL)
		return malloc(bytes);
	pool.free[class] = block->next;
	pool.kept[class >= SMALL_CLASSES] -= bytes;
	return block;
}

void
tr_pool_put(void *data, size_t size)
{
	size_t bytes, class = class_of(size, &bytes);
	struct block *block = data;

	if (block == NULL)
		return;
	if (class >= CLASSES || (class < SMALL_CLASSES ? pool.kept[0] >= KEPT_BYTES : pool.kept[1] >= LARGE_BYTES)) {
		free(block);
		return;
	}
	if (!pool.ready) {
		pthread_once(&once, make_key);
		(void)pthread_setspecific(key, &pool);
		pool.ready = true;
	}
	block->next = pool.free[class];
	pool.free[class] = block;
	pool.kept[class >= SMALL_CLASSES] += bytes;
}

#endif

void *
tr_pool_zero(size_t size)
{
	void *block = tr_pool_get(size);

	return block != NULL ? memset(block, 0, size) : NULL;
}
