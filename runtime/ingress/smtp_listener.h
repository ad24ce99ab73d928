/* An ESMTP listener: accepts on worker 0 and deals the connections out to all workers in turn. A part of what the
 * process runs: tr_run_add(). No Lua. */
#ifndef TR_SMTP_LISTENER_H
#define TR_SMTP_LISTENER_H

#include "ingress/run.h"
#include "ingress/smtp_session.h"

struct tr_smtp_listener_config {
	struct tr_loop *loop; /* worker 0's */
	struct tr_sockaddr listen;
	uint32_t max_connections;
	struct tr_smtp_params *params; /* taken, also on failure */
	const struct tr_smtp_ops *ops; /* static */
	void *ops_arg;
};
/* Binds. *out is given to tr_run_add() and freed by its `free`. TR_OK; TR_ENOMEM; otherwise bind failed with *errnum.
 */
int tr_smtp_listener_new(const struct tr_smtp_listener_config *config, struct tr_run_part **out, int *errnum);

#endif
