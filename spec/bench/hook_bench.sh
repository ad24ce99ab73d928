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

# What checksums, assertions and the table of file operations cost, beside a build without them, whose log is worth nothing,
# so that it is built for this alone. A run of a second says no more than 5 %, so the two take turns every tenth of a second: the
# median of many such pairs stands where the noise of the machine cancels. Every round starts both anew, as the places of code and
# data differ from start to start.
bench_checks() {
	pairs=300 slice=10000 starts=$((rounds * 2))
	! $quick || { pairs=40 starts=1; }
	cmake --preset release -B build/unchecked -DTR_UNCHECKED=ON >/dev/null
	cmake --build build/unchecked --target hook_bench >&2
	printf '\nChecks: 100 records a request and 100 events a change, log_hooks:new; pairs of %s records\n' $slice
	: >"$dir/pairs"
	for start in $(seq $starts); do
		check_pairs "$start" $pairs $slice
	done
	check_summary <"$dir/pairs"
	if have valgrind; then
		check_instructions
	else
		say 'checks: valgrind is not installed: instructions are not counted'
	fi
}

# One start of both builds: a line "START CPU-WITHOUT CPU-WITH" a pair, microseconds a record.
check_pairs() { # START PAIRS RECORDS
	start_sink --http 127.0.0.1:0 --quiet
	check_start without "$PWD/build/unchecked/hook_bench" "$3"
	without=$node
	check_start with "$build/hook_bench" "$3"
	with=$node
	exec 5>"$dir/without.in" 6<"$dir/without.out" 7>"$dir/with.in" 8<"$dir/with.out"
	read -r _ <&6 && read -r _ <&8 # they are ready
	for pair in $(seq "$2"); do
		if [ $((pair % 2)) = 0 ]; then
			check_slice 5 6 && bare=$slice_cpu && check_slice 7 8 && whole=$slice_cpu
		else
			check_slice 7 8 && whole=$slice_cpu && check_slice 5 6 && bare=$slice_cpu
		fi
		printf '%s %s %s\n' "$1" "$bare" "$whole" >>"$dir/pairs"
	done
	exec 5>&- 7>&- 6<&- 8<&-
	wait_end "$without" 30 'hook_bench'
	wait_end "$with" 30 'hook_bench'
	end_process "$sink"
	rm -rf "$dir/without" "$dir/with"
}

check_start() { # NAME PROGRAM RECORDS: sets node (PID)
	rm -rf "$dir/$1" "$dir/$1.in" "$dir/$1.out"
	mkdir "$dir/$1"
	mkfifo "$dir/$1.in" "$dir/$1.out"
	BENCH_DIR=$dir/$1 BENCH_URL=http://$sink_http/log TAILRACE_LOG=${TAILRACE_LOG:-warn} "$2" run --slices \
		--policy "$here/hook_batch_helper.lua" --count "$3" --per-change 100 <"$dir/$1.in" >"$dir/$1.out" 2>"$dir/$1.log" &
	node=$!
	started $node
}

check_slice() { # FD-TO FD-FROM: sets slice_cpu
	printf x >&"$1"
	read -r slice_cpu _ <&"$2"
	slice_cpu=${slice_cpu#cpu_us=}
}

# From the lines of check_pairs. The interval of the median is that of the sign test: it asks nothing of how the noise is shaped.
check_summary() {
	awk '
		function sort(list, n,  i, j, gap, swap) {
			for (gap = int(n / 2); gap > 0; gap = int(gap / 2))
				for (i = gap + 1; i <= n; i++)
					for (j = i; j > gap && list[j - gap] > list[j]; j -= gap) {
						swap = list[j]; list[j] = list[j - gap]; list[j - gap] = swap
					}
		}
		function median(list, n) { return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2 }
		function of_start(  text) {
			if (!m) return
			sort(own, m)
			starts = starts sprintf(" %+.1f", (median(own, m) - 1) * 100)
			m = 0
		}
		$1 != last { of_start(); last = $1 }
		{ n++; bare[n] = $2; whole[n] = $3; ratio[n] = own[++m] = $3 / $2 }
		END {
			of_start()
			sort(bare, n); sort(whole, n); sort(ratio, n)
			half = int(0.98 * sqrt(n)) + 1
			low = int(n / 2) - half; high = int(n / 2) + 1 + half
			printf "  without %.3f us CPU a record, with %.3f: medians of %d\n", median(bare, n), median(whole, n), n
			printf "  cost %+.2f %% [%+.2f..%+.2f]: the median of the pairs and its 95 %% interval\n",
				(median(ratio, n) - 1) * 100, (ratio[low < 1 ? 1 : low] - 1) * 100, (ratio[high > n ? n : high] - 1) * 100
			printf "  half of the pairs lie within %+.1f..%+.1f %%; medians of the starts:%s\n",
				(ratio[int(n / 4) + 1] - 1) * 100, (ratio[int(3 * n / 4) + 1] - 1) * 100, starts
		}'
}

# Instructions in user space a record, by two runs of each build whose difference has no start and no end in it; and those of
# the checksums themselves. No neighbour disturbs them, but an instruction is no time: these are of the cheapest.
check_instructions() {
	for who in without with; do
		program=$build/hook_bench
		[ $who = with ] || program=$PWD/build/unchecked/hook_bench
		for n in 10000 30000; do
			start_sink --http 127.0.0.1:0 --quiet
			rm -rf "$dir/spool"
			BENCH_DIR=$dir BENCH_URL=http://$sink_http/log TAILRACE_LOG=error \
				valgrind --tool=callgrind --callgrind-out-file="$dir/callgrind.$who.$n" "$program" run \
				--policy "$here/hook_batch_helper.lua" --count $n --per-change 100 >"$dir/valgrind.out" 2>"$dir/valgrind.log"
			end_process "$sink"
		done
	done
	rm -rf "$dir/spool"
	for who in without with; do
		for n in 10000 30000; do
			callgrind_annotate --inclusive=yes "$dir/callgrind.$who.$n" 2>/dev/null | awk -v who="$who" -v n="$n" '
				{ count = $1; gsub(/,/, "", count) }
				/PROGRAM TOTALS/ { total = count }
				/:tr_crc32c \[/ && !sums { sums = count }
				END { print who, n, total + 0, sums + 0 }'
		done
	done | awk '
		{ sign = $2 == 30000 ? 1 : -1; total[$1] += sign * $3; sums[$1] += sign * $4 }
		END {
			printf "  instructions a record: without %.0f, with %.0f (%+.1f %%), %.0f of them in checksums (%.1f %%)\n",
				total["without"] / 20000, total["with"] / 20000, (total["with"] / total["without"] - 1) * 100,
				sums["with"] / 20000, sums["with"] * 100 / total["without"]
		}'
}
