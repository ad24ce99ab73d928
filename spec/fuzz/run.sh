#!/bin/sh
# Builds the fuzzers (clang) and runs them, as many at a time as there are processors:
#   sh spec/fuzz/run.sh [SECONDS] [NAME...]     SECONDS of each, default 60; NAME: specs, smtp_server ... default all
# They begin with spec/fuzz/corpus/NAME. What they learn stays in build/fuzz/corpus/NAME, what breaks one in
# build/fuzz/found: mend it, then put the input into spec/fuzz/corpus/NAME, where the tests find it again.
# The exit status is 1 if one broke. An input that takes five minutes is one that hangs: the machine may be busy.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-60}
[ $# -eq 0 ] || shift
names=${*:-$(cd spec/fuzz && ls -- *_fuzz.c | sed 's/_fuzz\.c$//')}
command -v clang >/dev/null || { echo 'fuzzers need clang, which is not installed' >&2; exit 69; }

cmake --preset fuzz >/dev/null
# shellcheck disable=SC2086
cmake --build build/fuzz --target $(printf '%s_fuzz ' $names) >build/fuzz/build.log 2>&1 || { grep -v '^\[[0-9/]*\] ' build/fuzz/build.log | tail -40; exit 1; }
mkdir -p build/fuzz/found

# What Lua holds looks lost to the leak detector: it does not look into LuaJIT's memory.
one() {
	mkdir -p "build/fuzz/corpus/$1"
	leaks=1
	case $1 in inject | shaping) leaks=0 ;; esac
	if ASAN_OPTIONS="detect_leaks=$leaks" "build/fuzz/$1_fuzz" -max_total_time="$seconds" -max_len=4096 -timeout=300 \
		-detect_leaks=$leaks -print_final_stats=1 -artifact_prefix="build/fuzz/found/$1-" "build/fuzz/corpus/$1" \
		"spec/fuzz/corpus/$1" >"build/fuzz/$1.log" 2>&1; then
		sed -n "s/^stat::number_of_executed_units: */$1: executions /p" "build/fuzz/$1.log"
	else
		echo "$1: BROKEN, see build/fuzz/$1.log"
		grep -v '^#[0-9]' "build/fuzz/$1.log" | tail -40
		: >"build/fuzz/failed"
	fi
}

rm -f build/fuzz/failed
running=0
for name in $names; do
	one "$name" &
	running=$((running + 1))
	if [ "$running" -ge "$(nproc)" ]; then
		wait
		running=0
	fi
done
wait
[ ! -e build/fuzz/failed ]
