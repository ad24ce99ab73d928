/* What the fuzzers share. Each is one function that any bytes may be given to: it must end, keep to its memory (the
 * sanitizers watch), and hold what need() says. spec/fuzz/run.sh builds and runs them; without clang
 * replay.c gives them the inputs of spec/fuzz/corpus, as tests. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

#define need(condition)                                                                         \
	do {                                                                                    \
		if (!(condition)) {                                                             \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                                \
		}                                                                               \
	} while (0)

/* The input, taken from its front. */
struct fuzz_in {
	const uint8_t *at, *end;
};

static inline uint8_t
fuzz_byte(struct fuzz_in *in)
{
	return in->at < in->end ? *in->at++ : 0;
}

/* Up to the byte `stop`, which goes too, or the end. */
static inline size_t
fuzz_until(struct fuzz_in *in, uint8_t stop, const char **text)
{
	const uint8_t *from = in->at;

	while (in->at < in->end && *in->at != stop)
		in->at++;
	*text = (const char *)from;
	size_t len = (size_t)(in->at - from);
	if (in->at < in->end)
		in->at++;
	return len;
}

/* Memory of exactly that size, so that the byte behind it is somebody else's; the caller frees it. */
static inline char *
fuzz_copy(const void *data, size_t len)
{
	char *copy = malloc(len > 0 ? len : 1);

	need(copy != NULL);
	if (len > 0)
		memcpy(copy, data, len);
	return copy;
}

#endif
