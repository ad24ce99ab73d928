#include "base/options.h"

#include <string.h>

#define LONGEST 63 /* bytes of a name that is compared; longer ones are no slip of a key of ours */

/* Edit distance where a swap of neighbours counts once, as typing slips do. */
static size_t
distance(const char *a, size_t a_len, const char *b, size_t b_len)
{
	size_t rows[3][LONGEST + 1];
	size_t *before = rows[0], *last = rows[1], *row = rows[2];

	for (size_t j = 0; j <= b_len; j++)
		last[j] = before[j] = j;
	for (size_t i = 1; i <= a_len; i++) {
		row[0] = i;
		for (size_t j = 1; j <= b_len; j++) {
			size_t best = last[j - 1] + (a[i - 1] != b[j - 1]);

			if (last[j] + 1 < best)
				best = last[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < best)
				best = before[j - 2] + 1;
			row[j] = best;
		}
		size_t *oldest = before;
		before = last;
		last = row;
		row = oldest;
	}
	return last[b_len];
}

const char *
tr_nearest(const char *name, const char *const *names)
{
	size_t len = strlen(name);
	size_t least = 1 + len / 4 + 1; /* the first distance that is too far */
	const char *nearest = NULL;

	if (len > LONGEST)
		return NULL;
	for (; *names != NULL; names++) {
		size_t other = strlen(*names);

		if (other > LONGEST || (other > len ? other - len : len - other) >= least)
			continue;
		size_t d = distance(name, len, *names, other);
		if (d < least) {
			least = d;
			nearest = *names;
		}
	}
	return nearest;
}
