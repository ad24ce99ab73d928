/* Reads one SMTP command line (RFC 5321 section 4.1.1). No state, no Lua. */
#ifndef TR_SMTP_COMMAND_H
#define TR_SMTP_COMMAND_H

#include "message/address.h"

enum tr_smtp_verb {
	TR_SMTP_EHLO,
	TR_SMTP_HELO,
	TR_SMTP_MAIL,
	TR_SMTP_RCPT,
	TR_SMTP_DATA,
	TR_SMTP_RSET,
	TR_SMTP_NOOP,
	TR_SMTP_QUIT,
	TR_SMTP_OTHER, /* VRFY, EXPN, HELP, LHLO, STARTTLS, AUTH, XCLIENT and unknown ones: 502 */
};

struct tr_smtp_command {
	enum tr_smtp_verb verb;
	struct tr_str text;  /* EHLO, HELO: the domain; borrowed from the line */
	struct tr_addr addr; /* MAIL, RCPT: tr_addr_fini() frees it */
	bool has_size;
	uint64_t size; /* MAIL: SIZE=, saturating */
};

/* `line` is without its CRLF. NULL if it is a command: *out is filled then, and holds an address for MAIL and RCPT.
 * Otherwise the refusal: enhanced code and text where there is one; *code is its reply code. Static. */
const char *tr_smtp_command_parse(struct tr_str line, struct tr_smtp_command *out, int *code);

#endif
