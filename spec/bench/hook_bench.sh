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
		"$build/hook_bench" run --policy "$here/$policy" --count "$records" --workers "$workers" "$@" 2>"$dir/hook.log") ||
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

# syslog-ng reads the records from a file and posts them; its reliable disk buffer writes each but does not sync.
run_syslog_ng() { # NAME RECORDS WORKERS BATCH(0: none)
	have syslog-ng || return 0
	peer=$dir/syslog-ng
	rm -rf "$peer"
	mkdir -p "$peer/buffer"
	start_sink --http 127.0.0.1:0 --until "$2" --idle-exit 100
	options='body("$MSG")'
	[ "$4" = 0 ] || options='body("$MSG") batch-lines('$4') batch-timeout(100) delimiter(",") body-prefix("[") body-suffix("]")'
	cat >"$peer/conf" <<CONF
@version: 3.38
options { stats-freq(0); time-reopen(1); };
source s { file("$dir/lines" flags(no-parse) follow-freq(0.1) log-fetch-limit(1000) log-iw-size(10000)); };
destination d {
  http(url("http://$sink_http/log") method("POST") headers("Content-Type: application/json") $options workers($3)
    disk-buffer(reliable(yes) disk-buf-size(4000000000) mem-buf-size(67108864) dir("$peer/buffer")));
};
log { source(s); destination(d); flags(flow-control); };
CONF
	begin=$(now_s)
	syslog-ng -F --no-caps -f "$peer/conf" -R "$peer/persist" -c "$peer/ctl" -p "$peer/pid" >"$dir/syslog-ng.log" 2>&1 &
	shipper=$!
	started $shipper
	wait_end $sink 300 'syslog-ng'
	end=$(now_s)
	cpu=$(cpu_of $shipper)
	end_process $shipper
	rm -rf "$peer"
	result "$1" "$(awk -v n="$2" -v b="$begin" -v e="$end" 'BEGIN { print n / (e - b) }')" \
		"$(awk -v n="$2" -v c="$cpu" 'BEGIN { print c * 1e6 / n }')"
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
		run_syslog_ng 'syslog-ng http(), reliable disk buffer' $count 1 0 # 10 workers: 1.2x the rate at 1.3x the CPU
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
		run_syslog_ng 'syslog-ng http(), reliable disk buffer' $((count / 4)) 2 100 # 10 workers: the same rate at 1.5x the CPU
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
