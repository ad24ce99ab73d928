#!/bin/sh
# The main job on a bare Debian 12: installs, builds, and runs mail through Tailrace with webhooks.
#   sh examples/quickstart.sh          runs and ends by itself, exit 0
#   sh examples/quickstart.sh --keep   leaves it running, with commands to try
set -eu
cd "$(dirname "$0")/.."
keep=false
case ${1:-} in
--keep) keep=true ;;
'') ;;
*) echo "usage: sh examples/quickstart.sh [--keep]" >&2; exit 64 ;;
esac

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say '1. Install and build'
sh .ci/install build
cmake --preset release >/dev/null
cmake --build build/release --target tailrace
tailrace=$PWD/build/release/tailrace

dir=$(mktemp -d "${TMPDIR:-/tmp}/tailrace.XXXXXX")
sink= run=
cleanup() {
	status=$?
	trap - EXIT INT TERM
	[ -z "$run" ] || kill "$run" 2>/dev/null || true
	[ -z "$sink" ] || kill "$sink" 2>/dev/null || true
	wait 2>/dev/null || true
	[ $status = 0 ] || { echo "--- $dir/run.log"; cat "$dir/run.log" 2>/dev/null || true; }
	rm -rf "$dir"
	exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Waits until FILE has a line that matches PATTERN, and prints the part in its group.
wait_line() { # FILE SED-EXPRESSION WHAT
	n=0
	while :; do
		found=$(sed -n "$2" "$1" 2>/dev/null | head -n 1)
		[ -z "$found" ] || { printf '%s' "$found"; return; }
		n=$((n + 1))
		[ $n -lt 200 ] || { echo "$3 did not start within 20 s" >&2; return 1; }
		sleep 0.1
	done
}

say '2. Start a webhook endpoint, a next hop, and Tailrace between them'
"$tailrace" sink --http 127.0.0.1:0 --smtp 127.0.0.1:0 --show --quiet >"$dir/sink.log" 2>&1 &
sink=$!
http=$(wait_line "$dir/sink.log" 's/^listening http //p' 'the endpoint')
smtp=$(wait_line "$dir/sink.log" 's/^listening smtp //p' 'the next hop')
export TAILRACE_DIR="$dir" TAILRACE_WEBHOOK="http://$http/log" TAILRACE_NEXT_HOP="$smtp"
if $keep; then
	export TAILRACE_SMTP=127.0.0.1:2525 TAILRACE_HTTP=127.0.0.1:8000
else
	export TAILRACE_SMTP=127.0.0.1:0 TAILRACE_HTTP=127.0.0.1:0
fi
"$tailrace" run --policy examples/quickstart.lua --ledger >"$dir/ledger.txt" 2>"$dir/run.log" &
run=$!
wait_line "$dir/run.log" 's/.*initialization complete.*/ready/p' 'tailrace run' >/dev/null || exit 1
intake=$(wait_line "$dir/run.log" 's/.*esmtp listener \([0-9.:]*\).*/\1/p' 'the ESMTP listener')
api=$(wait_line "$dir/run.log" 's/.*http listener \([0-9.:]*\).*/\1/p' 'the HTTP listener')
echo "mail in:   smtp://$intake and http://$api/api/inject/v1"
echo "next hop:  smtp://$smtp"
echo "webhooks:  $TAILRACE_WEBHOOK"

say '3. Send three mails; each is received and delivered, so six events go to the webhook'
"$tailrace" inject --smtp "$intake" --from news@shop.example --to 'customer%d@example.org' examples/mail/*.eml
n=0
while [ "$(grep -c -E 'Reception|Delivery|mail  ' "$dir/sink.log")" -lt 9 ]; do
	n=$((n + 1))
	[ $n -lt 300 ] || { cat "$dir/sink.log"; echo 'not everything arrived within 30 s' >&2; exit 1; }
	sleep 0.1
done
grep -v '^listening' "$dir/sink.log"

if $keep; then
	say 'It keeps running. Try, in another terminal:'
	cat <<TEXT
  swaks --server $intake --to you@example.org --header 'X-Customer-ID: 42'
  curl -s http://$api/api/inject/v1 -H 'Content-Type: application/json' -d \\
    '{"envelope_sender":"me@example.org","recipients":[{"email":"you@example.org"}],"content":"Subject: hi\\r\\n\\r\\nhello"}'
  curl -s http://$api/metrics | grep -E 'scheduled_count|total_messages'
  curl -s http://$api/api/tailrace/ledger
  $tailrace inject --smtp $intake --count 10000
  zstdcat $dir/logs/*
Webhooks and mails appear below as they arrive. Ctrl-C ends it.
TEXT
	tail -n 0 -f "$dir/sink.log"
	exit 0
fi

say '4. Stop in order, and compare what came with what became of it'
kill -TERM "$run"
wait "$run"
run=
cat "$dir/ledger.txt"
say 'Done: everything accepted is accounted for.'
