#include "net/guard.h"

#include <netinet/in.h>

struct block {
	uint8_t addr[16];
	uint8_t bits;
};

/* IANA IPv4 Special-Purpose Address Registry: what is not globally reachable; and multicast. */
static const struct block v4[] = {
	{{0}, 8},             /* this network; 0.0.0.0 is the machine itself to connect() */
	{{10}, 8},            /* private */
	{{100, 64}, 10},      /* shared: CGNAT */
	{{127}, 8},           /* loopback */
	{{169, 254}, 16},     /* link-local: metadata services of clouds */
	{{172, 16}, 12},      /* private */
	{{192, 0, 0}, 24},    /* IETF assignments */
	{{192, 0, 2}, 24},    /* documentation */
	{{192, 88, 99}, 24},  /* 6to4 relays, withdrawn */
	{{192, 168}, 16},     /* private */
	{{198, 18}, 15},      /* benchmarks */
	{{198, 51, 100}, 24}, /* documentation */
	{{203, 0, 113}, 24},  /* documentation */
	{{224}, 3},           /* multicast, reserved, broadcast */
};

/* The same for IPv6: within 2000::/3, outside of which nothing is global unicast, 64:ff9b::/96 apart. */
static const struct block v6[] = {
	{{0x20, 0x01, 0x00}, 23},       /* IETF assignments: Teredo, benchmarks, ORCHID ... */
	{{0x20, 0x01, 0x0d, 0xb8}, 32}, /* documentation */
	{{0x3f, 0xff, 0x00}, 20},       /* documentation */
};

static const struct block global6 = {{0x20}, 3};
static const struct block six_to_four = {{0x20, 0x02}, 16};
static const struct block nat64 = {{0x00, 0x64, 0xff, 0x9b}, 96};

static bool
within(const struct block *block, const uint8_t *addr)
{
	size_t whole = block->bits / 8, rest = block->bits % 8;

	return memcmp(block->addr, addr, whole) == 0 &&
	       (rest == 0 || ((block->addr[whole] ^ addr[whole]) >> (8 - rest)) == 0);
}

static bool
is_public4(const uint8_t *addr)
{
	for (size_t i = 0; i < TR_COUNT(v4); i++) {
		if (within(&v4[i], addr))
			return false;
	}
	return true;
}

static bool
is_public6(const uint8_t *addr)
{
	if (within(&nat64, addr))
		return is_public4(addr + 12);
	if (!within(&global6, addr))
		return false;
	if (within(&six_to_four, addr))
		return is_public4(addr + 2);
	for (size_t i = 0; i < TR_COUNT(v6); i++) {
		if (within(&v6[i], addr))
			return false;
	}
	return true;
}

bool
tr_address_is_public(const struct tr_sockaddr *addr)
{
	const struct in6_addr *in6 = &((const struct sockaddr_in6 *)&addr->ss)->sin6_addr;

	if (addr->ss.ss_family == AF_INET)
		return is_public4((const uint8_t *)&((const struct sockaddr_in *)&addr->ss)->sin_addr);
	if (addr->ss.ss_family != AF_INET6)
		return false;
	return IN6_IS_ADDR_V4MAPPED(in6) ? is_public4(in6->s6_addr + 12) : is_public6(in6->s6_addr);
}
