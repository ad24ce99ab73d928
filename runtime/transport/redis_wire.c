#include "transport/redis_wire.h"

#include <stdio.h>

void
tr_redis_command(struct tr_buf *out, int argc, const struct tr_str *argv)
{
	tr_buf_addc(out, '*');
	tr_buf_add_u64(out, (uint64_t)argc);
	tr_buf_add(out, "\r\n", 2);
	for (int i = 0; i < argc; i++) {
		tr_buf_addc(out, '$');
		tr_buf_add_u64(out, argv[i].len);
		tr_buf_add(out, "\r\n", 2);
		tr_buf_add_str(out, argv[i]);
		tr_buf_add(out, "\r\n", 2);
	}
}

uint32_t
tr_redis_greeting(const struct tr_redis_settings *settings, struct tr_buf *out)
{
	uint32_t count = 0;
	char db[12];

	if (settings->password != NULL && settings->user != NULL) {
		tr_redis_command(
			out, 3, (struct tr_str[]){TR_STR("AUTH"), tr_str(settings->user), tr_str(settings->password)});
		count++;
	} else if (settings->password != NULL) {
		tr_redis_command(out, 2, (struct tr_str[]){TR_STR("AUTH"), tr_str(settings->password)});
		count++;
	}
	if (settings->db != 0) {
		snprintf(db, sizeof db, "%u", settings->db);
		tr_redis_command(out, 2, (struct tr_str[]){TR_STR("SELECT"), tr_str(db)});
		count++;
	}
	tr_redis_command(out, 1, (struct tr_str[]){TR_STR("PING")});
	count++;
	return count;
}
