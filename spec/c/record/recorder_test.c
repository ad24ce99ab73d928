/* The way of records through hooks that are answered for at once, and to the other loggers; with a real spool. The
 * queues are a double. */
#include "recorder_bed.h"

static void
a_record_is_a_message(void **state)
{
	struct bed bed;
	struct cause cause;
	struct tr_logger_config config = config_of(TR_LOGGER_HOOK, "h");
	const char *const meta[] = {"*", NULL}, *const headers[] = {"Subject", NULL};
	const struct tr_message *record;
	struct tr_str json;

	bed_init(&bed);
	config.meta = meta;
	config.headers = headers;
	add(&bed, &config);
	emit(&bed, &cause, TR_EV_RECEPTION, 0);
	assert_int_equal(bed.worker.inserted_count, 0); /* not before the commit */
	settle(&bed);
	assert_int_equal(cause.status, TR_OK);
	assert_int_equal(bed.worker.inserted_count, 1);
	record = bed.worker.inserted;
	assert_string_equal(record->queue, "h.log_hook");
	assert_true(record->flags & TR_MSG_LOG_RECORD);
	assert_false(record->flags & (TR_MSG_UNDECIDED | TR_MSG_POLICY_ERROR | TR_MSG_TEMPLATE));
	assert_int_not_equal(record->slot, TR_NO_SLOT);
	assert_string_equal(record->sender.email, "news@shop.test");
	assert_int_equal(record->rcpt_count, 2);
	assert_string_equal(record->rcpts[1].email, "bob@dest.test");
	assert_true(tr_str_eq(tr_meta_get(&record->meta, TR_STR("tenant")), TR_STR("\"shop\"")));
	assert_true(tr_str_eq(tr_meta_get(&record->meta, TR_STR("reception_protocol")), TR_STR("\"LogRecord\"")));
	assert_null(tr_meta_get(&record->meta, TR_STR("log_record")).data); /* it is the body */
	assert_int_equal(record->body.data[record->body.len - 1], '\n');
	json = (struct tr_str){record->body.data, record->body.len - 1};
	assert_true(tr_str_eq(tr_json_get(json, "type"), TR_STR("\"Reception\"")));
	assert_true(tr_str_eq(tr_json_get(json, "reception_protocol"), TR_STR("\"ESMTP\"")));
	assert_true(tr_str_eq(tr_json_get(json, "headers"), TR_STR("{\"Subject\":\"hello\"}")));
	assert_int_equal(tr_json_get(json, "event_id").len, 34);
	check_account(&bed, "h", 1, 1, 0, 0, 1);
	bed_fini(&bed);
}

static void
a_declared_hook_is_not_asked(void **state)
{
	struct bed bed;
	struct cause causes[2];
	const struct tr_message *record;

	bed_init(&bed);
	bed.mode = DROP;
	bed.declared = "h";
	add_hook(&bed, "h");
	add_hook(&bed, "other");
	emit(&bed, &causes[0], TR_EV_RECEPTION, 0);
	settle(&bed);
	assert_string_equal(bed.hooks, "other ");
	assert_int_equal(bed.worker.inserted_count, 1);
	record = bed.worker.inserted;
	assert_string_equal(record->queue, "known.log_hook");
	assert_true(tr_str_eq(tr_meta_get(&record->meta, TR_STR("queue")), TR_STR("\"known.log_hook\"")));
	assert_false(record->flags & (TR_MSG_UNDECIDED | TR_MSG_POLICY_ERROR | TR_MSG_DIRTY));
	check_account(&bed, "h", 1, 1, 0, 0, 1);
	check_account(&bed, "other", 1, 0, 1, 0, 0);
	bed.refuse = true; /* it goes with its cause */
	emit(&bed, &causes[1], TR_EV_RECEPTION, 0);
	settle(&bed);
	assert_int_not_equal(causes[1].status, TR_OK);
	assert_int_equal(bed.worker.inserted_count, 1);
	check_account(&bed, "h", 1, 1, 0, 0, 1);
	bed_fini(&bed);
}

