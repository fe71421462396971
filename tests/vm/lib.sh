# Shared by the scripts that run in guests: `. /test/lib.sh`.

# The claim does not hold: say why, and end.
fail() {
    echo "FAILED: $*"
    exit 1
}

# A limit of time was missed, and all else held: the test may be run once more.
slow() {
    echo "TOO SLOW: $*"
    exit 75
}

# Run a command that must succeed.
must() {
    "$@" || fail "\`$*\` ended with status $?"
}

# refused "WORD…" COMMAND…: the command fails, and its sentence has the words.
refused() {
    words=$1
    shift
    "$@" 2>/tmp/said && fail "\`$*\` succeeded"
    for word in $words; do
        grep -qF -- "$word" /tmp/said || fail "\`$*\` does not say $word: $(cat /tmp/said)"
    done
}

# Two jobs write and trim their halves of device 0, then read and compare, at least once and until
# there is /tmp/enough. How often they did stands in /tmp/passes.
fio_until_enough() {
    passes=0
    while [ ! -e /tmp/enough ] || [ $passes = 0 ]; do
        fio --name=halves --filename=/dev/ublkb0 --direct=1 --ioengine=io_uring --iodepth=32 \
            --numjobs=2 --size=16M --offset_increment=32M --refill_buffers --bsrange=4k-64k \
            --buffer_compress_percentage=60 --verify=crc32c --verify_fatal=1 \
            --rw=randtrimwrite --minimal >/tmp/fio.out 2>&1 || return 1
        passes=$((passes + 1))
        echo $passes >/tmp/passes
    done
}

# Run a command that must fail.
must_not() {
    ! "$@" || fail "\`$*\` succeeded"
}

# A figure for the table that the host prints: report KEY VALUE.
report() {
    echo "$*"
    echo "report $*" >/dev/ttyS1
}

# Seconds since boot, with two decimals.
now() {
    cut -d' ' -f1 /proc/uptime
}

# Seconds since an earlier `now`.
since() {
    awk -v from="$1" '{ printf "%.2f", $1 - from }' /proc/uptime
}

