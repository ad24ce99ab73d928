/* Socket addresses as text: "127.0.0.1:25", "[::1]:25", "/path/of/unix.sock"; CIDR blocks. */
#ifndef TR_NET_ADDRESS_H
#define TR_NET_ADDRESS_H

#include <sys/socket.h>

#include "base/buf.h"

struct tr_sockaddr {
	struct sockaddr_storage ss;
	socklen_t len;
};
/* `default_port` where the text has none (0: a port is required). Literals only, no look-up. TR_OK or TR_EINVAL. */
int tr_sockaddr_parse(struct tr_str text, uint16_t default_port, struct tr_sockaddr *out);
/* "ip:port" ("[v6]:port"), or without the port; returns the length, at most 63. */
size_t tr_sockaddr_text(const struct tr_sockaddr *addr, bool port, char out[64]);
uint16_t tr_sockaddr_port(const struct tr_sockaddr *addr);
void tr_sockaddr_set_port(struct tr_sockaddr *addr, uint16_t port);

struct tr_cidr {
	uint8_t family; /* 4 or 6 */
	uint8_t bits;
	uint8_t addr[16];
};
/* "10.0.0.0/8", "::1", "127.0.0.1". Host bits set: TR_EINVAL with the right form in *hint (64 bytes; may be NULL). */
int tr_cidr_parse(struct tr_str text, struct tr_cidr *out, char *hint);
bool tr_cidr_contains(const struct tr_cidr *cidr, const struct tr_sockaddr *addr); /* v4-mapped v6 counts as v4 */

#endif
