/* main() for a fuzzer without libFuzzer: gives it each file that is named, and each file of a directory, in order of
 * name. For compilers that have none, and for the tests of inputs that were found. */
#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

#include "fuzz.h"

static int
give_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	size_t len = 0, cap = 1 << 16, n;
	char *data = malloc(cap), *copy;

	if (file == NULL || data == NULL) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		free(data);
		if (file != NULL)
			fclose(file);
		return 1;
	}
	while ((n = fread(data + len, 1, cap - len, file)) > 0) {
		len += n;
		if (len == cap)
			data = realloc(data, cap *= 2);
		need(data != NULL);
	}
	fclose(file);
	fprintf(stderr, "%s\n", path); /* the last one that is named is the one to look at */
	copy = fuzz_copy(data, len);
	free(data);
	LLVMFuzzerTestOneInput((const uint8_t *)copy, len);
	free(copy);
	return 0;
}

static int
by_name(const struct dirent *entry)
{
	return entry->d_name[0] != '.';
}

static int
give(const char *path)
{
	struct dirent **entries;
	struct stat info;
	int count, failed = 0;

	if (stat(path, &info) != 0 || !S_ISDIR(info.st_mode))
		return give_file(path);
	count = scandir(path, &entries, by_name, alphasort);
	for (int i = 0; i < count; i++) {
		char name[4096];

		snprintf(name, sizeof name, "%s/%s", path, entries[i]->d_name);
		failed += give_file(name);
		free(entries[i]);
	}
	if (count >= 0)
		free(entries);
	if (count <= 0)
		fprintf(stderr, "%s: no inputs\n", path);
	return failed + (count <= 0);
}

int
main(int argc, char **argv)
{
	int failed = 0;

	for (int i = 1; i < argc; i++)
		failed += give(argv[i]);
	return failed > 0;
}
