/* From where allocations are called for, so that of many that are alike a few are enough. One thread. */
#ifndef CAMPAIGN_PLACES_H
#define CAMPAIGN_PLACES_H

#include <stddef.h>
#include <stdint.h>

#include "memory.h"

/* Forgets all, and takes at most so many of each place from now on. */
void places_begin(unsigned most);
void places_note(enum memory_kind kind, uint64_t n); /* memory_on_each() */
/* The numbers that were taken, in order; borrowed until places_begin(). */
const uint32_t *places_chosen(enum memory_kind kind, size_t *count);

#endif
