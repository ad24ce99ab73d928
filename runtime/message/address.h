/* Envelope addresses as RFC 5321 section 4.1.2, with or without angle brackets; a source route is dropped.
 * "" and "<>" are the null sender. UTF-8 in both parts is allowed (RFC 6531). */
#ifndef TR_ADDRESS_H
#define TR_ADDRESS_H

#include "base/buf.h"

struct tr_addr {
	char *email; /* NUL-terminated: without brackets and route; "" null sender; "Postmaster"; tr_addr_fini() frees
		      */
	uint32_t len;
	uint32_t at : 31;  /* offset of the '@' that splits local part and domain; == len when there is none */
	uint32_t lent : 1; /* the bytes are in the room of a message: tr_addr_fini() leaves them */
};

/* Parses; on success the caller owns *out (tr_addr_fini). TR_EINVAL for bad syntax, TR_ENOMEM. */
int tr_addr_parse(struct tr_str text, struct tr_addr *out);
int tr_addr_copy(const struct tr_addr *from, struct tr_addr *out);
void tr_addr_fini(struct tr_addr *addr);
static inline struct tr_str
tr_addr_str(const struct tr_addr *addr)
{
	return (struct tr_str){addr->email, addr->len};
}
/* Domain as written; empty for the null sender and the bare postmaster. */
static inline struct tr_str
tr_addr_domain(const struct tr_addr *addr)
{
	return addr->at < addr->len ? (struct tr_str){addr->email + addr->at + 1, addr->len - addr->at - 1}
				    : (struct tr_str){addr->email + addr->len, 0};
}
/* Local part, unquoted, added to out; "postmaster" for the bare Postmaster. */
void tr_addr_user(const struct tr_addr *addr, struct tr_buf *out);

#endif
