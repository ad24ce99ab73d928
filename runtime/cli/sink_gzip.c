/* Bodies that came with Content-Encoding: gzip, so that their records are counted and recorded like others. */
#include <zlib.h>

#include "cli/sink.h"

static bool
is_gzip(const char *data, const struct tr_http_head *head)
{
	struct tr_str name, value;
	size_t at = head->fields_at;

	while (tr_http_field(data, head, &at, &name, &value))
		if (tr_str_ieq(name, TR_STR("content-encoding")))
			return tr_str_ieq(value, TR_STR("gzip"));
	return false;
}

struct tr_str
tr_sink_plain(struct tr_sink *sink, const char *data, const struct tr_http_head *head, struct tr_str body)
{
	struct tr_buf *out = &sink->plain;
	z_stream z = {0};
	int rc = Z_OK;

	if (!is_gzip(data, head) || inflateInit2(&z, 15 + 16) != Z_OK) /* 16: with a gzip header */
		return body;
	tr_buf_clear(out);
	z.next_in = (unsigned char *)body.data;
	z.avail_in = (unsigned)body.len; /* at most TR_SINK_MAX_BODY_BYTES */
	while (rc == Z_OK && out->len < TR_SINK_MAX_BODY_BYTES) {
		char *room = tr_buf_reserve(out, TR_SINK_READ_BYTES);

		if (room == NULL)
			break;
		z.next_out = (unsigned char *)room;
		z.avail_out = TR_SINK_READ_BYTES;
		rc = inflate(&z, Z_NO_FLUSH);
		out->len += TR_SINK_READ_BYTES - z.avail_out;
	}
	inflateEnd(&z);
	return rc == Z_STREAM_END ? (struct tr_str){out->data, out->len} : body;
}
