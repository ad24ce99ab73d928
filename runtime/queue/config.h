/* What policy says about a queue and a path, as numbers. Shared and immutable; made by queue_lua.c from the
 * objects of kumo.make_queue_config and kumo.make_egress_path. Defaults: contract/queues.md section 2 and
 * contract/egress-path.md section 3; for hooks DESIGN's log_hook class. */
#ifndef TR_QUEUE_CONFIG_H
#define TR_QUEUE_CONFIG_H

#include <stdatomic.h>

#include "base/cidr.h"
#include "shaping/gate.h"
#include "shaping/spec.h"

enum tr_protocol { TR_PROTO_SMTP, TR_PROTO_LUA, TR_PROTO_NULL };

struct tr_mx_entry {   /* of an mx_list */
	char *label;   /* as written: part of the site name */
	char *host;    /* name or literal address, without port and brackets */
	uint16_t port; /* 0: the path's smtp_port */
	bool literal;
};

struct tr_queue_config {
	_Atomic uint32_t refs;
	int64_t retry_interval_ns, max_retry_interval_ns; /* 0: no cap */
	int64_t max_age_ns, reap_interval_ns, refresh_interval_ns;
	bool refresh_on_epoch;
	char *egress_pool;                /* NULL: "unspecified" */
	char *provider;                   /* NULL: none */
	struct tr_rate_spec message_rate; /* of the queue; quantity 0: none */
	enum tr_protocol protocol;
	char *constructor;                       /* TR_PROTO_LUA */
	uint64_t max_waiting, max_waiting_bytes; /* of log records; 0: no bound */
	bool shed_oldest;                        /* what is too much is dropped; else it is told */
	uint32_t batch_size, min_batch_size;
	int64_t max_batch_latency_ns;
	uint64_t max_batch_bytes;    /* 0: no bound */
	struct tr_mx_entry *mx_list; /* TR_PROTO_SMTP */
	uint32_t mx_count;
};
struct tr_queue_config *tr_queue_config_new(void); /* with the contract's defaults */
struct tr_queue_config *tr_queue_config_ref(struct tr_queue_config *config);
void tr_queue_config_unref(struct tr_queue_config *config);
/* True if a ready queue made for `a` cannot serve `b` (anything inside protocol differs). */
bool tr_queue_config_protocol_differs(const struct tr_queue_config *a, const struct tr_queue_config *b);

struct tr_named_limit {
	char *name;
	struct tr_limit_spec spec;
};
struct tr_named_rate {
	char *name;
	struct tr_rate_spec spec;
};

struct tr_path_config {
	_Atomic uint32_t refs;
	bool connection_limit_local;                                       /* "local:" */
	struct tr_rate_spec connection_rate, message_rate, selection_rate; /* quantity 0: none */
	struct tr_named_limit *limits;                         /* additional_connection_limits, lowest first */
	struct tr_named_rate *message_rates, *selection_rates; /* additional ones, slowest first */
	uint32_t limit_count, message_rate_count, selection_rate_count;
	uint32_t connection_limit, max_ready, max_deliveries_per_connection, max_recipients_per_batch;
	uint32_t consecutive_failures_before_delay;
	int64_t idle_timeout_ns, connect_timeout_ns, banner_timeout_ns, ehlo_timeout_ns, mail_from_timeout_ns,
		rcpt_to_timeout_ns, data_timeout_ns, data_dot_timeout_ns, rset_timeout_ns, starttls_timeout_ns,
		auth_timeout_ns;
	int64_t system_shutdown_timeout_ns; /* 0: sum of mail, rcpt, data, dot */
	int64_t watchdog_timeout_ns;        /* 0: by protocol */
	int64_t refresh_interval_ns;
	bool refresh_on_epoch;
	char *provider, *ehlo_domain;
	uint16_t smtp_port;
	bool enable_pipelining, enable_rset, use_lmtp, ignore_8bit_checks;
	bool try_next_host;    /* try_next_host_on_transport_error */
	uint8_t reconnect;     /* 0 ConnectNextHost, 1 ReconnectSameHost, 2 TerminateSession */
	bool prohibited_given; /* by the policy: then they hold for an mx_list, too */
	uint8_t ip_strategy;   /* of ip_lookup_strategy: enum tr_ip_strategy of runtime/net, the same order */
	struct tr_cidr *prohibited_hosts, *skip_hosts;
	uint32_t prohibited_count, skip_count;
	struct tr_gate_rules gate;
};
extern const char *const tr_path_prohibited[];        /* default of prohibited_hosts; ends with NULL */
struct tr_path_config *tr_path_config_new(bool hook); /* mail defaults, or the log_hook class */
struct tr_path_config *tr_path_config_ref(struct tr_path_config *config);
void tr_path_config_unref(struct tr_path_config *config);

/* Backoff of contract/queues.md section 6 with millisecond precision. attempt: before the increment. random in
 * [0,1). */
int64_t tr_retry_delay_ns(const struct tr_queue_config *config, uint32_t attempt, double random);

#endif
