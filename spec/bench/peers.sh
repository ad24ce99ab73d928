# Event shippers of others, which read the records from $dir/lines: syslog-ng and rsyslog. Sourced by run.sh.
# shellcheck shell=sh disable=SC2154

# Starts syslog-ng with a destination; sets shipper (PID) and begin.
start_syslog_ng() { # DESTINATION
	peer_dir=$dir/syslog-ng
	rm -rf "$peer_dir"
	mkdir -p "$peer_dir/buffer"
	cat >"$peer_dir/conf" <<CONF
@version: 3.38
options { stats-freq(0); time-reopen(1); };
source s { file("$dir/lines" flags(no-parse) follow-freq(0.1) log-fetch-limit(1000) log-iw-size(10000)); };
destination d { $1 };
log { source(s); destination(d); flags(flow-control); };
CONF
	begin=$(now_s)
	syslog-ng -F --no-caps -f "$peer_dir/conf" -R "$peer_dir/persist" -c "$peer_dir/ctl" -p "$peer_dir/pid" \
		>"$dir/syslog-ng.log" 2>&1 &
	shipper=$!
	started $shipper
}

# The row of what a shipper has done since `begin`; ends it.
shipped() { # NAME RECORDS
	end=$(now_s)
	cpu=$(cpu_of $shipper)
	end_process $shipper
	result "$1" "$(awk -v n="$2" -v b="$begin" -v e="$end" 'BEGIN { print n / (e - b) }')" \
		"$(awk -v n="$2" -v c="$cpu" 'BEGIN { print c * 1e6 / n }')"
}

# Waits until COMMAND..., which prints how many have come, says RECORDS.
wait_arrived() { # RECORDS COMMAND...
	expected=$1 tries=0
	shift
	until [ "$("$@")" = "$expected" ]; do
		tries=$((tries + 1))
		[ $tries -lt 6000 ] || { say "$expected records did not arrive within 10 minutes"; return 1; }
		sleep 0.1
	done
}

# The disk buffer writes each record but does not sync; without it they are in memory only.
syslog_ng_http() { # NAME RECORDS WORKERS BATCH(0: none) disk|memory
	have syslog-ng || return 0
	start_sink --http 127.0.0.1:0 --until "$2" --idle-exit 100
	options='body("$MSG")'
	[ "$4" = 0 ] || options='body("$MSG") batch-lines('$4') batch-timeout(100) delimiter(",") body-prefix("[") body-suffix("]")'
	[ "$5" = memory ] || options="$options disk-buffer(reliable(yes) disk-buf-size(4000000000) mem-buf-size(67108864)
		dir(\"$dir/syslog-ng/buffer\"))"
	start_syslog_ng "http(url(\"http://$sink_http/log\") method(\"POST\") headers(\"Content-Type: application/json\")
		workers($3) $options);"
	wait_end $sink 300 'syslog-ng'
	shipped "$1" "$2"
	rm -rf "$dir/syslog-ng"
}

# amqp() neither waits for confirms nor asks for returns: what it has written to the socket is done.
syslog_ng_amqp() { # NAME RECORDS PORT QUEUE
	[ -e /usr/lib/syslog-ng/3.38/libafamqp.so ] || return 0
	"$build/amqp_bench" purge 127.0.0.1 "$3" "$4" >"$dir/amqp.out"
	start_syslog_ng "amqp(host(\"127.0.0.1\") port($3) vhost(\"/\") username(\"guest\") password(\"guest\") exchange(\"\")
		exchange-type(\"direct\") routing-key(\"$4\") body(\"\$MSG\") persistent(yes) value-pairs(key(\"PROGRAM\")));"
	wait_arrived "$2" "$build/amqp_bench" count 127.0.0.1 "$3" "$4"
	shipped "$1" "$2"
	"$build/amqp_bench" purge 127.0.0.1 "$3" "$4" >"$dir/amqp.out"
	rm -rf "$dir/syslog-ng"
}

# Debian's rsyslog cannot be installed beside syslog-ng: its packages are only unpacked. Sets rsyslog (the root).
unpack_rsyslog() {
	rsyslog=$dir/rsyslog-root
	[ ! -e "$rsyslog" ] || return 0
	mkdir -p "$dir/rsyslog-debs" "$rsyslog"
	(cd "$dir/rsyslog-debs" && apt-get download -q rsyslog rsyslog-kafka libestr0 libfastjson4 &&
		for deb in *.deb; do dpkg -x "$deb" "$rsyslog"; done) >"$dir/rsyslog-get.out" 2>&1 || {
		say 'rsyslog: its packages cannot be had: left out'
		rm -rf "$rsyslog"
		return 1
	}
}

# From a queue in memory; the settings of librdkafka are ours.
rsyslog_kafka() { # NAME RECORDS BOOTSTRAP TOPIC
	unpack_rsyslog || return 0
	peer_dir=$dir/rsyslog libraries=$(echo "$rsyslog"/usr/lib/*-linux-gnu)
	rm -rf "$peer_dir"
	mkdir -p "$peer_dir"
	cat >"$peer_dir/conf" <<CONF
global(workDirectory="$peer_dir")
module(load="imfile")
module(load="omkafka")
template(name="raw" type="string" string="%msg%")
input(type="imfile" file="$dir/lines" tag="bench" ruleset="out")
ruleset(name="out" queue.type="LinkedList" queue.size="100000" queue.dequeuebatchsize="1000") {
	action(type="omkafka" broker=["$(echo "$3" | sed 's/,/","/g')"] topic="$4" template="raw" partitions.auto="on"
		confParam=["enable.idempotence=true", "acks=all", "linger.ms=5", "message.timeout.ms=30000"])
}
CONF
	begin=$(now_s)
	LD_LIBRARY_PATH=$libraries "$rsyslog/usr/sbin/rsyslogd" -n -f "$peer_dir/conf" -i "$peer_dir/pid" -M "$libraries/rsyslog" \
		>"$dir/rsyslog.log" 2>&1 &
	shipper=$!
	started $shipper
	wait_arrived "$2" "$build/kafka_bench" count "$3" "$4"
	shipped "$1" "$2"
	rm -rf "$peer_dir"
}
