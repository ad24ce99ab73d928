/* The queues' question for the site of a domain, answered by the MX look-ups of the worker. */
#include <stdlib.h>

#include "base/clock.h"
#include "cli/server_internal.h"
#include "net/mx.h"

static void
found(void *arg, struct tr_mx *mx)
{
	struct tr_sched *sched = arg;
	int64_t soon_ns = tr_mono_ns() + TR_NS_PER_S;
	struct tr_queue_name name;
	struct tr_buf text = {0};
	struct tr_str domain;

	if (mx != NULL && mx->status == TR_DNS_OK) {
		tr_sched_site(sched, mx->site, tr_max_i64(mx->item.expires_ns, soon_ns), NULL);
		return;
	}
	tr_sched_parts(sched, &name);
	domain = name.has_routing ? name.routing_domain : name.domain;
	tr_buf_addf(&text, "KumoMTA internal: MX look-up of %.*s failed: %s", (int)domain.len,
		domain.data != NULL ? domain.data : "", mx != NULL ? mx->why : "out of memory");
	tr_buf_addc(&text, '\0');
	tr_sched_site(sched, NULL, mx != NULL ? tr_max_i64(mx->item.expires_ns, soon_ns) : soon_ns,
		text.failed ? "KumoMTA internal: out of memory" : text.data);
	tr_buf_free(&text);
}

void
tr_server_resolve_site(void *arg, struct tr_worker *worker, struct tr_sched *sched)
{
	struct tr_server *server = arg;
	struct tr_queue_name name;
	struct tr_str domain;
	char *text;

	tr_sched_parts(sched, &name);
	domain = name.has_routing ? name.routing_domain : name.domain;
	text = strndup(domain.data != NULL ? domain.data : "", domain.len);
	if (text == NULL ||
		tr_mx_find(server->worker[tr_worker_index(worker)].transports.dns, NULL, text, found, sched) == NULL)
		found(sched, NULL);
	free(text);
}
