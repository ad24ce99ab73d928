/* A curl multi on a loop: sockets are libev watchers, curl's timer a libev timer. Inside of runtime/transport.
 *
 * curl's timer is the one timer outside the wheel: it is no deadline of ours, but curl's own pacing (trying the next
 * address, its resolver) by the real clock, and must run while a hold stops virtual time. */
#ifndef TR_HTTP_MULTI_H
#define TR_HTTP_MULTI_H

#include <curl/curl.h>

#include "base/loop.h"

struct tr_http_multi;

/* `done` is called from the loop for each easy handle that curl has finished; it must take the handle out
 * (tr_http_multi_remove), or may leave in one that was to be connected only. When curl finds no memory, it is called
 * with CURLE_OUT_OF_MEMORY for all that are in, those that were left in, too. TR_OK, TR_ENOMEM. */
int tr_http_multi_new(struct tr_loop *loop, long max_connections, void (*done)(void *arg, CURL *easy, CURLcode result),
	void *arg, struct tr_http_multi **out);
void tr_http_multi_free(struct tr_http_multi *multi); /* closes all connections; no handle may be in it */

/* Makes the handle's connections known to the multi, and the certificates that SSL_CERT_FILE and SSL_CERT_DIR name
 * known to the handle; once, before its first use. TR_OK, TR_ENOMEM. */
int tr_http_multi_prepare(struct tr_http_multi *multi, CURL *easy);
/* What curl is to use for CURLOPT_OPENSOCKETFUNCTION: for an easy handle that has one of its own, to be called from
 * there. */
curl_socket_t tr_http_multi_open(struct tr_http_multi *multi, const struct curl_sockaddr *address);
/* curl copies a text; false: it has no memory for that, and the option is as it was. */
static inline bool
tr_http_multi_set_text(CURL *easy, CURLoption option, const char *text)
{
	return curl_easy_setopt(easy, option, text) == CURLE_OK;
}
int tr_http_multi_add(struct tr_http_multi *multi, CURL *easy); /* TR_OK, TR_ENOMEM */
void tr_http_multi_remove(struct tr_http_multi *multi, CURL *easy);

#endif
