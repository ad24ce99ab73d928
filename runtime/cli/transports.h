/* What moves bytes for one worker's Lua state: HTTP, names, AMQP, Kafka, NATS. One list for `tailrace run`, `lua` and
 * specs.
 */
#ifndef TR_TRANSPORTS_H
#define TR_TRANSPORTS_H

#include "policy/policy.h"

struct tr_http;
struct tr_dns;
struct tr_resolvers;
struct tr_amqp;
struct tr_kafka;
struct tr_nats;

struct tr_transports {
	struct tr_http *http;
	struct tr_dns *dns;
	struct tr_amqp *amqp;
	struct tr_kafka *kafka;
	struct tr_nats *nats;
};

/* Makes them and gives them to the host. resolvers: those of all workers; NULL: of its own. TR_OK or TR_ENOMEM; then
 * fini is due all the same. */
int tr_transports_init(
	struct tr_transports *transports, struct tr_loop *loop, struct tr_host *host, struct tr_resolvers *resolvers);
/* After the host is freed, before the loop is. Zeroed is fine. */
void tr_transports_fini(struct tr_transports *transports);

#endif
