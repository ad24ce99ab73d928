# The transports beside a plain loop of the same library, and the replay of dead letters. Sourced by run.sh.
# shellcheck shell=sh disable=SC2154

# Records through a helper of policy-extras/log_hooks.lua: run_transport NAME-OF-ROW TRANSPORT N ARGS...; the environment has
# where to. Adds a row.
run_transport() {
	row=$1 transport=$2 records=$3
	shift 3
	rm -rf "$dir/spool"
	line=$(BENCH_DIR=$dir BENCH_TRANSPORT=$transport TAILRACE_LOG=${TAILRACE_LOG:-warn} \
		"$build/hook_bench" run --policy "$here/hook_transport.lua" --count "$records" "$@" 2>"$dir/hook.log") ||
		{ say "hook_bench: $line"; cat "$dir/hook.log" >&2; return 1; }
	rm -rf "$dir/spool"
	result_line "$row" "$line" "$(note_of "$line")"
}

# A peer in a process of its own whose standard input keeps it alive; sets peer (PID).
start_peer() { # COMMAND ...
	rm -f "$dir/peer.in"
	mkfifo "$dir/peer.in"
	"$@" <"$dir/peer.in" >"$dir/peer.out" 2>"$dir/peer.log" &
	peer=$!
	started $peer
	exec 9>"$dir/peer.in"
}

end_peer() {
	exec 9>&-
	wait_end $peer 60 'the peer'
}

bench_kafka() {
	count=1000000
	! $quick || count=100000
	"$build/hook_bench" dump --count $count >"$dir/lines"
	for _ in $(seq "$rounds"); do
		start_peer "$build/kafka_bench" cluster
		BENCH_BROKERS=$(wait_line "$dir/peer.out" 's/^bootstrap //p' 'the cluster')
		export BENCH_BROKERS
		result_line 'plain librdkafka loop, no queue' "$("$build/kafka_bench" plain "$BENCH_BROKERS" events $count)"
		for batch in 100 500; do
			export BENCH_BATCH=$batch
			run_transport "tailrace, new_kafka, batches of $batch" kafka $count
		done
		run_transport "tailrace, new_kafka, 500, 100 events a change" kafka $count --per-change 100
		rsyslog_kafka 'rsyslog omkafka, queue in memory' $count "$BENCH_BROKERS" others
		unset BENCH_BATCH BENCH_BROKERS
		end_peer
	done
	rm -f "$dir/lines"
	table 'Kafka: 900 bytes, acks=all, idempotent, a mock cluster of 3 brokers in a process of its own' record
}

bench_amqp() {
	if ! have rabbitmq-server; then
		say 'amqp: rabbitmq-server is not installed: left out'
		return
	fi
	count=100000
	! $quick || count=20000
	"$build/hook_bench" dump --count $count >"$dir/lines"
	start_peer "$build/tailrace" lua $here/broker.lua rabbitmq bench
	BENCH_PORT=$(wait_line "$dir/peer.out" 's/^port //p' 'RabbitMQ')
	export BENCH_PORT
	for _ in $(seq "$rounds"); do
		for batch in 100 500; do
			export BENCH_BATCH=$batch BENCH_CONNECTIONS=1
			result_line "plain rabbitmq-c loop, window $batch" \
				"$("$build/amqp_bench" publish 127.0.0.1 "$BENCH_PORT" bench $count $batch)"
			run_transport "tailrace, new_amqp, batches of $batch, 1 session" amqp $count --window 12000
			export BENCH_CONNECTIONS=10
			run_transport "tailrace, new_amqp, batches of $batch, 10 sessions" amqp $count --window 12000
		done
		syslog_ng_amqp 'syslog-ng amqp(), which awaits no confirm' $count "$BENCH_PORT" bench
	done
	rm -f "$dir/lines"
	unset BENCH_PORT BENCH_BATCH BENCH_CONNECTIONS
	end_peer
	table 'AMQP: 900 bytes, RabbitMQ, a durable queue, persistent, mandatory, confirms' record
}

