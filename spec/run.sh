#!/bin/sh
# Installs, builds and runs all tests: sh spec/run.sh [PRESET] [C|LUA]. PRESET: release (default), debug, asan, tsan.
# Under tsan only the C tests run: the specs' programs are single-threaded Lua or many processes.
set -eu
cd "$(dirname "$0")/.."
preset=${1:-release}
only=${2:-all}

sh .ci/install build test
cmake --preset "$preset" >/dev/null
cmake --build "build/$preset"
export TAILRACE="$PWD/build/$preset/tailrace"

if [ "$only" != LUA ]; then
	ctest --test-dir "build/$preset" --output-on-failure -j "$(nproc)"
fi
if [ "$only" != C ] && [ "$preset" != tsan ]; then
	"$TAILRACE" lua /usr/bin/busted --output=plainTerminal --pattern=_spec --lpath='./spec/?.lua' spec
fi