/* Records that wait for their turn keep their place before those that need no answer. */
static void
a_declared_hook_waits_behind_others(void **state)
{
	struct bed bed;
	struct cause causes[3];
	struct tr_logger_config config = config_of(TR_LOGGER_HOOK, "h");

	bed_init(&bed);
	bed.mode = WAIT;
	config.back_pressure = 1;
	add(&bed, &config);
	emit(&bed, &causes[0], TR_EV_RECEPTION, 0);
	emit(&bed, &causes[1], TR_EV_RECEPTION, 0);
	bed.declared = "h"; /* as after a reload */
	emit(&bed, &causes[2], TR_EV_RECEPTION, 0);
	settle(&bed);
	assert_int_equal(bed.asked, 1);
	assert_int_equal(bed.worker.inserted_count, 0);
	bed.mode = KEEP;
	answer(&bed, 0, true, NULL);
	settle(&bed);
	assert_int_equal(bed.worker.inserted_count, 3);
	check_account(&bed, "h", 3, 3, 0, 0, 3);
	bed_fini(&bed);
}

static void
a_filtered_record_is_never_written(void **state)
{
	struct bed bed;
	struct cause cause;
	struct tr_spool_figures figures;

	bed_init(&bed);
	bed.mode = DROP;
	add_hook(&bed, "h");
	emit(&bed, &cause, TR_EV_RECEPTION, 0);
	settle(&bed);
	assert_int_equal(bed.worker.inserted_count, 0);
	tr_spool_figures(bed.spool, &figures);
	assert_int_equal(figures.live_messages, 0);
	check_account(&bed, "h", 1, 0, 1, 0, 0);
	bed_fini(&bed);
}

static void
raised_and_unnamed_records_are_parked(void **state)
{
	const enum mode modes[] = {RAISE, NO_QUEUE, BAD_QUEUE};
	struct bed bed;
	struct cause cause;
	int64_t before = tr_metric_read("tailrace_policy_errors_total", "hook", "h", NULL);

	bed_init(&bed);
	add_hook(&bed, "h");
	for (size_t i = 0; i < TR_COUNT(modes); i++) {
		bed.mode = modes[i];
		/* Without `queue` the name comes from the first recipient, and a Rejection has none. */
		emit(&bed, &cause, modes[i] == NO_QUEUE ? TR_EV_REJECTION : TR_EV_RECEPTION, 0);
		assert_int_equal(bed.worker.parked_count, i); /* not before the commit */
		settle(&bed);
		assert_int_equal(cause.status, TR_OK);
		assert_int_equal(bed.worker.parked_count, i + 1);
	}
	assert_int_equal(bed.worker.inserted_count, 0);
	assert_int_equal(tr_metric_read("tailrace_policy_errors_total", "hook", "h", NULL) - before, 3);
	check_account(&bed, "h", 3, 3, 0, 0, 3);
	for (struct tr_message *m = bed.worker.parked; m != NULL; m = m->next)
		assert_non_null(tr_meta_get(&m->meta, TR_STR("policy_error")).data);
	bed_fini(&bed);
}

static void
no_records_about_records(void **state)
{
	struct bed bed;
	struct cause cause;

	bed_init(&bed);
	add_hook(&bed, "h");
	emit(&bed, &cause, TR_EV_DELIVERY, TR_MSG_LOG_RECORD);
	settle(&bed);
	assert_int_equal(bed.asked, 0);
	assert_int_equal(bed.worker.inserted_count, 0);
	check_account(&bed, "h", 0, 0, 0, 0, 0);
	bed_fini(&bed);
}