# wait_for SECONDS COMMAND…: until the command succeeds; 1 when it does not in that time.
wait_for() {
    left=$(($1 * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$left" -gt 0 ] || return 1
        left=$((left - 1))
        usleep 100000
    done
}

# The value of KEY in a line of key=value words: value_of KEY "LINE".
value_of() {
    echo "$2" | tr ' ' '\n' | sed -n "s/^$1=//p" | tail -n 1
}

# A counter of /proc/vmstat.
vmstat() {
    awk -v key="$1" '$1 == key { print $2 }' /proc/vmstat
}

# Let the kernel report a task that hangs for 20 s, and show what it says.
watch_for_hangs() {
    echo 20 >/proc/sys/kernel/hung_task_timeout_secs
    echo 10 >/proc/sys/kernel/hung_task_warnings
    dmesg -n 5
}

# The kernel's log holds no hang, no failed allocation of ours (reclaim on 7.x fails some of its own
# under pressure, on zram too, and goes on), no OOM kill, no I/O error, no warning.
kernel_is_content() {
    complaints=$(dmesg | grep -E 'blocked .*for more than|Out of memory|oom-kill|I/O error|Read-error|Write-error|BUG:|WARNING:|soft lockup|rcu.*stall|(trueno|ublk|maintenance)[^ ]*: page allocation failure')
    [ -z "$complaints" ] || fail "the kernel complains:
$complaints"
}

# A kernel zram device for comparison, its path in $zram: make_zram SIZE [ALGORITHM].
make_zram() {
    [ -e /sys/class/zram-control ] || must modprobe zram num_devices=0
    zram_id=$(cat /sys/class/zram-control/hot_add)
    echo "${2:-lz4}" >"/sys/block/zram$zram_id/comp_algorithm" || fail "zram has no ${2:-lz4}"
    echo "$1" >"/sys/block/zram$zram_id/disksize" || fail "zram does not take the size $1"
    zram=/dev/zram$zram_id
}

# What of ours is mounted, but for the run directory, which stays.
our_mounts() {
    grep trueno /proc/mounts | grep -v ' /run/trueno-ublk ramfs '
}

# The process that serves device 0, and the one that stands by.
worker() {
    trueno-ublk stat 0 --json | sed -n 's/.*"pid": \([0-9]*\).*/\1/p'
}
standby() {
    trueno-ublk stat 0 --json | sed -n 's/.*"standby": \([0-9][0-9]*\).*/\1/p'
}

# Swap on our device: make_swap SIZE [OPTIONS…]. The daemon's pid goes to $daemon. Any use of the
# heap on an I/O thread from here on aborts the daemon.
make_swap() {
    TRUENO_HEAP_GUARD=abort must trueno-ublk create --dev-id 0 --transport ublk --swap --size "$@"
    daemon=$(worker)
    grep -q '^/dev/ublkb0 ' /proc/swaps || fail "no swap: $(cat /proc/swaps)"
    faults >/tmp/faults.before
}

# The faults of the daemon's I/O and maintenance threads, a line each.
faults() {
    vm-guest verify-threads "$daemon" | sed -n 's/.*name=\(ublk[^ ]*\|maint[^ ]*\) .*\(minflt=[0-9]*\) \(majflt=[0-9]*\).*/\1 \2 \3/p'
}

# Swap on the kernel's zram, as good as it gets: no readahead.
make_zram_swap() {
    make_zram "$1" lz4
    must mkswap "$zram" >/dev/null
    must swapon -d "$zram"
    echo 0 >/proc/sys/vm/page-cluster
}

end_zram_swap() {
    must swapoff "$zram"
    echo 1 >"/sys/block/zram$zram_id/reset"
    echo 3 >/proc/sys/vm/page-cluster
}

# Run the hog while the ticker watches: press HOG-OPTIONS. Leaves $hog_status, $hog_line,
# $ticker_status, $ticker_line.
press() {
    vm-guest hog "$@" >/tmp/hog.out 2>&1 &
    hog=$!
    vm-guest ticker --while $hog >/tmp/ticker.out 2>&1 &
    ticker=$!
    wait $hog
    hog_status=$?
    kill -TERM $ticker
    wait $ticker
    ticker_status=$?
    cat /tmp/hog.out /tmp/ticker.out
    hog_line=$(grep '^hog mb=' /tmp/hog.out)
    ticker_line=$(grep '^ticker result=' /tmp/ticker.out)
}

# After `press` on our device: everything verified, swap I/O never stood still, no thread of ours
# faulted, and the daemon is what it was.
swap_held() {
    [ "$hog_status" = 0 ] || fail "the hog ended with status $hog_status: $hog_line"
    [ -e "/proc/$daemon" ] || fail "the daemon is gone"
    faults >/tmp/faults.after
    grep -v '^maint' /tmp/faults.before >/tmp/a
    grep -v '^maint' /tmp/faults.after >/tmp/b
    cmp -s /tmp/a /tmp/b || fail "I/O threads faulted: before $(cat /tmp/a), after $(cat /tmp/b)"
    out=$(value_of pswpout "$ticker_line")
    [ "$out" -gt 10000 ] || fail "only $out pages were swapped out: no pressure"
    nothing_swapped_out
    kernel_is_content
    in_time
}

# Pages of real programs, MB of them, swapped to our device and back in PASSES, with nothing lost and
# nothing standing still: swap_real NAME MB PASSES SIZE [OPTIONS…].
swap_real() {
    name=$1 mb=$2 passes=$3
    shift 3
    make_swap "$@"
    press --mb "$mb" --passes "$passes" --pages /test/pages.raw
    press_report "$name ublk"
    swap_held
}

# Neither the worker nor its standby has a page on swap, nor can a file have one that they write to. A
# process must read such pages even to die, and the worker's can lie on the device that nobody serves
# while it does.
nothing_swapped_out() {
    grep -q ' /run/trueno-ublk ramfs ' /proc/mounts ||
        fail "the run directory can be swapped out: $(cat /proc/mounts)"
    [ -n "$(worker)" ] || fail "nobody serves"
    for process in $(worker) $(standby); do
        swapped=$(awk '$1 == "VmSwap:" { print $2 }' "/proc/$process/status")
        [ "$swapped" = 0 ] || fail "$swapped KiB of process $process are swapped out:
$(awk '/^[0-9a-f]+-/ { mapping = $0 } /^Swap:/ && $2 { print mapping, $2 }' "/proc/$process/smaps")"
    done
}

# The ticker's limits: no gap of a second, no 10 s without swap I/O.
in_time() {
    [ "$ticker_status" = 0 ] || slow "$ticker_line"
}

# What `press` measured, for the host's table: press_report NAME.
press_report() {
    report "$1: fill_ms=$(value_of fill_ms "$hog_line") total_ms=$(value_of total_ms "$hog_line")" \
        "gap_ms=$(value_of gap_ms "$ticker_line") idle_max_ms=$(value_of idle_max_ms "$ticker_line")" \
        "alloc_max_ms=$(value_of alloc_max_ms "$ticker_line")" \
        "pswpout=$(value_of pswpout "$ticker_line") pswpin=$(value_of pswpin "$ticker_line")"
}

# Bytes of the daemon that are locked and there.
locked_to_kernel() {
    awk '$1 == "Locked:" { print $2 * 1024 }' "/proc/$daemon/smaps_rollup"
}

# The end of a swap device of ours.
end_swap() {
    # Free memory is being given back: what stat says lies between what the kernel says before and
    # after. But while stat runs, two processes share the program's pages, and half of them count.
    program=$(wc -c </usr/bin/trueno-ublk)
    before=$(locked_to_kernel)
    trueno-ublk stat 0 --json >/tmp/stat.json || fail "stat"
    after=$(locked_to_kernel)
    cat /tmp/stat.json
    ours=$(sed -n 's/.*"locked_bytes": \([0-9]*\).*/\1/p' /tmp/stat.json)
    awk -v a="$ours" -v b="$before" -v c="$after" -v half=$((program / 2)) \
        'BEGIN { exit !(a >= (b < c ? b : c) - half && a <= 1.01 * (b > c ? b : c)) }' ||
        fail "locked are $ours bytes to stat, and to the kernel $before before and $after after it"
    report "locked_bytes: stat=$ours kernel=$before,$after"
    must_not trueno-ublk remove 0
    must swapoff /dev/ublkb0
    must trueno-ublk remove 0
    ! pidof trueno-ublk >/dev/null || fail "the daemon is still there"
}
