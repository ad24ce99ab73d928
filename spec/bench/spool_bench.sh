# The log alone, and other stores doing the same. Sourced by run.sh.
# shellcheck shell=sh disable=SC2154

# All stores put and delete as many records a synced commit as our pace made (the smaller of 1000 and that).
spool_stores() { # COUNT BYTES BATCH BACKLOG SUFFIX
	for store in append lmdb rocksdb; do
		status=0
		line=$(TMPDIR=$dir "$build/store_bench" $store "$1" "$2" "$3" "$4") || status=$?
		[ $status != 69 ] || continue # not compiled in
		[ $status = 0 ] || return 1
		result_line "$store, $3 a commit$5" "$line"
	done
}

spool_row() { # COUNT BYTES BACKLOG TITLE
	for _ in $(seq "$rounds"); do
		for backlog in 0 $3; do
			suffix=
			[ "$backlog" = 0 ] || suffix=', after a backlog'
			line=$(TMPDIR=$dir "$build/spool_bench" "$1" "$2" "$backlog")
			each=$(value_of records_per_sync "$line" | sed 's/\..*//')
			[ "$each" -le 1000 ] || each=1000
			[ "$each" -ge 1 ] || each=1
			# one batch size in all rounds, so that the rows are the same ones
			eval "batch=\${batch_$2:=$each}"
			result_line "tailrace spool$suffix" "$line" "records a sync $(value_of records_per_sync "$line")"
			spool_stores "$1" "$2" "$batch" "$backlog" "$suffix"
		done
	done
	table "$4" record
}

bench_spool() {
	if $quick; then
		spool_row 200000 900 '' 'Spool: 900 bytes, put and done, synced'
		spool_row 10000 10240 '' 'Spool: 10 KB, put and done, synced'
		return
	fi
	spool_row 1000000 900 1000000 'Spool: 900 bytes, put and done, synced; backlog of 1,000,000'
	spool_row 50000 10240 100000 'Spool: 10 KB, put and done, synced; backlog of 100,000'
	spool_row 5000 102400 10000 'Spool: 100 KB, put and done, synced; backlog of 10,000'
	spool_row 500 1048576 1000 'Spool: 1 MB, put and done, synced; backlog of 1,000'
}
