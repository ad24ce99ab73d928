/* Replies of an SMTP server: pure parsing of RFC 5321 section 4.2, no I/O. */
#ifndef TR_SMTP_RESPONSE_H
#define TR_SMTP_RESPONSE_H

#include "base/buf.h"

#define TR_SMTPC_LINE_MAX 2048         /* of one reply line, CRLF included; RFC 5321 asks for 512 */
#define TR_SMTPC_REPLY_MAX (16 * 1024) /* of all lines of one reply */

struct tr_smtpc_reply {
	int code;           /* 200 to 599 */
	struct tr_str text; /* after the code; lines joined by '\n'; borrowed from `text` given to the parser */
};

/* Reads one whole reply from the start of `input`. TR_OK: *used bytes of it; TR_EAGAIN: more must come; TR_EPROTO: *why
 * (static) says what is wrong; TR_ENOMEM. `text` is the caller's memory for the joined lines; it is emptied first. */
int tr_smtpc_reply_parse(
	struct tr_str input, struct tr_buf *text, struct tr_smtpc_reply *out, size_t *used, const char **why);

/* What EHLO's reply offers. */
struct tr_smtpc_offers {
	bool pipelining, eightbit, smtputf8, size;
};
void tr_smtpc_offers_parse(struct tr_str text, struct tr_smtpc_offers *out);

/* True for an RCPT reply that means "too many recipients in this transaction, send the rest again": enhanced code 4.5.3
 * with any code. *ambiguous: 452 or 552 without an enhanced code may mean it, too. */
bool tr_smtpc_too_many(const struct tr_smtpc_reply *reply, bool *ambiguous);

#endif
