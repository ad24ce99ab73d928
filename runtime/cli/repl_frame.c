#include "cli/repl_frame.h"

int
tr_repl_frame_next(const struct tr_buf *in, struct tr_repl_frame *out)
{
	const unsigned char *data = (const unsigned char *)in->data;
	uint32_t len;

	if (in->len < 4)
		return 0;
	len = data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
	if (len < 1 || len > TR_REPL_FRAME_MAX + 1)
		return TR_EINVAL;
	if (in->len < 4 + (size_t)len)
		return 0;
	out->kind = in->data[4];
	out->text = (struct tr_str){in->data + 5, len - 1};
	out->size = 4 + (size_t)len;
	return 1;
}

void
tr_repl_frame_add(struct tr_buf *out, char kind, struct tr_str text)
{
	tr_buf_put_u32(out, (uint32_t)text.len + 1);
	tr_buf_addc(out, kind);
	tr_buf_add(out, text.data, text.len);
}
