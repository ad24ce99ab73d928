#!/bin/sh
# Installs, builds and runs all tests: sh spec/run.sh [PRESET] [C|LUA]. PRESET: release (default), debug, asan, tsan.
# Under tsan: the C tests and, in place of the specs, spec/run/threads.sh (most programs of the specs have one thread).
# With TEST_COUNTS=FILE a line "PASSED FAILED" for each runner is added to FILE.
set -eu
cd "$(dirname "$0")/.."
preset=${1:-release}
only=${2:-all}
counts=${TEST_COUNTS:-/dev/null}

sh .ci/install build test
cmake --preset "$preset" >/dev/null
cmake --build "build/$preset"
export TAILRACE="$PWD/build/$preset/tailrace"

# A sanitizer's report ends the program with an error, leaks included. The wide randomisation of addresses of newer
# kernels leaves no room for gcc 12's ThreadSanitizer: without it where that is allowed.
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=1:detect_stack_use_after_return=1}"
export UBSAN_OPTIONS="${UBSAN_OPTIONS:-print_stacktrace=1}"
export TSAN_OPTIONS="${TSAN_OPTIONS:-halt_on_error=1:second_deadlock_stack=1}"
fixed=
[ "$preset" != tsan ] || ! setarch "$(uname -m)" -R true 2>/dev/null || fixed="setarch $(uname -m) -R"

status=0
log=$(mktemp "${TMPDIR:-/tmp}/tailrace-run.XXXXXX")
trap 'rm -f "$log"' EXIT

# Runs a runner, shows what it says, and keeps it for the counts.
runner() {
	{ "$@" 2>&1 || echo "$1 failed" >"$log.failed"; } | tee "$log"
	[ ! -e "$log.failed" ] || { rm -f "$log.failed"; status=1; }
}

if [ "$only" != LUA ]; then
	runner $fixed ctest --test-dir "build/$preset" --output-on-failure -j "$(nproc)"
	sed -n 's/.* \([0-9]*\) tests failed out of \([0-9]*\)$/\2 \1/p' "$log" | awk '{ print $1 - $2, $2 }' >>"$counts"
fi
# The specs in as many shares as there are processors, and one: most of them wait. Each share has a closing line of its own.
specs() {
	shares=$(($(nproc) + 1))
	dir=$(mktemp -d "${TMPDIR:-/tmp}/tailrace-shares.XXXXXX")
	i=0
	for spec in $(find spec -name '*_spec.lua' | LC_ALL=C sort); do
		echo "$spec" >>"$dir/$((i % shares))"
		i=$((i + 1))
	done
	failed=0
	for share in $(seq 0 $((shares - 1))); do
		# shellcheck disable=SC2046
		{ "$TAILRACE" lua /usr/bin/busted --output=plainTerminal --pattern=_spec --lpath='./spec/?.lua' \
			$(cat "$dir/$share") >"$dir/$share.out" 2>&1 || echo failed >"$dir/$share.failed"; } &
	done
	wait
	for share in $(seq 0 $((shares - 1))); do
		cat "$dir/$share.out"
		[ ! -e "$dir/$share.failed" ] || failed=1
	done
	rm -rf "$dir"
	return $failed
}
if [ "$only" != C ] && [ "$preset" != tsan ]; then
	runner specs
	sed -n 's,^\([0-9]*\) success[es]* / \([0-9]*\) failures* / \([0-9]*\) errors* / .*,\1 \2 \3,p' "$log" |
		awk '{ print $1, $2 + $3 }' >>"$counts"
fi
if [ "$only" != LUA ] && [ "$preset" = tsan ]; then
	$fixed sh spec/run/threads.sh
fi
exit $status
