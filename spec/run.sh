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
# Those that take long, the longest first. They wait most of the time: they run one by one in shares of their own, the rest
# some at a time in as many shares as there are processors.
long='spec/run/disk_spec.lua spec/run/kill_spec.lua spec/run/trouble_spec.lua spec/run/damage_spec.lua
spec/run/kafka_broker_spec.lua spec/run/hook_transport_spec.lua spec/run/stop_spec.lua spec/run/cluster_spec.lua
spec/transport/amqp_spec.lua spec/cli/check_spec.lua spec/run/watchdog_spec.lua spec/docs/tutorial_spec.lua
spec/run/gate_spec.lua spec/examples/hooks_spec.lua spec/ingress/hostile_spec.lua spec/run/power_spec.lua
spec/run/dead_letter_spec.lua spec/run/dead_disk_spec.lua spec/run/failing_disk_spec.lua spec/ingress/smtp_spec.lua
spec/run/hostile_peer_spec.lua spec/run/virtual_time_spec.lua spec/run/stuck_spec.lua'
# Of a run that passed: from its closing line on. Those that failed come whole, and last.
specs() {
	outputs=$(mktemp -d "${TMPDIR:-/tmp}/tailrace-specs.XXXXXX")
	export outputs
	# shellcheck disable=SC2016
	busted='"$TAILRACE" lua /usr/bin/busted --output=plainTerminal --pattern=_spec --lpath="./spec/?.lua" "$@" \
		>"$outputs/$$" 2>&1 || mv "$outputs/$$" "$outputs/$$.failed"'
	printf '%s\n' $long | sort >"$outputs/long.names"
	printf '%s\n' $long | xargs -P 3 -n 1 sh -c "$busted" - &
	find spec -name '*_spec.lua' | LC_ALL=C sort | grep -vxFf "$outputs/long.names" |
		xargs -P "$(nproc)" -n 8 sh -c "$busted" - &
	wait
	rm "$outputs/long.names"
	for output in "$outputs"/*; do
		case $output in *.failed) ;; *) sed -n '/^[0-9]* success[es]* \/ /,$p' "$output" ;; esac
	done
	failed=0
	for output in "$outputs"/*.failed; do
		[ ! -e "$output" ] || { cat "$output"; failed=1; }
	done
	rm -rf "$outputs"
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
