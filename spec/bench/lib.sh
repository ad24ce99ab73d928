# Shared by the benches: processes, what they cost, and tables. Sourced by run.sh, which sets build, dir, quick and rounds.
# shellcheck shell=sh

pids=''    # what cleanup() has to end
ticks=$(getconf CLK_TCK)

say() { printf '%s\n' "$*" >&2; }

have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

started() { pids="$pids $1"; }

# Ends a process that we started, and waits for it.
end_process() { # PID [SIGNAL]
	kill "-${2:-TERM}" "$1" 2>/dev/null || true
	wait "$1" 2>/dev/null || true
}

cleanup() {
	status=$?
	trap - EXIT INT TERM
	postfix_stop 2>/dev/null || true
	for pid in $pids; do kill "$pid" 2>/dev/null || true; done
	wait 2>/dev/null || true
	[ $status = 0 ] || for log in "$dir"/*.log; do
		[ -s "$log" ] && { say "--- $log"; tail -n 20 "$log" >&2; }
	done
	rm -rf "$dir"
	exit $status
}

# Waits until FILE has a line that the sed expression prints, and prints that.
wait_line() { # FILE SED-EXPRESSION WHAT
	tries=0
	while :; do
		found=$(sed -n "$2" "$1" 2>/dev/null | head -n 1)
		[ -z "$found" ] || { printf '%s' "$found"; return; }
		tries=$((tries + 1))
		[ $tries -lt 600 ] || { say "$3 did not come within 60 s"; return 1; }
		sleep 0.1
	done
}

# Waits until a port of IPv4 is listened on, without connecting to it.
wait_listen() { # PORT WHAT
	tries=0
	until grep -qi ":$(printf '%04X' "$1") 00000000:0000 0A" /proc/net/tcp; do
		tries=$((tries + 1))
		[ $tries -lt 200 ] || { say "$2 does not listen"; return 1; }
		sleep 0.05
	done
}

# Waits for a process that ends by itself, at most SECONDS.
wait_end() { # PID SECONDS WHAT
	tries=0
	while kill -0 "$1" 2>/dev/null; do
		tries=$((tries + 1))
		[ $tries -lt $(($2 * 50)) ] || { say "$3 is not done after $2 s"; return 1; }
		sleep 0.02
	done
	wait "$1"
}

# The endpoint; sets sink (PID), sink_http, sink_smtp. Arguments: those of `tailrace sink`.
start_sink() {
	: >"$dir/sink.out"
	"$build/tailrace" sink "$@" --json >"$dir/sink.out" 2>"$dir/sink.log" &
	sink=$!
	started $sink
	wait_line "$dir/sink.out" '/^listening/p' 'the sink' >/dev/null
	sink_http=$(sed -n 's/^listening http //p' "$dir/sink.out")
	sink_smtp=$(sed -n 's/^listening smtp //p' "$dir/sink.out")
}

# A port of 127.0.0.1 that was free a moment ago, for programs that cannot choose one themselves.
free_port() {
	: >"$dir/port.out"
	"$build/tailrace" sink --http 127.0.0.1:0 --quiet >"$dir/port.out" 2>&1 &
	port_pid=$!
	wait_line "$dir/port.out" 's/^listening http .*:\([0-9]*\)$/\1/p' 'a port'
	end_process $port_pid
}

now_s() { date +%s.%N; }

# CPU seconds that a process has used, its ended children included.
cpu_of() { # PID
	sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk -v t="$ticks" '{ printf "%.2f", ($12 + $13 + $14 + $15) / t }'
}

# The same of a process and all its living children.
cpu_of_tree() { # PID
	{
		sed 's/.*) //' "/proc/$1/stat"
		for stat in /proc/[0-9]*/stat; do
			sed 's/.*) //' "$stat" 2>/dev/null | awk -v parent="$1" '$2 == parent'
		done
	} | awk -v t="$ticks" '{ sum += $12 + $13 + $14 + $15 } END { printf "%.2f", sum / t }'
}

# Waits until a process rests: a fresh log fills segments with zeros at the start, once, and that is no part of a mail.
wait_quiet() { # PID
	quiet_cpu=$(cpu_of "$1") quiet_for=0 tries=0
	while [ $quiet_for -lt 5 ] && [ $tries -lt 300 ]; do
		sleep 0.1
		quiet_now=$(cpu_of "$1") quiet_for=$((quiet_for + 1)) tries=$((tries + 1))
		[ "$quiet_now" = "$quiet_cpu" ] || quiet_for=0
		quiet_cpu=$quiet_now
	done
}

# The value of KEY in a line of key=value.
value_of() { # KEY LINE
	printf '%s\n' "$2" | tr ' ' '\n' | sed -n "s/^$1=//p" | head -n 1
}

# One measured run: a line of the table. The table shows medians over the rounds.
result() { # NAME RATE CPU_US [NOTE]
	printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "${4:-}" >>"$dir/results"
	printf '  %-44s %10.0f/s %10.2f us\n' "$1" "$2" "$3" >&2
}

result_line() { # NAME LINE [NOTE]: from key=value
	result "$1" "$(value_of rate "$2")" "$(value_of cpu_us "$2")" "${3:-}"
}

# Prints the results since the last table; the ratio is to the CPU of the first row.
table() { # TITLE UNIT
	printf '\n%s\n' "$1"
	printf '%-44s %22s %24s %6s\n' '' "$2/s [min..max]" "CPU us/$2 [min..max]" ratio
	awk -F '\t' '
		function median(list, n,  i, j, swap) {
			for (i = 2; i <= n; i++)
				for (j = i; j > 1 && list[j - 1] > list[j]; j--) {
					swap = list[j]; list[j] = list[j - 1]; list[j - 1] = swap
				}
			low = list[1]; high = list[n]
			return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
		}
		!($1 in count) { order[++names] = $1 }
		{ n = ++count[$1]; rate[$1, n] = $2 + 0; cpu[$1, n] = $3 + 0; if ($4 != "") note[$1] = $4 }
		END {
			for (i = 1; i <= names; i++) {
				name = order[i]
				for (j = 1; j <= count[name]; j++) { r[j] = rate[name, j]; c[j] = cpu[name, j] }
				m = median(r, count[name])
				rates = sprintf("%.0f [%.0f..%.0f]", m, low, high)
				m = median(c, count[name])
				cpus = sprintf("%.2f [%.2f..%.2f]", m, low, high)
				if (i == 1) base = m
				printf "%-44s %22s %24s %6.2f\n", name, rates, cpus, (base > 0 ? m / base : 0)
				if (note[name] != "") printf "    %s\n", note[name]
			}
		}' "$dir/results"
	: >"$dir/results"
}

postfix_stop() { :; } # relay_bench.sh has the real one
