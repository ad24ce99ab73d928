/* Memory that is taken beforehand, for when there is none: a mapping that costs no page until it is used. Each piece's
 * length is kept apart from it, so that nobody has to know it. Not for several threads at once. */
#ifndef TR_RESERVE_H
#define TR_RESERVE_H

#include <stdbool.h>
#include <stddef.h>

struct tr_reserve; /* opaque, lies in its own mapping */

/* With room for `bytes` (rounded up to whole KiB). NULL: no memory. */
struct tr_reserve *tr_reserve_new(size_t bytes);
void tr_reserve_free(struct tr_reserve *reserve); /* NULL is fine. What it gave is gone */
size_t tr_reserve_bytes(const struct tr_reserve *reserve);
size_t tr_reserve_used(const struct tr_reserve *reserve);
bool tr_reserve_holds(const struct tr_reserve *reserve, const void *ptr);

/* A piece, aligned to 16 bytes; NULL: no such room. bytes > 0. */
void *tr_reserve_take(struct tr_reserve *reserve, size_t bytes);
/* ptr: of tr_reserve_take(). When nothing is left in it, its pages go back to the kernel. */
void tr_reserve_give(struct tr_reserve *reserve, void *ptr);
/* Makes the piece shorter, or longer where what is behind it is free. False: it stays as it is. bytes > 0. */
bool tr_reserve_resize(struct tr_reserve *reserve, void *ptr, size_t bytes);
size_t tr_reserve_length(const struct tr_reserve *reserve, const void *ptr); /* of a piece, in whole units of 16 */

#endif
