#!/bin/sh
# The benchmarks: sh spec/bench/run.sh [--quick] [--rounds N] [NAME ...]
#   hook     one record a request, beside a plain libcurl loop and syslog-ng
#   batch    a hundred records a request, beside the same
#   checks   the cost of checksums and assertions: a build without them
#   workers  the two above with one and two workers
#   relay    10 KB mail, without a hook, with one, with one that hangs; beside Postfix and no relay at all
#   backlog  records waiting for a dead endpoint: memory, recovery, drain rate, order
#   spool    the log alone, beside append + fdatasync, LMDB and RocksDB
#   gzip     a thousand records a request, bodies compressed or not
#   kafka    batches to a mock cluster in a process of its own, beside a plain librdkafka loop and rsyslog
#   amqp     batches to RabbitMQ, beside a plain rabbitmq-c loop with the same window and syslog-ng
#   nats     batches to JetStream, beside libnats alone
#   replay   dead letters on their second way, beside their first
#   http     our HTTP client beside a plain libcurl loop, no queue
#   record   encoding a record
#   throttle decisions of a throttle, and how true it is to its rate
#   shaping  loading shaping files, resolving paths
#   days     two days of retries of 1,000 records on the virtual clock
# Without names: all. Builds build/release first; BENCH_BUILD names another build directory, which is not built.
# Peers that are not installed are left out: sh .ci/install bench installs them.
set -eu
cd "$(dirname "$0")/../.."
here=spec/bench

all='record throttle shaping days http spool hook batch checks gzip kafka amqp nats replay workers relay backlog'
names= quick=false rounds=
while [ $# -gt 0 ]; do
	case $1 in
	--quick) quick=true ;;
	--rounds) rounds=${2:?--rounds N}; shift ;;
	record | throttle | shaping | days | http | spool | hook | batch | checks | gzip | kafka | amqp | nats | replay | workers | relay | backlog)
		names="$names $1" ;;
	*) sed -n '2,20s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
	esac
	shift
done
[ -n "$names" ] || names=$all
if $quick; then rounds=${rounds:-1}; else rounds=${rounds:-3}; fi

if [ -n "${BENCH_BUILD:-}" ]; then
	build=$PWD/$BENCH_BUILD
	case $BENCH_BUILD in /*) build=$BENCH_BUILD ;; esac
else
	build=$PWD/build/release
	sh .ci/install build
	cmake --preset release >/dev/null
	cmake --build build/release --target tailrace hook_bench http_bench record_bench throttle_bench spool_bench store_bench order_sink \
		kafka_bench amqp_bench nats_bench >&2
fi

dir=$(mktemp -d "${TMPDIR:-/tmp}/tailrace-bench.XXXXXX")
chmod 755 "$dir"
: >"$dir/results"
. $here/lib.sh
. $here/peers.sh
. $here/hook_bench.sh
. $here/transport_bench.sh
. $here/relay_bench.sh
. $here/backlog_bench.sh
. $here/spool_bench.sh
trap cleanup EXIT
trap 'exit 130' INT TERM

bench_record() {
	printf '\nEncoding a record\n'
	if $quick; then "$build/record_bench" 100000; else "$build/record_bench"; fi
}

bench_throttle() {
	printf '\nThrottles in this process\n'
	"$build/throttle_bench" local $($quick && echo 2 || echo 20)
	printf '\nHow true they are, over %s s of real time, with a bucket that was empty at the start\n' $($quick && echo 2 || echo 10)
	"$build/throttle_bench" accuracy $($quick && echo 2 || echo 10)
	if command -v redis-server >/dev/null; then
		printf '\nThrottles through Redis on a Unix socket, one worker beside a plain hiredis loop\n'
		redis-server --port 0 --unixsocket "$dir/redis.sock" --save '' --dir "$dir" >/dev/null &
		redis=$!
		started $redis
		until [ -S "$dir/redis.sock" ]; do sleep 0.1; done
		"$build/throttle_bench" redis "unix:$dir/redis.sock" $($quick && echo 30 || echo 200)
		end_process $redis
	fi
}

bench_shaping() {
	printf '\nShaping files: goals are 1 s for 10,000 sections and 1 us for a path that has been asked for\n'
	"$build/tailrace" lua $here/shaping_bench.lua
}

bench_days() {
	printf '\nTwo simulated days of retries of 1,000 records (kumo.test): the goal is under 2 s\n'
	for _ in $(seq "$rounds"); do
		"$build/tailrace" lua $here/two_days.lua
	done
}

bench_http() {
	requests=200000
	! $quick || requests=30000
	for _ in $(seq "$rounds"); do
		start_sink --http 127.0.0.1:0
		"$build/http_bench" "http://$sink_http/" $requests 10 >"$dir/http.out"
		for who in plain ours; do
			result "$who" "$(http_rate $who)" "$(http_cpu $who)"
		done
		end_process $sink
	done
	table 'HTTP client alone: POST of 900 bytes, 10 connections' request
}

printf '%s, %s cores of %s, load average %s\n' "$(uname -sr)" "$(nproc)" \
	"$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1)" "$(cut -d ' ' -f 1 /proc/loadavg)"
for name in $names; do
	"bench_$name"
done
