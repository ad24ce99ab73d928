#include "net/dns_answer.h"

#include <stdlib.h>

void *
tr_dns_item_ref(struct tr_dns_item *item)
{
	if (item != NULL)
		atomic_fetch_add_explicit(&item->refs, 1, memory_order_relaxed);
	return item;
}

void
tr_dns_item_unref(struct tr_dns_item *item)
{
	if (item != NULL && atomic_fetch_sub_explicit(&item->refs, 1, memory_order_acq_rel) == 1)
		item->destroy(item);
}

static void
destroy(struct tr_dns_item *item)
{
	struct tr_dns_answer *answer = (struct tr_dns_answer *)item;

	free(answer->records);
	free(answer->bytes);
	free(answer->alias);
	free(answer);
}

struct tr_dns_answer *
tr_dns_answer_new(enum tr_dns_status status, int err, const char *why)
{
	struct tr_dns_answer *answer = calloc(1, sizeof *answer);

	if (answer == NULL)
		return NULL;
	atomic_init(&answer->item.refs, 1);
	answer->item.destroy = destroy;
	answer->status = status;
	answer->err = err;
	answer->why = why;
	return answer;
}

void
tr_dns_builder_add(struct tr_dns_builder *builder, uint16_t preference, struct tr_str text)
{
	struct tr_dns_record *record;

	if (builder->count == TR_DNS_RECORDS_MAX)
		return;
	record = &builder->records[builder->count++];
	*record = (struct tr_dns_record){.preference = preference};
	record->text.data = NULL; /* known at the end: the bytes move while they grow */
	record->text.len = text.len;
	tr_buf_add_str(&builder->bytes, text);
	tr_buf_addc(&builder->bytes, '\0');
}

void
tr_dns_builder_add_addr(struct tr_dns_builder *builder, const void *addr, size_t len)
{
	if (builder->count == TR_DNS_RECORDS_MAX)
		return;
	builder->records[builder->count] = (struct tr_dns_record){0};
	memcpy(&builder->records[builder->count++].v6, addr, len);
}

struct tr_dns_answer *
tr_dns_builder_end(struct tr_dns_builder *builder, enum tr_dns_type type)
{
	struct tr_dns_answer *answer = builder->count > 0
					       ? tr_dns_answer_new(TR_DNS_OK, TR_OK, NULL)
					       : tr_dns_answer_new(TR_DNS_NODATA, TR_ENOENT, "no such record");
	size_t at = 0;

	if (answer == NULL || builder->bytes.failed)
		goto fail;
	if (builder->count > 0) {
		answer->records = malloc(builder->count * sizeof *answer->records);
		if (answer->records == NULL)
			goto fail;
		memcpy(answer->records, builder->records, builder->count * sizeof *answer->records);
		answer->count = builder->count;
	}
	answer->bytes = builder->bytes.data;
	for (uint32_t i = 0; i < answer->count && type != TR_DNS_A && type != TR_DNS_AAAA; i++) {
		answer->records[i].text.data = answer->bytes + at;
		at += answer->records[i].text.len + 1;
	}
	builder->bytes = (struct tr_buf){0};
	builder->count = 0;
	return answer;
fail:
	tr_dns_answer_unref(answer);
	tr_buf_free(&builder->bytes);
	builder->count = 0;
	return NULL;
}
