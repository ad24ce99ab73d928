/* The trace header fields that a received message gets (contract/smtp.md 1.6). */
#include "base/json.h"
#include "ingress/smtp_internal.h"

#define FOLD 75 /* columns */

void
tr_smtp_received_header(struct tr_smtp_session *session, const struct tr_message *message, struct tr_buf *out)
{
	char peer[64], local[64], date[40], id[33];

	tr_sockaddr_text(tr_stream_peer(session->stream), false, peer);
	tr_sockaddr_text(tr_stream_local(session->stream), false, local);
	tr_rfc5322_date(tr_wall_ns(), date);
	tr_uuid_hex(message->id, id);
	const char *const parts[] = {"Received: from ", session->ehlo != NULL ? session->ehlo : "unspecified", " (",
		peer, ")\r\n  by ", session->params->hostname, " (KumoMTA ", local, ")\r\n  with ESMTP id ", id,
		" for <", message->rcpt_count > 0 ? message->rcpts[0].email : "", ">;\r\n  ", date, "\r\n"};

	(void)tr_buf_reserve(out, 512);              /* it tells when it has failed */
	for (size_t i = 0; i < TR_COUNT(parts); i++) /* by printf() it takes 9,600 instructions */
		tr_buf_addz(out, parts[i]);
}

static void
add_base64_folded(struct tr_buf *out, const char *data, size_t len, size_t column)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (size_t i = 0; i < len; i += 3) {
		uint32_t bits = (uint32_t)(unsigned char)data[i] << 16;
		char four[4];

		if (i + 1 < len)
			bits |= (uint32_t)(unsigned char)data[i + 1] << 8;
		if (i + 2 < len)
			bits |= (unsigned char)data[i + 2];
		for (int j = 0; j < 4; j++)
			four[j] = digits[bits >> (18 - 6 * j) & 63];
		if (i + 1 >= len)
			four[2] = '=';
		if (i + 2 >= len)
			four[3] = '=';
		if (column + 4 > FOLD) {
			tr_buf_add(out, "\r\n\t", 3);
			column = 1;
		}
		tr_buf_add(out, four, 4);
		column += 4;
	}
}

void
tr_smtp_supplemental_header(struct tr_smtp_session *session, const struct tr_message *message, struct tr_buf *out)
{
	const struct tr_smtp_params *params = session->params;
	struct tr_buf json = {0};

	tr_buf_addz(&json, "{\"_@_\":\"\\\\_/\",\"recipient\":");
	if (message->rcpt_count != 1)
		tr_buf_addc(&json, '[');
	for (uint32_t i = 0; i < message->rcpt_count; i++) {
		if (i > 0)
			tr_buf_addc(&json, ',');
		tr_json_add_string(&json, tr_addr_str(&message->rcpts[i]));
	}
	if (message->rcpt_count != 1)
		tr_buf_addc(&json, ']');
	for (char **name = params->include_meta; name != NULL && *name != NULL; name++) {
		struct tr_str value = tr_meta_get(&message->meta, tr_str(*name));

		tr_buf_addc(&json, ',');
		tr_json_add_string(&json, tr_str(*name));
		tr_buf_addc(&json, ':');
		tr_buf_add_str(&json, value.data != NULL ? value : TR_STR("null"));
	}
	tr_buf_addc(&json, '}');
	tr_buf_addf(out, "%s: ", params->header_name);
	add_base64_folded(out, json.data, json.failed ? 0 : json.len, strlen(params->header_name) + 2);
	tr_buf_add(out, "\r\n", 2);
	out->failed |= json.failed;
	tr_buf_free(&json);
}
