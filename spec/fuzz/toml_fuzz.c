/* Fuzzes TOML: any bytes are a document or an error with a text, nesting is bounded, tables and arrays end.
 * tomlplusplus is compiled in from its headers, so that it is watched, too. */
#include <stdlib.h>
#include <string.h>

#include "base/toml.h"

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t len);

int
LLVMFuzzerTestOneInput(const unsigned char *data, size_t len)
{
	struct tr_toml_error error = {0};
	struct tr_toml_item item;
	struct tr_toml *doc = NULL;
	size_t at = 0;
	int depth = 0;

	int err = tr_toml_parse((const char *)data, len, &doc, &error);
	if ((err == TR_OK) != (doc != NULL) || (err != TR_OK && error.text[0] == '\0'))
		abort();
	while (doc != NULL && tr_toml_next(doc, &at, &item)) {
		depth += item.type == TR_TOML_TABLE || item.type == TR_TOML_ARRAY;
		depth -= item.type == TR_TOML_END;
		if (depth < 0 || depth > TR_TOML_MAX_DEPTH)
			abort();
		if (item.text_len > 0 && memchr(item.text, '\n', item.text_len) == data)
			abort(); /* never; but each byte has been read */
	}
	if (depth != 0)
		abort();
	tr_toml_free(doc);
	return 0;
}
