/* One received message becomes one for each batch of recipients. */
#include <stdlib.h>
#include <strings.h>

#include "ingress/smtp_internal.h"

static int
by_domain(const void *a, const void *b)
{
	struct tr_str x = tr_addr_domain(*(const struct tr_addr *const *)a);
	struct tr_str y = tr_addr_domain(*(const struct tr_addr *const *)b);
	int order = strncasecmp(x.data, y.data, x.len < y.len ? x.len : y.len);

	return order != 0 ? order : (x.len > y.len) - (x.len < y.len);
}

/* A message of its own for some recipients: `rcpts` as texts. */
static int
add_message(struct tr_smtp_text *text, struct tr_message *base, const struct tr_str *rcpts, uint32_t count)
{
	struct tr_message *message = tr_message_split(base); /* base has no recipients now */
	int err = message != NULL ? TR_OK : TR_ENOMEM;

	for (uint32_t i = 0; i < count && err == TR_OK; i++)
		err = tr_message_add_rcpt(message, rcpts[i]);
	if (err != TR_OK) {
		tr_message_free(message);
		return err;
	}
	message->due_ms = 0; /* contract/smtp.md 1.6 step 2 */
	free(message->schedule);
	message->schedule = NULL;
	text->messages[text->count++] = message;
	return TR_OK;
}

/* The lists that policy gave. */
int
tr_smtp_split_as_told(struct tr_smtp_text *text, struct tr_message *base, const struct tr_smtp_answer *answer)
{
	struct tr_str *rcpts = calloc(answer->split_count > 0 ? answer->split_count : 1, sizeof *rcpts);
	int err = rcpts != NULL ? TR_OK : TR_ENOMEM;

	for (uint32_t i = 0; i < answer->split_count && rcpts != NULL; i++)
		rcpts[i] = answer->split[i].rcpt;
	for (uint32_t from = 0, to; from < answer->split_count && err == TR_OK; from = to) {
		for (to = from + 1; to < answer->split_count && answer->split[to].batch == answer->split[from].batch;)
			to++;
		err = add_message(text, base, rcpts + from, to - from);
	}
	free(rcpts);
	return err;
}

int
tr_smtp_split_by_default(
	struct tr_smtp_text *text, struct tr_message *base, bool domains, const struct tr_addr *from, uint32_t count)
{
	const struct tr_addr **order = calloc(count, sizeof *order);
	struct tr_str *rcpts = calloc(count, sizeof *rcpts);
	int err = order != NULL && rcpts != NULL ? TR_OK : TR_ENOMEM;

	for (uint32_t i = 0; i < count && err == TR_OK; i++)
		order[i] = &from[i];
	if (domains && err == TR_OK)
		qsort(order, count, sizeof *order, by_domain);
	for (uint32_t i = 0; i < count && err == TR_OK; i++)
		rcpts[i] = tr_addr_str(order[i]);
	for (uint32_t at = 0, to; at < count && err == TR_OK; at = to) {
		for (to = at + 1; domains && to < count && by_domain(&order[at], &order[to]) == 0;)
			to++;
		err = add_message(text, base, rcpts + at, to - at);
	}
	free(order);
	free(rcpts);
	return err;
}
