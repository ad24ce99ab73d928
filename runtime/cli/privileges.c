#include "cli/privileges.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/base.h"

static int
fail(char **error, const char *user, const char *what)
{
	if (asprintf(error, "--user %s: %s: %s", user, what, strerror(errno)) < 0)
		*error = NULL;
	return TR_EIO;
}

/* capset by hand: one call does not justify libcap. */
static int
keep_bind_service(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {{0}};

	data[0].effective = data[0].permitted = 1U << CAP_NET_BIND_SERVICE;
	return (int)syscall(SYS_capset, &header, data);
}

int
tr_drop_privileges(const char *user, char **error)
{
	struct passwd *pw = getpwnam(user);

	if (pw == NULL) {
		if (asprintf(error, "--user %s: there is no such user", user) < 0)
			*error = NULL;
		return TR_ENOENT;
	}
	if (geteuid() == pw->pw_uid)
		return TR_OK;
	if (geteuid() != 0) {
		errno = EPERM;
		return fail(error, user, "only root can become another user");
	}
	if (prctl(PR_SET_KEEPCAPS, 1) != 0 || setgroups(0, NULL) != 0 || initgroups(user, pw->pw_gid) != 0 ||
		setgid(pw->pw_gid) != 0 || setuid(pw->pw_uid) != 0)
		return fail(error, user, "cannot become that user");
	if (keep_bind_service() != 0)
		return fail(error, user, "cannot give up the other rights");
	return TR_OK;
}
