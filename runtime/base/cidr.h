/* Blocks of addresses: "10.0.0.0/8", "::1", "127.0.0.1". */
#ifndef TR_CIDR_H
#define TR_CIDR_H

#include "base/buf.h"

struct tr_cidr {
	uint8_t family; /* 4 or 6 */
	uint8_t bits;
	uint8_t addr[16];
};
/* Host bits set: TR_EINVAL with the right form in *hint (64 bytes; may be NULL), otherwise empty. TR_OK or TR_EINVAL.
 */
int tr_cidr_parse(struct tr_str text, struct tr_cidr *out, char *hint);

#endif
