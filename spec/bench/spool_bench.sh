# The log alone, and other stores doing the same. Sourced by run.sh.
# shellcheck shell=sh disable=SC2154

# Other stores put and delete as many records a synced commit as our pace makes of them.
spool_stores() { # COUNT BYTES BATCH BACKLOG TITLE
	for _ in $(seq "$rounds"); do
		for store in append lmdb rocksdb; do
			for backlog in 0 $4; do
				suffix=
				[ "$backlog" = 0 ] || suffix=", after a backlog of $backlog"
				status=0
				line=$(TMPDIR=$dir "$build/store_bench" $store "$1" "$2" "$3" "$backlog") || status=$?
				[ $status != 69 ] || continue # not compiled in
				[ $status = 0 ] || return 1
				result_line "$store$suffix" "$line"
			done
		done
	done
	table "Other stores: $5, put and deleted, $3 a synced commit" record
}

bench_spool() {
	records=1000000
	! $quick || records=200000
	printf '\nThe log alone, and the same bytes appended with fdatasync (raw)\n'
	for _ in $(seq "$rounds"); do
		TMPDIR=$dir "$build/spool_bench" $records
	done
	if $quick; then
		spool_stores 200000 900 1000 '' '900 bytes'
		spool_stores 10000 10240 300 '' '10 KB'
		return
	fi
	spool_stores 1000000 900 1000 1000000 '900 bytes'
	spool_stores 50000 10240 300 100000 '10 KB'
	spool_stores 5000 102400 30 10000 '100 KB'
	spool_stores 500 1048576 3 1000 '1 MB'
}