static void
hooks_share_one_body(void **state)
{
	struct bed bed;
	struct cause cause;
	struct tr_logger_config other = config_of(TR_LOGGER_HOOK, "other"), text = config_of(TR_LOGGER_HOOK, "text");
	const char *const meta[] = {"tenant", NULL};
	struct tr_message *first, *second, *third, *fourth;

	bed_init(&bed);
	other.meta = meta;
	text.per_record[TR_EV_RECEPTION].template_text = (char *)"T";
	add_hook(&bed, "a");
	add_hook(&bed, "b");
	add(&bed, &other);
	add(&bed, &text);
	emit(&bed, &cause, TR_EV_RECEPTION, 0);
	settle(&bed);
	assert_string_equal(bed.hooks, "a b other text "); /* in the order of configuration */
	assert_int_equal(bed.worker.inserted_count, 4);
	fourth = bed.worker.inserted;
	third = fourth->next;
	second = third->next;
	first = second->next;
	assert_ptr_equal(first->body.blob, second->body.blob);
	assert_ptr_not_equal(first->body.blob, third->body.blob);
	assert_true(fourth->flags & TR_MSG_TEMPLATE);
	assert_memory_equal(fourth->body.data, "T:", 2);
	assert_int_equal(fourth->body.data[fourth->body.len - 1], '\n');
	/* the record itself, without line end, for msg:get_meta 'log_record' */
	assert_true(tr_str_eq(tr_meta_get(&fourth->meta, TR_STR("log_record")),
		(struct tr_str){first->body.data, first->body.len - 1}));
	bed_fini(&bed);
}

static void
a_template_that_fails_parks_the_record(void **state)
{
	struct bed bed;
	struct cause cause;
	struct tr_logger_config text = config_of(TR_LOGGER_HOOK, "text");

	bed_init(&bed);
	text.per_record[TR_EV_RECEPTION].template_text = (char *)"T";
	bed.render_fails = true;
	add(&bed, &text);
	emit(&bed, &cause, TR_EV_RECEPTION, 0);
	settle(&bed);
	assert_int_equal(bed.asked, 0);
	assert_int_equal(bed.worker.parked_count, 1);
	assert_int_equal(bed.worker.parked->body.data[0], '{');
	check_account(&bed, "text", 1, 1, 0, 0, 1);
	bed_fini(&bed);
}

static void
rejections_have_an_empty_recipient(void **state)
{
	struct bed bed;
	struct cause cause;

	bed_init(&bed);
	add_hook(&bed, "h");
	emit(&bed, &cause, TR_EV_REJECTION, 0);
	settle(&bed);
	assert_int_equal(bed.worker.inserted_count, 1);
	assert_string_equal(bed.worker.inserted->sender.email, "");
	assert_int_equal(bed.worker.inserted->rcpt_count, 1);
	assert_string_equal(bed.worker.inserted->rcpts[0].email, "");
	bed_fini(&bed);
}

/* --- the other loggers ---------------------------------------------------------------------------------------- */

static void
dispositions_hold_the_change(void **state)
{
	struct bed bed;
	struct cause cause;
	struct tr_logger_config config = config_of(TR_LOGGER_DISPOSITION, "d");
	const char *const meta[] = {"*", NULL};

	bed_init(&bed);
	config.meta = meta; /* not used: handlers read the message */
	add(&bed, &config);
	bed.dispose_waits = true;
	emit(&bed, &cause, TR_EV_DELIVERY, 0);
	settle(&bed);
	assert_int_equal(cause.status, 1);
	assert_int_equal(bed.disposed[strlen(bed.disposed) - 1], '}');
	assert_true(tr_str_eq(tr_json_get(tr_str(bed.disposed), "meta"), TR_STR("{}")));
	bed.dispose_then(bed.dispose_arg);
	settle(&bed);
	assert_int_equal(cause.status, TR_OK);
	bed.disposed[0] = '\0';
	emit(&bed, &cause, TR_EV_REJECTION, 0); /* has no message */
	settle(&bed);
	emit(&bed, &cause, TR_EV_DELIVERY, TR_MSG_LOG_RECORD);
	settle(&bed);
	assert_string_equal(bed.disposed, "");
	bed_fini(&bed);
}

static int64_t
log_bytes(const char *dir)
{
	char command[160];
	long long bytes = 0;
	FILE *pipe;

	snprintf(command, sizeof command, "cat '%s'/2* 2>/dev/null | zstd -dc 2>/dev/null | wc -l", dir);
	pipe = popen(command, "r");
	assert_non_null(pipe);
	assert_int_equal(fscanf(pipe, "%lld", &bytes), 1);
	pclose(pipe);
	return bytes;
}

