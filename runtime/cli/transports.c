#include "cli/transports.h"

#include "net/dns.h"
#include "transport/amqp.h"
#include "transport/http.h"
#include "transport/kafka.h"
#include "transport/nats.h"

int
tr_transports_init(
	struct tr_transports *transports, struct tr_loop *loop, struct tr_host *host, struct tr_resolvers *resolvers)
{
	int err = tr_http_new(loop, &transports->http);

	if (err == TR_OK)
		err = resolvers != NULL ? tr_dns_new_shared(loop, resolvers, &transports->dns)
					: tr_dns_new(loop, &transports->dns);
	if (err == TR_OK)
		err = tr_amqp_new(loop, &transports->amqp);
	if (err == TR_OK)
		err = tr_kafka_new(loop, &transports->kafka);
	if (err == TR_OK)
		err = tr_nats_new(loop, transports->dns, &transports->nats);
	if (err != TR_OK)
		return err;
	tr_host_set_service(host, TR_SERVICE_HTTP, transports->http);
	tr_host_set_service(host, TR_SERVICE_DNS, transports->dns);
	tr_host_set_service(host, TR_SERVICE_AMQP, transports->amqp);
	tr_host_set_service(host, TR_SERVICE_KAFKA, transports->kafka);
	tr_host_set_service(host, TR_SERVICE_NATS, transports->nats);
	return TR_OK;
}

void
tr_transports_fini(struct tr_transports *transports)
{
	tr_http_free(transports->http);
	tr_nats_free(transports->nats); /* before the resolver that it asks */
	tr_dns_free(transports->dns);
	tr_amqp_free(transports->amqp);
	tr_kafka_free(transports->kafka);
	*transports = (struct tr_transports){0};
}
