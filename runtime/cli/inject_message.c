#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "cli/cli.h"
#include "cli/inject.h"

enum { LINE_COLUMNS = 76 };

/* Adds text with every line end made CR LF. */
static void
add_crlf(struct tr_buf *out, const char *data, size_t len)
{
	for (size_t at = 0; at < len;) {
		const char *end = memchr(data + at, '\n', len - at);
		size_t stop = end != NULL ? (size_t)(end - data) : len;
		size_t keep = stop;

		while (keep > at && data[keep - 1] == '\r')
			keep--;
		tr_buf_add(out, data + at, keep - at);
		tr_buf_addz(out, "\r\n");
		at = stop + 1;
	}
}

/* Brings a message with CR LF into the form that is sent. Takes the bytes of `text`. */
static int
finish(struct tr_inject *inject, struct tr_inject_body *body, struct tr_buf *text)
{
	body->size = (int64_t)text->len;
	if (!body->generated)
		body->header_bytes = (int64_t)inject->headers.len;
	for (size_t i = 0; i < text->len && !body->has_8bit; i++)
		body->has_8bit = (text->data[i] & 0x80) != 0;
	if (inject->http) { /* encoded with the headers, see inject_http.c */
		body->bytes = *text;
	} else {
		for (size_t at = 0; at < text->len;) {
			const char *end = memchr(text->data + at, '\n', text->len - at);
			size_t stop = (size_t)(end - text->data) + 1; /* every line has its end */

			if (text->data[at] == '.')
				tr_buf_addc(&body->bytes, '.');
			tr_buf_add(&body->bytes, text->data + at, stop - at);
			at = stop;
		}
		tr_buf_addz(&body->bytes, ".\r\n");
		tr_buf_free(text);
	}
	if (body->bytes.failed) {
		fputs("tailrace inject: out of memory\n", stderr);
		return TR_EXIT_OSERR;
	}
	return TR_ARGS_RUN;
}

static int
make_bodies(struct tr_inject *inject, size_t count)
{
	inject->bodies = calloc(count, sizeof *inject->bodies);
	if (inject->bodies == NULL) {
		fputs("tailrace inject: out of memory\n", stderr);
		return TR_EXIT_OSERR;
	}
	inject->body_count = count;
	return TR_ARGS_RUN;
}

int
tr_inject_load_files(struct tr_inject *inject, const struct tr_arg_list *files)
{
	int status = make_bodies(inject, files->count);

	for (size_t i = 0; i < files->count && status == TR_ARGS_RUN; i++) {
		char *data;
		size_t len;
		struct tr_buf text = {0};
		int rc = tr_file_slurp(files->items[i], &data, &len);

		if (rc < 0) {
			fprintf(stderr, "tailrace inject: cannot read %s: %s\n", files->items[i], strerror(-rc));
			return TR_EXIT_NOINPUT;
		}
		add_crlf(&text, data, len);
		free(data);
		status = finish(inject, &inject->bodies[i], &text);
	}
	return status;
}

int
tr_inject_generate(struct tr_inject *inject, int64_t size_bytes)
{
	static const char words[] =
		"The tailrace carries the water away from the wheel, whatever the wheel did with it. ";
	int status = make_bodies(inject, 1);
	struct tr_buf text = {0};

	if (status != TR_ARGS_RUN)
		return status;
	inject->bodies[0].generated = true;
	/* the headers are part of the size; those of all messages are about as long as these */
	tr_inject_add_headers(inject, &inject->bodies[0], 99, tr_str(inject->to), &text);
	inject->bodies[0].header_bytes = (int64_t)text.len;
	tr_buf_clear(&text);
	int64_t rest = tr_max_i64(2, size_bytes - inject->bodies[0].header_bytes);

	for (size_t line = 0; rest > 0; line++) {
		int64_t columns = tr_min_i64(LINE_COLUMNS, rest - 2);

		for (int64_t i = 0; i < columns; i++)
			tr_buf_addc(&text, words[(line * 7 + (size_t)i) % (sizeof words - 1)]);
		tr_buf_addz(&text, "\r\n");
		rest -= tr_max_i64(columns, 0) + 2;
	}
	return finish(inject, &inject->bodies[0], &text);
}

const struct tr_inject_body *
tr_inject_body_of(struct tr_inject *inject, int64_t number)
{
	return &inject->bodies[(size_t)number % inject->body_count];
}

static const struct tr_inject_domain *
choose_domain(struct tr_inject *inject)
{
	if (inject->domain_count == 1)
		return &inject->domains[0];
	uint64_t z = (inject->random += UINT64_C(0x9e3779b97f4a7c15)); /* splitmix64, as in the sink */

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	z ^= z >> 31;
	double point = (double)(z >> 11) / 9007199254740992.0 * inject->weights;

	for (size_t i = 0; i + 1 < inject->domain_count; i++) {
		if (point < inject->domains[i].weight)
			return &inject->domains[i];
		point -= inject->domains[i].weight;
	}
	return &inject->domains[inject->domain_count - 1];
}

void
tr_inject_add_rcpt(struct tr_inject *inject, struct tr_buf *out)
{
	int64_t number = ++inject->next_number;

	for (const char *at = inject->to; *at != '\0'; at++) {
		if (*at == '@' && inject->domain_count > 0)
			break;
		if (at[0] == '%' && at[1] == 'd') {
			tr_buf_add_i64(out, number);
			at++;
		} else {
			tr_buf_addc(out, *at);
		}
	}
	if (inject->domain_count > 0) {
		const struct tr_inject_domain *domain = choose_domain(inject);

		tr_buf_addc(out, '@');
		tr_buf_add(out, domain->name, domain->len);
	}
}

void
tr_inject_add_headers(struct tr_inject *inject, const struct tr_inject_body *body, int64_t number,
	struct tr_str first_rcpt, struct tr_buf *out)
{
	tr_buf_add(out, inject->headers.data, inject->headers.len);
	if (!body->generated)
		return;
	int64_t now_s = tr_wall_ns() / TR_NS_PER_S;

	if (now_s != inject->date_s) {
		inject->date_s = now_s;
		tr_rfc5322_date(now_s * TR_NS_PER_S, inject->date);
	}
	tr_buf_addz(out, "From: <");
	tr_buf_addz(out, inject->from);
	tr_buf_addz(out, ">\r\nTo: <");
	tr_buf_add_str(out, first_rcpt);
	tr_buf_addz(out, ">\r\nSubject: message ");
	tr_buf_add_i64(out, number + 1);
	tr_buf_addz(out, "\r\nDate: ");
	tr_buf_addz(out, inject->date);
	tr_buf_addz(out, "\r\nMessage-ID: <");
	tr_buf_add_i64(out, number + 1);
	tr_buf_addc(out, '.');
	tr_buf_addz(out, inject->run_id);
	tr_buf_addz(out, "@inject.tailrace.invalid>\r\nMIME-Version: 1.0\r\n\r\n");
}
