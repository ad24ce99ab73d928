# Hooks: one record a request, and a hundred. Sourced by run.sh.
# shellcheck shell=sh disable=SC2154

# From the lines of http_bench: NAME N requests, F failed: X us CPU each, R/s
http_cpu() { sed -n "s/^$1 .* failed: \([0-9.]*\) us.*/\1/p" "$dir/http.out"; }
http_rate() { sed -n "s/^$1 .* \([0-9]*\)\/s\$/\1/p" "$dir/http.out"; }

# Our own: N records through hook_bench with a policy; sets line.
run_hook() { # POLICY N WORKERS ARGS...
	policy=$1 records=$2 workers=$3
	shift 3
	rm -rf "$dir/spool"
	start_sink --http 127.0.0.1:0 --until "$records" --idle-exit 100
	line=$(BENCH_DIR=$dir BENCH_URL=http://$sink_http/log TAILRACE_LOG=${TAILRACE_LOG:-warn} \
		"${hook_bench:-$build/hook_bench}" run --policy "$here/$policy" --count "$records" --workers "$workers" "$@" 2>"$dir/hook.log") ||
		{ say "hook_bench: $line"; cat "$dir/hook.log" >&2; return 1; }
	wait_end $sink 20 'the sink' # status 0: it has got all of them
	rm -rf "$dir/spool"
}

# The yardstick: the same bodies by a plain loop.
run_plain() { # NAME REQUESTS RECORDS_A_REQUEST BODY_FILE
	start_sink --http 127.0.0.1:0 --until $(($2 * $3)) --idle-exit 30
	"$build/http_bench" "http://$sink_http/log" "$2" 10 "$4" plain >"$dir/http.out"
	wait_end $sink 20 'the sink'
	result "$1" "$(awk -v r="$(http_rate plain)" -v n="$3" 'BEGIN { print r * n }')" \
		"$(awk -v c="$(http_cpu plain)" -v n="$3" 'BEGIN { print c / n }')"
}

note_of() { # LINE
	printf 'threads %s; records a sync %s' "$(value_of threads "$1" | sed 's/,$//')" "$(value_of records_per_sync "$1")"
}

bench_hook() {
	count=200000
	! $quick || count=30000
	"$build/hook_bench" dump --count 1 >"$dir/body"
	"$build/hook_bench" dump --count $count >"$dir/lines"
	for _ in $(seq "$rounds"); do
		run_plain 'plain libcurl loop, no queue' $count 1 "$dir/body"
		run_hook hook.lua $count 1
		result_line 'tailrace, new_json, 1 worker' "$line" "$(note_of "$line")"
		syslog_ng_http 'syslog-ng http(), reliable disk buffer' $count 1 0 disk # 10 workers: 1.2x the rate at 1.3x the CPU
	done
	rm -f "$dir/lines"
	table 'Hook, one record a request: 900 bytes, 10 connections, synced' record
}

bench_batch() {
	count=2000000
	! $quick || count=300000
	"$build/hook_bench" dump --count 100 --array >"$dir/body"
	"$build/hook_bench" dump --count $((count / 4)) >"$dir/lines"
	for _ in $(seq "$rounds"); do
		run_plain 'plain libcurl loop, no queue' $((count / 100)) 100 "$dir/body"
		run_hook hook_batch.lua $count 1
		result_line 'tailrace, 1 event a change' "$line" "$(note_of "$line")"
		run_hook hook_batch_helper.lua $count 1
		result_line 'tailrace, 1 event a change, log_hooks:new' "$line" "$(note_of "$line")"
		run_hook hook_batch.lua $count 1 --per-change 100
		result_line 'tailrace, 100 events a change' "$line" "$(note_of "$line")"
		run_hook hook_batch_helper.lua $count 1 --per-change 100
		result_line 'tailrace, 100 events a change, log_hooks:new' "$line" "$(note_of "$line")"
		# 10 workers: the same rate at 1.5x the CPU
		syslog_ng_http 'syslog-ng http(), reliable disk buffer' $((count / 4)) 2 100 disk
		syslog_ng_http 'syslog-ng http(), memory' $((count / 4)) 2 100 memory
	done
	rm -f "$dir/lines"
	table 'Hook, 100 records a request: 900 bytes each, 10 connections, synced' record
}

bench_workers() {
	count=200000
	! $quick || count=30000
	for _ in $(seq "$rounds"); do
		for workers in 1 2; do
			run_hook hook.lua $count $workers
			result_line "one record a request, $workers worker(s)" "$line" "$(note_of "$line")"
		done
	done
	table 'Workers 1 -> 2, one record a request' record
	for _ in $(seq "$rounds"); do
		for workers in 1 2; do
			run_hook hook_batch.lua $((count * 5)) $workers
			result_line "100 records a request, $workers worker(s)" "$line" "$(note_of "$line")"
		done
	done
	table 'Workers 1 -> 2, 100 records a request' record
	# Here nearly all the work is the workers', so that two cores are enough to show what a second one brings.
	export BENCH_PARSE=yes
	for _ in $(seq "$rounds"); do
		for workers in 1 2; do
			run_hook hook_batch.lua $((count * 2)) $workers
			result_line "policy parses each record, $workers worker(s)" "$line" "$(note_of "$line")"
		done
	done
	unset BENCH_PARSE
	table 'Workers 1 -> 2, 100 records a request, a policy that parses each record' record
}

# What checksums, assertions and the table of file operations cost: a build without them, in turn with ours. Its log is worth
# nothing, so it is built for this alone.
bench_checks() {
	count=1000000
	! $quick || count=300000
	cmake --preset release -B build/unchecked -DTR_UNCHECKED=ON >/dev/null
	cmake --build build/unchecked --target hook_bench >&2
	for _ in $(seq $((rounds * 5))); do
		hook_bench=$PWD/build/unchecked/hook_bench
		run_hook hook_batch_helper.lua $count 1 --per-change 100
		result_line 'without checks' "$line" "$(note_of "$line")"
		hook_bench=
		run_hook hook_batch_helper.lua $count 1 --per-change 100
		result_line 'with checks' "$line" "$(note_of "$line")"
	done
	table 'Checks: 100 records a request and 100 events a change, log_hooks:new' record
}