bench_nats() {
	if ! have nats-server; then
		say 'nats: nats-server is not installed: left out'
		return
	fi
	count=200000
	! $quick || count=30000
	start_peer "$build/tailrace" lua $here/broker.lua nats
	port=$(wait_line "$dir/peer.out" 's/^port //p' 'nats-server')
	for _ in $(seq "$rounds"); do
		"$build/nats_bench" "nats://127.0.0.1:$port" $count 100 >"$dir/nats.out"
		sed -n 's/^\(plain\|ours\) .* failed: \([0-9.]*\) us CPU each, \([0-9]*\)\/s$/\1 \2 \3/p' "$dir/nats.out" |
			while read -r who cpu rate; do
				result "$([ "$who" = plain ] && echo 'libnats alone' || echo 'our client alone')" "$rate" "$cpu"
			done
		BENCH_PORT=$port BENCH_BATCH=100 run_transport 'tailrace, new_nats, batches of 100' nats $count
	done
	end_peer
	table 'NATS JetStream: 900 bytes, acknowledged, batches of 100' record
}

bench_gzip() {
	count=1000000
	! $quick || count=200000
	for _ in $(seq "$rounds"); do
		for compression in '' gzip zstd; do
			start_sink --http 127.0.0.1:0 --until $count --idle-exit 100
			export BENCH_URL=http://$sink_http/log BENCH_BATCH=1000
			[ -z "$compression" ] || export BENCH_COMPRESSION=$compression
			run_transport "tailrace, new_json, ${compression:-no compression}" http $count
			unset BENCH_URL BENCH_BATCH BENCH_COMPRESSION
			wait_end $sink 30 'the sink'
		done
	done
	table 'Hook, 1,000 records a request, compressed bodies: 900 bytes each, synced' record
}

# Starts the program with the policy and waits until it is open; sets node (PID) and admin (URL).
start_node() { # TRANSPORT
	BENCH_TRANSPORT=$1 BENCH_LISTEN=127.0.0.1:0 BENCH_DIR=$dir TAILRACE_LOG=info \
		"$build/tailrace" run --policy "$here/hook_transport.lua" --workers 1 >"$dir/node.out" 2>"$dir/node.log" &
	node=$!
	started $node
	wait_line "$dir/node.log" '/initialization complete/p' 'the node' >/dev/null
	admin=http://$(sed -n 's/.*http listener \([0-9.:]*\).*/\1/p' "$dir/node.log" | head -n 1)
}

# One row: N records that wait reach the sink. Call it with `begin` noted and the sink started.
took() { # NAME N
	wait_end $sink 600 'the sink'
	end=$(now_s)
	result "$1" "$(awk -v n="$2" -v b="$begin" -v e="$end" 'BEGIN { print n / (e - b) }')" \
		"$(awk -v n="$2" -v c="$(cpu_of $node)" -v b="$cpu" 'BEGIN { print (c - b) * 1e6 / n }')"
	end_process $node
}

# A spool of records that wait for an endpoint that is not there.
fill_spool() { # PORT N
	rm -rf "$dir/spool"
	BENCH_DIR=$dir BENCH_TRANSPORT=http BENCH_BATCH=100 BENCH_URL=http://127.0.0.1:$1/log TAILRACE_LOG=error \
		"$build/hook_bench" fill --policy "$here/hook_transport.lua" --count "$2" >"$dir/fill.out" 2>"$dir/fill.log"
}

# Waits until so many records of the node have become dead letters.
wait_letters() { # N
	tries=0
	until curl -s "$admin/metrics" | grep -q "^tailrace_dead_letters $1\$"; do
		tries=$((tries + 1))
		[ $tries -lt 240 ] || { say "there are not $1 dead letters after 2 minutes"; return 1; }
		sleep 0.5
	done
}

bench_replay() {
	count=1000000
	! $quick || count=100000
	export BENCH_BATCH=100
	for _ in $(seq "$rounds"); do
		start_sink --http 127.0.0.1:0 --until $count --idle-exit 100
		export BENCH_URL=http://$sink_http/log
		fill_spool "$(free_port)" $count
		cpu=0 begin=$(now_s)
		start_node http
		took 'first delivery of what waited' $count

		fill_spool "$(free_port)" $count
		start_node dead
		wait_letters $count
		end_process $node
		start_sink --http 127.0.0.1:0 --until $count --idle-exit 100
		export BENCH_URL=http://$sink_http/log
		start_node http
		cpu=$(cpu_of $node) begin=$(now_s)
		"$build/tailrace" dead replay --admin "$admin" --all >"$dir/replay.out" 2>&1
		took 'replay of dead letters' $count
	done
	unset BENCH_URL BENCH_BATCH
	rm -rf "$dir/spool"
	table 'Dead letters: batches of 100' record
}
