/* The ledger: what came, what became of it, and what waits. Mail is counted in recipients, hooks in
 * records. Counts are part of the committed groups, so they can be compared with what the log holds:
 *   accepted + moved_in = delivered + bounced + dead + dropped + expired + moved_out + waiting
 *   offered = accepted + filtered            (hooks only) */
#ifndef TR_LEDGER_H
#define TR_LEDGER_H

#include "base/buf.h"

enum tr_column {
	TR_COL_NONE, /* a message that is replaced or moved within its account */
	TR_COL_OFFERED,
	TR_COL_FILTERED,
	TR_COL_ACCEPTED,
	TR_COL_MOVED_IN,
	TR_COL_DELIVERED,
	TR_COL_BOUNCED,
	TR_COL_DEAD,
	TR_COL_DROPPED,
	TR_COL_EXPIRED,
	TR_COL_MOVED_OUT,
	TR_COLUMNS,
};

enum tr_reason { /* of dropped and filtered */
	TR_REASON_NONE,
	TR_REASON_POLICY, /* should_enqueue_log_record said false, or nobody answered */
	TR_REASON_ADMIN_BOUNCE,
	TR_REASON_NULL_QUEUE,
	TR_REASON_REMOVED,    /* an operator's repair or purge */
	TR_REASON_DAMAGED,    /* the log's bytes were lost */
	TR_REASON_UNWOUND,    /* nothing is counted so: it keeps the places of the others in stored ledgers */
	TR_REASON_DEAD_BOUND, /* the oldest of too many dead letters */
	TR_REASON_SHED,       /* the oldest of more records than the queue's budget */
	TR_REASONS,
};

#define TR_ACCOUNT_MAIL 0 /* account 0 is always "mail"; a hook's account has the hook's name */
#define TR_ACCOUNTS_MAX 1024

struct tr_account {
	char name[64];
	int64_t columns[TR_COLUMNS];
	int64_t dropped[TR_REASONS], filtered[TR_REASONS];
	int64_t waiting; /* units of live messages, kept by the spool as it commits */
	int64_t settled; /* what the last start found missing (or, negative, too many); in dropped{damaged} */
};

struct tr_ledger {
	uint32_t count;
	struct tr_account *accounts;
};
/* accepted + moved_in - everything that ended: what should be waiting. */
int64_t tr_account_expected(const struct tr_account *account);
/* True if every account balances; else a line per difference is added to `out`. */
bool tr_ledger_balances(const struct tr_ledger *ledger, struct tr_buf *out);
/* A table for people. */
void tr_ledger_print(const struct tr_ledger *ledger, struct tr_buf *out);
void tr_ledger_json(const struct tr_ledger *ledger, struct tr_buf *out);
void tr_ledger_fini(struct tr_ledger *ledger);

#endif
