/* Where a session may connect to: the hosts of a domain's MX, or of an mx_list, as addresses in the order in which they
 * are to be tried. Source: contract smtp.md sections 3.1 and 3.2. Knows nothing of queues; one thread. */
#ifndef TR_SMTP_PLAN_H
#define TR_SMTP_PLAN_H

#include "net/mx.h"
#include "transport/smtp_client.h"

struct tr_smtp_plan_config {
	const char *domain;                /* its MX are looked up; NULL: hosts */
	const char *site;                  /* what its site is expected to be; NULL: any */
	const struct tr_smtpc_host *hosts; /* without a domain: in this order */
	size_t host_count;
	enum tr_ip_strategy strategy;
	const struct tr_cidr *prohibited, *skip;
	size_t prohibited_count, skip_count;
	int64_t timeout_ns;          /* of one look-up of addresses */
	double (*random)(void *arg); /* [0,1): hosts of one preference are tried in any order */
	void *random_arg;
};

enum tr_smtp_plan_kind {
	TR_PLAN_READY,
	TR_PLAN_MOVED,      /* the domain has another site now */
	TR_PLAN_UNKNOWN,    /* its MX cannot be looked up: a matter of this domain alone */
	TR_PLAN_NULL_MX,    /* the rest is the same for all messages of the site */
	TR_PLAN_NO_HOSTS,   /* nothing has an address */
	TR_PLAN_PROHIBITED, /* an address that mail must not go to is among them */
	TR_PLAN_SKIPPED,    /* all addresses are to be skipped */
};
struct tr_smtp_plan_result {
	enum tr_smtp_plan_kind kind;
	const char *text;                  /* of what is not READY: for the record, "KumoMTA internal: ..." */
	const struct tr_smtpc_host *hosts; /* READY: each with its address */
	size_t host_count;
};

struct tr_smtp_plan;
/* Strings and lists of the configuration are borrowed until the end. then(arg, result) from the loop, once, never
 * inside the call; the result is borrowed. NULL: no memory. */
struct tr_smtp_plan *tr_smtp_plan_start(struct tr_dns *dns, const struct tr_smtp_plan_config *config,
	void (*then)(void *arg, const struct tr_smtp_plan_result *result), void *arg);
void tr_smtp_plan_cancel(struct tr_smtp_plan *plan); /* NULL is fine */

#endif
