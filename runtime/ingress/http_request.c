/* What a handler may ask of a request: see http_server.h. */
#include "ingress/http_server_internal.h"

const char *
tr_http_request_method(const struct tr_http_request *request)
{
	return request->method;
}

const char *
tr_http_request_path(const struct tr_http_request *request)
{
	return request->path;
}

const char *
tr_http_request_header(const struct tr_http_request *request, const char *name)
{
	return request->connection != NULL ? MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, name)
					   : NULL;
}

struct tr_str
tr_http_request_body(const struct tr_http_request *request)
{
	return (struct tr_str){request->body.len > 0 ? request->body.data : "", request->body.len};
}

const char *
tr_http_request_peer(const struct tr_http_request *request)
{
	return request->peer;
}

bool
tr_http_request_is_known(const struct tr_http_request *request)
{
	return request->known;
}

const char *
tr_http_request_local(const struct tr_http_request *request)
{
	return request->local;
}

struct query_walk {
	void (*each)(void *arg, struct tr_str name, struct tr_str value);
	void *arg;
};

static enum MHD_Result
walk_query(void *arg, enum MHD_ValueKind kind, const char *name, size_t name_len, const char *value, size_t value_len)
{
	const struct query_walk *walk = arg;

	walk->each(walk->arg, (struct tr_str){name, name_len}, (struct tr_str){value != NULL ? value : "", value_len});
	return MHD_YES;
}

void
tr_http_request_query(const struct tr_http_request *request,
	void (*each)(void *arg, struct tr_str name, struct tr_str value), void *arg)
{
	struct query_walk walk = {each, arg};

	if (request->connection != NULL)
		MHD_get_connection_values_n(request->connection, MHD_GET_ARGUMENT_KIND, walk_query, &walk);
}
