#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/server.h"

static bool
is_share_dir(const char *dir)
{
	char path[PATH_MAX];

	return snprintf(path, sizeof path, "%s/lua/kumo.lua", dir) < (int)sizeof path && access(path, R_OK) == 0;
}

const char *
tr_share_dir(void)
{
	static char found[PATH_MAX];
	const char *env = getenv("TAILRACE_SHARE");
	char exe[PATH_MAX];
	ssize_t len;

	if (env != NULL && *env != '\0')
		return env;
	if (found[0] != '\0')
		return found;
	len = readlink("/proc/self/exe", exe, sizeof exe - 1);
	if (len > 0) {
		exe[len] = '\0';
		*strrchr(exe, '/') = '\0';
		if (snprintf(found, sizeof found, "%s/../share/tailrace", exe) < (int)sizeof found &&
			is_share_dir(found))
			return found;
	}
	snprintf(found, sizeof found, "%s", TR_SOURCE_DIR);
	return found;
}
