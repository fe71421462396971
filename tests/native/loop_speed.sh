#!/bin/sh
# claim: natively, speed and memory on the loop transport beside the kernel's zram lz4
# tools: fio
# tier: long
# timeout: 600
# Needs a zram device that nobody uses; it is reset afterwards.
set -u
export TRUENO_RUN_DIR="$SCRATCH/run"
mkdir -p "$TRUENO_RUN_DIR"
zram=
ours=

cleanup() {
    [ -z "$ours" ] || trueno-ublk remove 0 >/dev/null
    [ -z "$zram" ] || echo 1 >"/sys/block/$zram/reset"
}
trap cleanup EXIT
fail() {
    echo "FAILED: $*"
    exit 1
}

modprobe zram 2>/dev/null
for block in /sys/block/zram*; do
    if [ -e "$block/disksize" ] && [ "$(cat "$block/disksize")" = 0 ]; then
        zram=${block##*/}
        break
    fi
done
[ -n "$zram" ] || fail "there is no unused zram device: modprobe zram, or zramctl --reset one"
echo lz4 >"/sys/block/$zram/comp_algorithm" || fail "zram has no lz4"
echo 512M >"/sys/block/$zram/disksize" || fail "disksize"
trueno-ublk create --size 512M --dev-id 0 --transport loop >/dev/null || fail "create"
ours=$(trueno-ublk list --json | grep -o '/dev/loop[0-9]*' | head -1)

# one DEVICE RW BS DEPTH: IOPS for 4 KiB, MB/s else, from fio's terse format, version 3.
one() {
    fio --name=one --filename="$1" --direct=1 --ioengine=io_uring --rw="$2" --bs="$3" \
        --iodepth="$4" --size=384M --runtime=3 --time_based --refill_buffers \
        --buffer_compress_percentage=60 --minimal >"$SCRATCH/fio" || fail "fio $*"
    case $2 in
    *read) bandwidth=7 iops=8 ;;
    *) bandwidth=48 iops=49 ;;
    esac
    awk -F';' -v b=$bandwidth -v i=$iops -v bs="$3" \
        '{ printf "%d\n", bs == "4k" ? $i : $b * 1024 / 1e6 }' "$SCRATCH/fio"
}
median() {
    tr ' ' '\n' | grep . | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

for device in "/dev/$zram" "$ours"; do
    fio --name=fill --filename="$device" --direct=1 --ioengine=io_uring --rw=write --bs=128k \
        --iodepth=4 --size=384M --refill_buffers --buffer_compress_percentage=60 --minimal \
        >/dev/null || fail "fill $device"
done
theirs=$(awk '{ print $3 }' "/sys/block/$zram/mm_stat")
used=$(trueno-ublk stat 0 --mm-stat | awk '{ print $3 }')
echo "report memory for 384 MiB: zram=$theirs loop=$used" \
    "ratio=$(awk -v a="$used" -v b="$theirs" 'BEGIN { printf "%.3f", a / b }')"

while read -r rw bs depth; do
    a= b=
    for round in 1 2 3 4 5; do
        a="$a $(one "$ours" "$rw" "$bs" "$depth")"
        b="$b $(one "/dev/$zram" "$rw" "$bs" "$depth")"
    done
    x=$(echo "$a" | median) y=$(echo "$b" | median)
    echo "report $rw $bs depth $depth: zram=$y loop=$x" \
        "ratio=$(awk -v a="$x" -v b="$y" 'BEGIN { printf "%.2f", a / b }') rounds: zram$b, loop$a"
done <<'ROWS'
randread 4k 1
randread 4k 32
randwrite 4k 1
randwrite 4k 32
read 128k 4
write 128k 4
ROWS
