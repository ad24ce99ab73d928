# Records that wait for a dead endpoint. Sourced by run.sh.
# shellcheck shell=sh disable=SC2154

bench_backlog() {
	count=2000000
	! $quick || count=200000
	port=$(free_port) # nobody listens there until the backlog is recovered
	for policy in hook_batch.lua hook.lua; do
		connections=1 # order can be promised on one connection only
		[ $policy = hook_batch.lua ] || connections=10
		rm -rf "$dir/spool"
		export BENCH_DIR="$dir" BENCH_URL="http://127.0.0.1:$port/log" BENCH_CONNECTIONS=$connections
		line=$(TAILRACE_LOG=warn "$build/hook_bench" fill --policy "$here/$policy" --count $count 2>"$dir/fill.log")
		printf '\nBacklog of %d records, %s, %d connection(s)\n' "$count" "$policy" "$connections"
		printf '%-44s %10.0f records/s, %.2f us CPU each\n' 'stored while the endpoint is dead' \
			"$(value_of rate "$line")" "$(value_of cpu_us "$line")"
		printf '%-44s %10.1f bytes resident, %.1f of stubs\n' 'memory of a waiting record' \
			"$(value_of rss_per_record "$line")" "$(value_of stub_per_record "$line")"
		: >"$dir/drain.out"
		TAILRACE_LOG=warn "$build/hook_bench" drain --policy "$here/$policy" >"$dir/drain.out" 2>"$dir/drain.log" &
		drain=$!
		started $drain
		line=$(wait_line "$dir/drain.out" '/^recovered=.*/p' 'the recovery')
		printf '%-44s %10.0f records/s, %.2f us CPU each, %.1f MB resident\n' 'recovery after the restart' \
			"$(value_of rate "$line")" "$(value_of cpu_us "$line")" "$(value_of rss_mb "$line")"
		"$build/order_sink" "$port" $count >"$dir/order.out" 2>"$dir/order.log" &
		order=$!
		started $order
		wait_end $order 600 'the backlog'
		wait_end $drain 60 'the end of hook_bench'
		unset BENCH_CONNECTIONS BENCH_URL BENCH_DIR
		line=$(cat "$dir/order.out")
		printf '%-44s %10.0f records/s, late %s, twice %s\n' 'drained to the endpoint' \
			"$(value_of rate "$line")" "$(value_of late "$line")" "$(value_of again "$line")"
		line=$(sed -n '/^records=/p' "$dir/drain.out")
		printf '%-44s %10.2f us CPU each, threads %s\n' '' "$(value_of cpu_us "$line")" \
			"$(value_of threads "$line" | sed 's/,$//')"
		rm -rf "$dir/spool"
	done
}
