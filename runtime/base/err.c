#include "base/base.h"

#include <errno.h>
#include <string.h>

static const struct {
	const char *name, *text;
} errors[] = {
	[-TR_OK] = {"OK", "no error"},
	[-TR_EINVAL] = {"EINVAL", "invalid argument"},
	[-TR_ENOMEM] = {"ENOMEM", "out of memory"},
	[-TR_EIO] = {"EIO", "input/output error"},
	[-TR_ENOSPC] = {"ENOSPC", "no space left"},
	[-TR_ETIMEDOUT] = {"ETIMEDOUT", "timed out"},
	[-TR_ECANCELED] = {"ECANCELED", "canceled"},
	[-TR_ENOENT] = {"ENOENT", "not found"},
	[-TR_EEXIST] = {"EEXIST", "exists already"},
	[-TR_EAGAIN] = {"EAGAIN", "a bound is reached, try again later"},
	[-TR_ECLOSED] = {"ECLOSED", "closed"},
	[-TR_EPROTO] = {"EPROTO", "protocol error"},
	[-TR_EVERSION] = {"EVERSION", "stored by a newer version"},
	[-TR_ECORRUPT] = {"ECORRUPT", "stored bytes are damaged"},
	[-TR_EREFUSED] = {"EREFUSED", "connection refused"},
	[-TR_ETOOBIG] = {"ETOOBIG", "too big"},
	[-TR_EACCES] = {"EACCES", "not allowed"},
	[-TR_EMFILE] = {"EMFILE", "too many open files: raise the limit (LimitNOFILE= of a service, ulimit -n; "
				  "fs.file-max of the machine)"},
};

const char *
tr_err_name(int err)
{
	if (err > 0 || err <= -(int)TR_COUNT(errors))
		return "EUNKNOWN";
	return errors[-err].name;
}

const char *
tr_err_text(int err)
{
	if (err > 0 || err <= -(int)TR_COUNT(errors))
		return "unknown error";
	return errors[-err].text;
}

int
tr_err_from_errno(int errnum)
{
	switch (errnum < 0 ? -errnum : errnum) {
	case 0:
		return TR_OK;
	case EINVAL:
	case EDOM:
	case ERANGE:
	case EBADF:
	case EAFNOSUPPORT:
		return TR_EINVAL;
	case ENOMEM:
	case ENOBUFS:
		return TR_ENOMEM;
	case ENOSPC:
	case EDQUOT:
		return TR_ENOSPC;
	case ETIMEDOUT:
		return TR_ETIMEDOUT;
	case ECANCELED:
		return TR_ECANCELED;
	case ENOENT:
	case ENOTDIR:
		return TR_ENOENT;
	case EEXIST:
	case EADDRINUSE:
		return TR_EEXIST;
	case EAGAIN:
	case EINTR:
		return TR_EAGAIN;
	case EMFILE:
	case ENFILE:
		return TR_EMFILE;
	case EPIPE:
	case ECONNRESET:
	case ECONNABORTED:
	case ENOTCONN:
	case ESHUTDOWN:
		return TR_ECLOSED;
	case EPROTO:
	case EBADMSG:
	case EILSEQ:
		return TR_EPROTO;
	case ECONNREFUSED:
		return TR_EREFUSED;
	case EFBIG:
	case E2BIG:
	case EMSGSIZE:
	case ENAMETOOLONG:
		return TR_ETOOBIG;
	default:
		return TR_EIO;
	}
}

const char *
tr_errno_text(int errnum)
{
	int err = tr_err_from_errno(errnum);

	/* NOLINTNEXTLINE(concurrency-mt-unsafe): glibc's is of the thread */
	return err == TR_EMFILE ? tr_err_text(err) : strerror(errnum < 0 ? -errnum : errnum);
}
