#include "base/pool.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
	STEP = 32,                    /* bytes between two classes */
	CLASSES = 48,                 /* larger blocks are malloc's */
	KEPT_BYTES = 8 * 1024 * 1024, /* of a thread: some thousand records end with one commit */
};

struct block {
	struct block *next;
};

struct pool {
	struct block *free[CLASSES];
	size_t kept; /* bytes */
	bool ready;  /* the thread's end will empty it */
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
	self->kept = 0;
	self->ready = false;
}

static void
make_key(void)
{
	(void)pthread_key_create(&key, empty); /* without a key a thread's blocks stay when it ends */
}

static size_t
class_of(size_t size)
{
	return size == 0 ? 0 : (size - 1) / STEP;
}

void *
tr_pool_get(size_t size)
{
	size_t class = class_of(size);
	struct block *block;

	if (class >= CLASSES)
		return malloc(size);
	block = pool.free[class];
	if (block == NULL)
		return malloc((class + 1) * STEP);
	pool.free[class] = block->next;
	pool.kept -= (class + 1) * STEP;
	return block;
}

void
tr_pool_put(void *data, size_t size)
{
	size_t class = class_of(size);
	struct block *block = data;

	if (block == NULL)
		return;
	if (class >= CLASSES || pool.kept >= KEPT_BYTES) {
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
	pool.kept += (class + 1) * STEP;
}

#endif

void *
tr_pool_zero(size_t size)
{
	void *block = tr_pool_get(size);

	return block != NULL ? memset(block, 0, size) : NULL;
}
