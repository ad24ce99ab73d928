/* Undecided records that nobody can be asked about: now, or ever. */
#include <stdlib.h>

#include "base/diag.h"
#include "record/internal.h"

void
tr_record_ask_later(struct tr_worker *worker, struct tr_message *record)
{
	tr_log(TR_LEVEL_ERROR, "record", "out of memory: an undecided record has to wait");
	tr_queue_ask_again(worker, record->slot);
	tr_message_free(record);
}

/* One whose hook is not configured any more: it gets its mark and its text, then it is parked. */
struct orphan {
	struct tr_outbox outbox;
	struct tr_message *record;
};

static void
orphan_done(struct tr_outbox *outbox, int status)
{
	struct orphan *orphan = tr_container_of(outbox, struct orphan, outbox);

	if (status == TR_OK)
		tr_queue_park(outbox->worker, orphan->record);
	else
		tr_record_ask_later(outbox->worker, orphan->record);
	free(orphan);
}

void
tr_record_park_orphan(struct tr_worker *worker, struct tr_message *record)
{
	struct orphan *orphan;

	if (record->flags & TR_MSG_POLICY_ERROR) {
		tr_queue_park(worker, record);
		return;
	}
	orphan = calloc(1, sizeof *orphan);
	if (orphan == NULL) {
		tr_record_ask_later(worker, record);
		return;
	}
	tr_log(TR_LEVEL_WARN, "record", "an undecided record is parked: its hook is not configured any more");
	orphan->record = record;
	record->flags = (uint16_t)((record->flags & ~TR_MSG_UNDECIDED) | TR_MSG_POLICY_ERROR);
	(void)tr_meta_set_string(
		&record->meta, TR_STR("policy_error"), TR_STR("the hook of this record is not configured any more"));
	tr_outbox_init(&orphan->outbox, worker, orphan_done, orphan);
	if (tr_change_put(&orphan->outbox.change, record, TR_STR(""), TR_COL_NONE, 1) != TR_OK) {
		tr_outbox_abandon(&orphan->outbox);
		orphan_done(&orphan->outbox, TR_ENOMEM);
		return;
	}
	tr_outbox_submit(&orphan->outbox);
}
