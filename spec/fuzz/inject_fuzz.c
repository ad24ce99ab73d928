/* The body of POST /api/inject/v1: spec/fuzz/inject.lua says what must hold. */
#include "host.h"

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	fuzz_host_start("spec/fuzz/inject.lua");
	fuzz_host_call("fuzz", (struct fuzz_in){data, data + len});
	return 0;
}
