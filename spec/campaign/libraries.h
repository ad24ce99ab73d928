/* Allocations of shared libraries that fail on demand: a library's pointers to malloc(), calloc(), realloc(), strdup()
 * and strndup() are turned to ours, whatever they pointed to. Whose allocations count: memory.h. What libc needs for
 * itself (getaddrinfo(), fopen()) never fails. */
#ifndef CAMPAIGN_LIBRARIES_H
#define CAMPAIGN_LIBRARIES_H

#include <stdbool.h>
#include <stdint.h>

#define LIBRARIES_MAX 96

/* Takes all that are loaded, once; there is one thread. The sanitizers, libc and what comes with it are left alone. */
void libraries_take(void);
/* "libcurl" of libcurl.so.4; NULL: that is all. */
const char *libraries_name(unsigned library);
/* Whether it ends the process by itself when it finds no memory, so that nobody could do better. */
bool libraries_aborts(unsigned library);

/* So many of its allocations go well, then so many fail; those of all are counted from 0. With MEMORY_TRACE in the
 * environment each failure prints where it was. */
void libraries_watch_all(void); /* whoever asks, also what memory.h leaves out: before the first libraries_arm() */
void libraries_arm(unsigned library, uint64_t after, uint64_t times);
void libraries_calm(void);                      /* nothing fails any more; counts stay */
uint64_t libraries_allocated(unsigned library); /* until libraries_calm() */
void libraries_on_failure(void (*fn)(void));    /* called for each; it must not allocate */

#endif
