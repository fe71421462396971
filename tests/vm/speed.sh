# claim: speed and memory beside the kernel's zram lz4 and a ublk device that keeps nothing, in one boot
# mem: 1024
# bins: trueno-ublk ublk_null
# tools: fio
# tier: long
# timeout: 900
. /test/lib.sh

# A figure of one fio run: one DEVICE RW BS DEPTH. IOPS for 4 KiB, MB/s else.
one() {
    fio --name=one --filename="$1" --direct=1 --ioengine=io_uring --rw="$2" --bs="$3" \
        --iodepth="$4" --size=192M --runtime=3 --time_based --refill_buffers \
        --buffer_compress_percentage=60 --minimal >/tmp/fio.out || fail "fio $*"
    # Of fio's terse format, version 3: bandwidth in KiB/s and IOPS, of reads and of writes.
    case $2 in
    *read) bandwidth=7 iops=8 ;;
    *) bandwidth=48 iops=49 ;;
    esac
    awk -F';' -v b=$bandwidth -v i=$iops -v bs="$3" \
        '{ printf "%d\n", bs == "4k" ? $i : $b * 1024 / 1e6 }' /tmp/fio.out
}

median() {
    tr ' ' '\n' | grep . | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

# Fill and memory.
fill() {
    fio --name=fill --filename="$1" --direct=1 --ioengine=io_uring --rw=write --bs=128k \
        --iodepth=4 --size=192M --refill_buffers --buffer_compress_percentage=60 --minimal \
        >/dev/null || fail "fill $1"
}

make_zram 256M lz4
must trueno-ublk create --size 256M --dev-id 0 --transport ublk >/dev/null
mkfifo /tmp/end
ublk_null 268435456 2 </tmp/end >/tmp/null &
exec 9>/tmp/end
wait_for 10 test -s /tmp/null || fail "no null device"
null=$(cat /tmp/null)

fill "$zram"
fill /dev/ublkb0
zram_used=$(awk '{ print $3 }' "/sys/block/zram$zram_id/mm_stat")
our_used=$(trueno-ublk stat 0 --mm-stat | awk '{ print $3 }')
report "memory for 192 MiB: zram=$zram_used ublk=$our_used ratio=$(awk -v a="$our_used" -v b="$zram_used" 'BEGIN { printf "%.3f", a / b }')"

while read -r rw bs depth; do
    zrams= ours= nulls=
    for round in 1 2 3; do
        zrams="$zrams $(one "$zram" "$rw" "$bs" "$depth")"
        ours="$ours $(one /dev/ublkb0 "$rw" "$bs" "$depth")"
        nulls="$nulls $(one "$null" "$rw" "$bs" "$depth")"
    done
    a=$(echo "$ours" | median) b=$(echo "$zrams" | median) c=$(echo "$nulls" | median)
    report "$rw $bs depth $depth: zram=$b ublk=$a null=$c ratio=$(awk -v a="$a" -v b="$b" 'BEGIN { printf "%.2f", a / b }') rounds: zram$zrams, ublk$ours, null$nulls"
done <<'ROWS'
randread 4k 1
randread 4k 32
randwrite 4k 1
randwrite 4k 32
read 128k 4
write 128k 4
ROWS
echo >&9
must trueno-ublk remove 0
