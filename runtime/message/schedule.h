/* Reading and writing schedules, contract/message.md section 4. Time zones come from
 * /usr/share/zoneinfo, read once each and kept; nothing here touches the process' own TZ. Any thread. */
#ifndef TR_SCHEDULE_H
#define TR_SCHEDULE_H

#include "message/message.h"

/* The keys of a schedule object: first_attempt, expires, and dow, tz, start, end (all four or none). Null
 * counts as absent. TR_EINVAL with a text that names the key in *error (static); *out is then undefined. */
int tr_schedule_parse(struct tr_str json, struct tr_schedule *out, const char **error);
/* The delivery window alone: "Mon,Tue", "Europe/Berlin", "09:00:00", "17:30:00". TR_EINVAL with *error (static). */
int tr_schedule_set_window(struct tr_schedule *schedule, struct tr_str dow, struct tr_str tz, struct tr_str start,
	struct tr_str end, const char **error);
/* As a JSON object that tr_schedule_parse() reads; keys that are not set are left out. */
void tr_schedule_json(const struct tr_schedule *schedule, struct tr_buf *out);

struct tr_zone; /* rules of one time zone; lives as long as the process */
/* TR_EINVAL for a bad name or a file that is none, TR_ENOENT when there is no such zone, TR_ENOMEM. */
int tr_zone_get(struct tr_str name, const struct tr_zone **out);
/* Seconds east of UTC at a moment (s since 1970). */
int32_t tr_zone_offset(const struct tr_zone *zone, int64_t utc_s);

#endif
