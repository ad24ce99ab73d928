# Mail through a relay: smtp-source -> relay -> smtp-sink, 20 sessions, 10 KB. Sourced by run.sh.
# shellcheck shell=sh disable=SC2154

mail_bytes=10240

# The next hop: ends by itself after COUNT mails. Sets hop (PID) and hop_port.
start_next_hop() { # COUNT
	hop_port=$(free_port)
	smtp-sink -u nobody -M "$1" "127.0.0.1:$hop_port" 1000 >"$dir/smtp-sink.log" 2>&1 &
	hop=$!
	started $hop
	wait_listen "$hop_port" smtp-sink
}

# Sends COUNT mails and waits until the next hop has all of them. Sets seconds; cpu is read by the caller.
send_mail() { # COUNT PORT
	begin=$(now_s)
	smtp-source -d -s 20 -m "$1" -l $mail_bytes -f sender@shop.example -t customer@example.org "127.0.0.1:$2" \
		>"$dir/smtp-source.log" 2>&1 ||
		[ "$2" = "$hop_port" ] || { say 'smtp-source failed'; return 1; } # the next hop itself hangs up after the last mail
	wait_end $hop 300 'the next hop'
	seconds=$(awk -v b="$begin" -v e="$(now_s)" 'BEGIN { print e - b }')
}

relay_result() { # NAME COUNT CPU_BEFORE CPU_AFTER [NOTE]
	result "$1" "$(awk -v n="$2" -v s="$seconds" 'BEGIN { print n / s }')" \
		"$(awk -v n="$2" -v a="$3" -v b="$4" 'BEGIN { print (b - a) * 1e6 / n }')" "${5:-}"
}

relay_direct() { # COUNT
	start_next_hop "$1"
	send_mail "$1" "$hop_port"
	relay_result 'no relay: smtp-source to smtp-sink' "$1" 0 0
}

# hook: none, webhook, hang; two: webhook, and another hook whose endpoint answers; beside: ... hangs. The time of those two is
# until the first hook has told everything.
relay_tailrace() { # COUNT HOOK NAME
	rm -rf "$dir/spool"
	unset BENCH_URL BENCH_DEAD_URL
	endpoint= dead=
	if [ "$2" = beside ] || [ "$2" = two ]; then
		hang=
		[ "$2" = two ] || hang=--hang
		# shellcheck disable=SC2086
		start_sink --http 127.0.0.1:0 $hang
		export BENCH_DEAD_URL="http://$sink_http/log"
		dead=$sink
	fi
	case $2 in
	webhook | two | beside) start_sink --http 127.0.0.1:0 --until $(($1 * 2)) --idle-exit 100 ;;
	hang) start_sink --http 127.0.0.1:0 --hang ;;
	esac
	[ "$2" = none ] || { export BENCH_URL="http://$sink_http/log"; endpoint=$sink; }
	start_next_hop "$1"
	: >"$dir/relay.log" # else the lines of the run before could be taken for those of this one
	BENCH_DIR=$dir BENCH_NEXT_HOP=127.0.0.1:$hop_port "$build/tailrace" run --policy $here/relay.lua --stop-timeout 10 --ledger \
		--log warn,run=info,smtp=info,listener=info,ingress=info,smtp_server=info >"$dir/ledger.out" 2>"$dir/relay.log" &
	relay=$!
	started $relay
	wait_line "$dir/relay.log" 's/.*initialization complete.*/ready/p' 'tailrace run' >/dev/null
	port=$(wait_line "$dir/relay.log" 's/.*esmtp listener [0-9.]*:\([0-9]*\).*/\1/p' 'the listener')
	wait_quiet $relay
	before=$(cpu_of $relay)
	send_mail "$1" "$port"
	if [ "$2" != none ] && [ "$2" != hang ]; then # the events are part of the work, and of its time
		wait_end $endpoint 120 'the webhook'
		seconds=$(awk -v b="$begin" -v e="$(now_s)" 'BEGIN { print e - b }')
	fi
	after=$(cpu_of $relay)
	kill -TERM $relay
	wait $relay || { say 'tailrace run: it did not end well, or the ledger does not balance'; cat "$dir/ledger.out" >&2; return 1; }
	[ "$2" != hang ] || end_process $endpoint KILL
	[ -z "$dead" ] || end_process "$dead" KILL
	relay_result "$3" "$1" "$before" "$after"
	rm -rf "$dir/spool"
}

# --- Postfix as a relay, with a configuration, queue and data directory of its own -----------------------------------

postfix_dir=

postfix_stop() {
	[ -z "$postfix_dir" ] || postfix -c "$postfix_dir/etc" stop >/dev/null 2>&1 || true
	[ -z "$postfix_dir" ] || rm -rf "$postfix_dir"
	postfix_dir=
}

postfix_start() { # LISTEN_PORT NEXT_HOP_PORT
	postfix_dir=$dir/postfix
	mkdir -p "$postfix_dir/etc" "$postfix_dir/queue" "$postfix_dir/data"
	chown postfix "$postfix_dir/data"
	cat >"$postfix_dir/etc/main.cf" <<CONF
compatibility_level = 3.6
queue_directory = $postfix_dir/queue
data_directory = $postfix_dir/data
multi_instance_name = postfix-tailrace-bench
myhostname = relay.example
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
local_recipient_maps =
relayhost = [127.0.0.1]:$2
disable_dns_lookups = yes
smtpd_peername_lookup = no
smtpd_recipient_restrictions = permit_mynetworks, reject
smtpd_client_connection_count_limit = 0
default_process_limit = 100
default_destination_concurrency_limit = 20
initial_destination_concurrency = 20
CONF
	cat >"$postfix_dir/etc/master.cf" <<CONF
127.0.0.1:$1 inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
CONF
	postfix -c "$postfix_dir/etc" start >"$dir/postfix.log" 2>&1
	wait_listen "$1" Postfix
	postfix_master=$(tr -d ' ' <"$postfix_dir/queue/pid/master.pid")
}

relay_postfix() { # COUNT
	have postfix && [ "$(id -u)" = 0 ] || return 0
	start_next_hop "$1"
	port=$(free_port)
	postfix_start "$port" "$hop_port"
	before=$(cpu_of_tree "$postfix_master")
	send_mail "$1" "$port"
	after=$(cpu_of_tree "$postfix_master")
	relay_result 'Postfix' "$1" "$before" "$after"
	postfix_stop
}

bench_relay() {
	have smtp-source || { say 'relay: smtp-source and smtp-sink are missing (package postfix)'; return 0; }
	PATH=$PATH:/usr/sbin
	mails=20000 postfix_mails=10000
	! $quick || { mails=3000 postfix_mails=2000; }
	for _ in $(seq "$rounds"); do
		relay_tailrace $mails none 'tailrace, no hook'
		relay_tailrace $mails webhook 'tailrace, webhook (2 events a mail)'
		relay_tailrace $mails hang 'tailrace, the webhook hangs'
		relay_tailrace $mails two 'tailrace, two webhooks'
		relay_tailrace $mails beside 'tailrace, two webhooks, the second hangs'
		relay_postfix $postfix_mails
		relay_direct $mails
	done
	table 'Relay of 10 KB mail, 20 sessions' mail
}
