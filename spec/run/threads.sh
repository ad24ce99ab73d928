#!/bin/sh
# Mail through a server of two workers, by SMTP and HTTP at once, with webhooks and a next hop that now and then refuse: for
# a build with ThreadSanitizer, whose report ends a program with an error. sh spec/run/threads.sh; TAILRACE is the program.
set -eu
cd "$(dirname "$0")/../.."
dir=$(mktemp -d "${TMPDIR:-/tmp}/tailrace.XXXXXX")
sink= run=
cleanup() {
	status=$?
	trap - EXIT INT TERM
	[ -z "$run" ] || kill -KILL "$run" 2>/dev/null || true
	[ -z "$sink" ] || kill -KILL "$sink" 2>/dev/null || true
	wait 2>/dev/null || true
	[ $status = 0 ] || tail -n 200 "$dir"/*.log "$dir"/*.txt
	rm -rf "$dir"
	exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Waits until a line of FILE matches, and prints the part in its group; at most ten minutes.
wait_line() { # FILE SED-EXPRESSION WHAT
	n=0
	while :; do
		found=$(sed -n "$2" "$1" 2>/dev/null | head -n 1)
		[ -z "$found" ] || { printf '%s' "$found"; return; }
		n=$((n + 1))
		[ $n -lt 6000 ] || { echo "waited in vain for $3" >&2; return 1; }
		sleep 0.1
	done
}

"$TAILRACE" sink --http 127.0.0.1:0 --smtp 127.0.0.1:0 --record "$dir/got" --quiet >"$dir/sink.txt" 2>"$dir/sink.log" &
sink=$!
http=$(wait_line "$dir/sink.txt" 's/^listening http //p' 'the endpoint')
smtp=$(wait_line "$dir/sink.txt" 's/^listening smtp //p' 'the next hop')
sed "s/url = WEBHOOK,/& queue_config = { retry_interval = '1s', max_retry_interval = '1s' },/" examples/quickstart.lua >"$dir/policy.lua"
export TAILRACE_DIR="$dir" TAILRACE_WEBHOOK="http://$http/log" TAILRACE_NEXT_HOP="$smtp"
export TAILRACE_SMTP=127.0.0.1:0 TAILRACE_HTTP=127.0.0.1:0
"$TAILRACE" run --policy "$dir/policy.lua" --workers 2 --ledger >"$dir/ledger.txt" 2>"$dir/run.log" &
run=$!
wait_line "$dir/run.log" 's/.*initialization complete.*/ready/p' 'tailrace run' >/dev/null
intake=$(wait_line "$dir/run.log" 's/.*esmtp listener \([0-9.:]*\).*/\1/p' 'the ESMTP listener')
api=$(wait_line "$dir/run.log" 's/.*http listener \([0-9.:]*\).*/\1/p' 'the HTTP listener')

"$TAILRACE" inject --smtp "$intake" --count 300 --connections 8 --domain a.example --domain b.example --domain c.example --quiet &
by_smtp=$!
"$TAILRACE" inject --http "http://$api" --count 100 --connections 4 --size 100k --domain d.example --domain e.example --quiet
wait "$by_smtp"
n=0
while [ "$(grep -c '"body"' "$dir/got" || true)" -lt 800 ]; do # a Reception and a Delivery each
	curl -s "http://$api/metrics" >"$dir/metrics.txt" # figures are read while the workers write them
	curl -s "http://$api/api/tailrace/ledger" >/dev/null
	n=$((n + 1))
	[ $n -lt 3000 ] || { echo 'not everything arrived' >&2; exit 1; }
	sleep 0.2
done
kill -TERM "$run"
status=0
wait "$run" || status=$?
run=
if [ $status != 0 ] || grep -q 'Sanitizer\|does not balance' "$dir/run.log"; then
	exit 1
fi
kill -INT "$sink"
wait "$sink"
sink=
! grep 'Sanitizer' "$dir/sink.log"
echo "400 messages and 800 events through two workers"
