/* Spelling help for keys and names: one place for "did you mean". */
#ifndef TR_OPTIONS_H
#define TR_OPTIONS_H

#include "base/base.h"

/* The nearest of `names` (NULL-terminated) by edit distance, if it is near enough to be a likely
 * slip (distance <= 1 + length/4); else NULL. */
const char *tr_nearest(const char *name, const char *const *names);

#endif
