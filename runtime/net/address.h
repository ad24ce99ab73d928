/* Socket addresses as text: "127.0.0.1:25", "[::1]:25", "/path/of/unix.sock"; CIDR blocks. */
#ifndef TR_NET_ADDRESS_H
#define TR_NET_ADDRESS_H

#include <sys/socket.h>

#include "base/cidr.h"

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

bool tr_cidr_contains(const struct tr_cidr *cidr, const struct tr_sockaddr *addr); /* v4-mapped v6 counts as v4 */

#endif