static void
local_logs_and_their_filter(void **state)
{
	struct bed bed;
	struct cause cause;
	struct tr_logger_config config = config_of(TR_LOGGER_FILE, NULL);
	char dir[96];

	bed_init(&bed);
	snprintf(dir, sizeof dir, "%s/logs", bed.dir);
	config.log_dir = dir;
	config.filter_event = "my_filter";
	config.per_record[TR_EV_BOUNCE].enable = false;
	config.per_record[TR_EV_OOB].enable = false; /* goes with Reception all the same */
	add(&bed, &config);
	assert_false(tr_recorder_wants(bed.recorder, TR_EV_BOUNCE));
	assert_true(tr_recorder_wants(bed.recorder, TR_EV_OOB));
	emit(&bed, &cause, TR_EV_RECEPTION, 0); /* filter says no */
	emit(&bed, &cause, TR_EV_BOUNCE, 0);
	settle(&bed);
	bed.filter = 1;
	emit(&bed, &cause, TR_EV_RECEPTION, 0);
	settle(&bed);
	emit(&bed, &cause, TR_EV_OOB, 0);
	settle(&bed);
	emit(&bed, &cause, TR_EV_DELIVERY, TR_MSG_LOG_RECORD); /* local logs do tell about records */
	settle(&bed);
	bed.filter = 0;
	emit(&bed, &cause, TR_EV_REJECTION, 0); /* not asked */
	settle(&bed);
	bed.filter = -1;
	emit(&bed, &cause, TR_EV_RECEPTION, 0);
	settle(&bed);
	assert_int_equal(cause.status, 1); /* waits for the filter */
	bed.filter_then(bed.filter_arg, true);
	settle(&bed);
	assert_int_equal(cause.status, TR_OK);
	bed_stop(&bed);
	assert_int_equal(log_bytes(dir), 5);
	bed_start(&bed);
	bed_fini(&bed);
}

static void
names_of_hooks_are_unique(void **state)
{
	struct bed bed;
	struct tr_logger_config hook = config_of(TR_LOGGER_HOOK, "h"),
				disposition = config_of(TR_LOGGER_DISPOSITION, "h");
	char *error = NULL;

	bed_init(&bed);
	add(&bed, &hook);
	assert_int_equal(tr_recorder_add(bed.recorder, &disposition, &error), TR_EEXIST);
	assert_non_null(strstr(error, "'h'"));
	free(error);
	assert_int_equal(tr_recorder_find(bed.recorder, &hook, 0), 0);
	assert_int_equal(tr_recorder_find(bed.recorder, &hook, 1), -1);
	hook.per_record[TR_EV_DELAYED].enable = false;
	assert_int_equal(tr_recorder_find(bed.recorder, &hook, 0), -1);
	assert_true(tr_recorder_has_hook(bed.recorder, TR_STR("h")));
	assert_false(tr_recorder_has_hook(bed.recorder, TR_STR("hh")));
	assert_int_equal(tr_recorder_attach(bed.recorder, bed.spool), TR_OK);
	hook.name = "late"; /* other workers read the list by now */
	assert_int_equal(tr_recorder_add(bed.recorder, &hook, &error), TR_EINVAL);
	assert_non_null(strstr(error, "pre_init"));
	free(error);
	bed_fini(&bed);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_record_is_a_message),
		cmocka_unit_test(a_declared_hook_is_not_asked),
		cmocka_unit_test(a_declared_hook_waits_behind_others),
		cmocka_unit_test(a_filtered_record_is_never_written),
		cmocka_unit_test(raised_and_unnamed_records_are_parked),
		cmocka_unit_test(no_records_about_records),
		cmocka_unit_test(hooks_share_one_body),
		cmocka_unit_test(a_template_that_fails_parks_the_record),
		cmocka_unit_test(rejections_have_an_empty_recipient),
		cmocka_unit_test(dispositions_hold_the_change),
		cmocka_unit_test(local_logs_and_their_filter),
		cmocka_unit_test(names_of_hooks_are_unique),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
