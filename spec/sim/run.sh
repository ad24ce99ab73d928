#!/bin/sh
# The simulation for about so many seconds: sh spec/sim/run.sh [SECONDS] [PRESET]. First the seeds that found something
# (spec/sim/seeds), then a fixed set, each run twice to see that it repeats itself, then fresh seeds until the time is over.
# The first fresh seed is printed; with SIM_SEED=N it is N. A fresh one that fails is a finding, printed with the command that
# repeats it, and mostly no failure of the change at hand: the status is 1 only with SIM_STRICT=yes, as in a soak. So that a
# finding is not lost in a long log that ends well, it also goes to the file SIM_FINDINGS, which CI prints at its end.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-60}
sim=${TAILRACE_SIM:-build/${2:-release}/tailrace-sim}
end=$(($(date +%s) + seconds))
status=0
while read -r seed days what; do
	case $seed in '' | '#'*) continue ;; esac
	"$sim" --seed "$seed" --days "$days" >/dev/null 2>&1 || {
		echo "seed $seed, kept for: $what"
		"$sim" --seed "$seed" --days "$days" || status=1
	}
done <spec/sim/seeds
"$sim" --seed 1 --runs 3 --days 2 --twice || status=1
left=$((end - $(date +%s)))
[ "$left" -gt 0 ] || left=1
fresh=${SIM_SEED:-$(($(date +%s) % 10000000 * 100))}
said=$(mktemp "${TMPDIR:-/tmp}/tailrace-sim-said.XXXXXX")
trap 'rm -f "$said"' EXIT
"$sim" --seed "$fresh" --days 3 --minutes "$(awk "BEGIN { print $left / 60 }")" >"$said" || {
	echo 'A FRESH SEED HAS FOUND SOMETHING: mend it, and keep the seed in spec/sim/seeds' >>"$said"
	grep -E '^(FAILED|WRONG|again:|A FRESH)' "$said" >>"${SIM_FINDINGS:-/dev/null}"
	[ "${SIM_STRICT:-no}" = no ] || status=1
}
cat "$said"
exit $status
