/* How long a request is must be beyond doubt: another program before us (a TLS proxy) may read it in another way, and
 * what it takes for the body of one request could be another one here. */
#ifndef TR_HTTP_FRAMING_H
#define TR_HTTP_FRAMING_H

#include <microhttpd.h>
#include <stdbool.h>

/* False: two lengths, a transfer coding other than `chunked`, one where no body belongs, a space after a header's name,
 * or a NUL. To be answered 400, and the connection closed. */
bool tr_http_framing_is_plain(struct MHD_Connection *connection, const char *method);

#endif
