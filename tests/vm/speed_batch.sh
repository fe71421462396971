# claim: BATCH_IO beside one command a request, on our device and on one that keeps nothing, in one boot
# mem: 1024
# kernels: 7.x
# bins: trueno-ublk ublk_null
# tools: fio
# tier: long
# timeout: 900
. /test/lib.sh

# A figure of one fio run, as in speed.sh.
one() {
    fio --name=one --filename="$1" --direct=1 --ioengine=io_uring --rw="$2" --bs="$3" \
        --iodepth="$4" --size=192M --runtime=2 --time_based --refill_buffers \
        --buffer_compress_percentage=60 --minimal >/tmp/fio.out || fail "fio $*"
    case $2 in
    *read) bandwidth=7 iops=8 ;;
    *) bandwidth=48 iops=49 ;;
    esac
    awk -F';' -v b=$bandwidth -v i=$iops -v bs="$3" \
        '{ printf "%.1f\n", bs == "4k" ? $i : $b * 1024 / 1e6 }' /tmp/fio.out
}

median() {
    tr ' ' '\n' | grep . | sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

fill() {
    fio --name=fill --filename="$1" --direct=1 --ioengine=io_uring --rw=write --bs=128k \
        --iodepth=4 --size=192M --refill_buffers --buffer_compress_percentage=60 --minimal \
        >/dev/null || fail "fill $1"
}

must trueno-ublk create --size 256M --dev-id 0 --transport ublk --batch-io off >/dev/null
must trueno-ublk create --size 256M --dev-id 1 --transport ublk --batch-io on >/dev/null
mkfifo /tmp/end0 /tmp/end1
for batch in 0 1; do
    ublk_null 268435456 2 $batch </tmp/end$batch >/tmp/null$batch &
done
exec 8>/tmp/end0 9>/tmp/end1
for batch in 0 1; do
    wait_for 10 test -s /tmp/null$batch || fail "no null device"
    fill /dev/ublkb$batch
done

# Medians of alternating rounds on two devices: compare OFF ON RW BS DEPTH.
compare() {
    offs= ons=
    for round in 1 2 3 4 5; do
        if [ $((round % 2)) = 1 ]; then
            offs="$offs $(one "$1" "$3" "$4" "$5")"
            ons="$ons $(one "$2" "$3" "$4" "$5")"
        else
            ons="$ons $(one "$2" "$3" "$4" "$5")"
            offs="$offs $(one "$1" "$3" "$4" "$5")"
        fi
    done
    off=$(echo "$offs" | median) on=$(echo "$ons" | median)
    ratio=$(awk -v a="$off" -v b="$on" 'BEGIN { printf "%.3f", b / a }')
    echo "off=$off on=$on ratio=$ratio rounds: off$offs, on$ons"
}

while read -r rw bs depth; do
    ours=$(compare /dev/ublkb0 /dev/ublkb1 "$rw" "$bs" "$depth")
    null=$(compare "$(cat /tmp/null0)" "$(cat /tmp/null1)" "$rw" "$bs" "$depth")
    report "$rw $bs depth $depth: $ours; null $null"
done <<'ROWS'
randread 4k 1
randread 4k 32
randwrite 4k 1
randwrite 4k 32
read 128k 4
write 128k 4
ROWS
echo >&8
echo >&9
must trueno-ublk remove 0
must trueno-ublk remove 1
