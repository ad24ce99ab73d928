/* Log hooks whose records could only be parked are refused before anything is started. */
#ifndef TR_HOOK_CHECK_H
#define TR_HOOK_CHECK_H

#include "policy/policy.h"

/* After `init`, on the host that ran it. TR_OK; TR_EINVAL: *error (malloc'ed) names the hook and the remedy; TR_ENOMEM.
 * A policy that cannot be asked now is no fault: it is logged. Runs the host's loop. */
int tr_check_hooks(struct tr_host *host, char **error);

#endif
