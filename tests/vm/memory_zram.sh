# claim: real pages take no more memory here than in the kernel's zram: filled, a random half freed, compacted
# mem: 1024
# pages: yes
# tools: fio
# modules: ublk_drv zram
# timeout: 300
. /test/lib.sh

# Memory and compressed bytes, as both devices say: MEM BYTES.
ours() {
    trueno-ublk stat 0 --mm-stat | awk '{ print $3, $2 }'
}
theirs() {
    awk '{ print $3, $2 }' "/sys/block/zram$zram_id/mm_stat"
}

# Both for one state, and whether ours is the larger one, as it is or for each compressed byte. The
# page table and what is known of slabs come on top in both, and are told for ours.
compare() {
    set -- "$1" $(ours) $(theirs)
    apart=$(trueno-ublk stat 0 --json | sed -n 's/.*"\(table_bytes\|overhead_bytes\)": \([0-9]*\).*/\1=\2/p' | sort -u | tr '\n' ' ')
    report "memory_zram $1: ours $2 of $3 compressed, zram $4 of $5; apart: $apart"
    [ "$2" -le "$4" ] || fail "$1: $2 bytes, and zram $4"
    [ $(($2 * $5)) -le $(($4 * $3)) ] || fail "$1: $2 bytes for $3, and zram $4 for $5"
}

copies=10
size=$(wc -c </test/pages.raw)
must trueno-ublk create --dev-id 0 --transport ublk --size 256M
make_zram 256M lz4
for device in /dev/ublkb0 "$zram"; do
    copy=0
    while [ $copy -lt $copies ]; do
        must dd if=/test/pages.raw of="$device" bs=4k seek=$((copy * size / 4096)) conv=notrunc,fsync 2>/dev/null
        copy=$((copy + 1))
    done
done
compare filled

# The same random half of the pages, for both.
for device in /dev/ublkb0 "$zram"; do
    must fio --name=half --filename="$device" --direct=1 --rw=randtrim --bs=4k --randseed=7 \
        --allrandrepeat=1 --size=$((copies * size)) --io_size=$((copies * size / 2)) --minimal >/dev/null
done
compare freed
echo 1 >"/sys/block/zram$zram_id/compact"
must trueno-ublk compact 0
compare compacted
must trueno-ublk remove 0
