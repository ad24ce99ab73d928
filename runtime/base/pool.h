/* Blocks that are made and freed for each record and mail, kept by each thread for its next one: in the steady state of
 * thousands under way malloc's own caches are too small. Up to 64 KiB; more is malloc's. Blocks may be freed by another
 * thread. Sizes are told at both ends. With AddressSanitizer this is malloc and free. */
#ifndef TR_POOL_H
#define TR_POOL_H

#include <stddef.h>

void *tr_pool_get(size_t size);             /* not initialised; NULL: no memory */
void *tr_pool_zero(size_t size);            /* zeroed */
void tr_pool_put(void *block, size_t size); /* size as at get; NULL is fine */

#endif
