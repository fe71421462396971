# claim: fio finds every block as it was written: random 4 KiB, 512 B to 1 MiB mixed, trims in between, depth 32, two jobs
# tools: fio
# timeout: 420
. /test/lib.sh
watch_for_hangs

# verify NAME OPTIONS…: two jobs write their halves of the device, then read and compare.
verify() {
    name=$1
    shift
    from=$(now)
    fio --name="$name" --filename=/dev/ublkb0 --direct=1 --ioengine=io_uring --iodepth=32 \
        --numjobs=2 --size=40M --offset_increment=60M --refill_buffers \
        --buffer_compress_percentage=60 --verify=crc32c --verify_fatal=1 \
        --minimal "$@" >/tmp/fio.out || { cat /tmp/fio.out; fail "fio $name"; }
    report "fio_verify_${name}_seconds=$(since "$from")"
}

must trueno-ublk create --size 128M --dev-id 0 --transport ublk
verify random_4k --rw=randwrite --bs=4k
verify trims_4k --rw=randtrimwrite --bs=4k
stored=$(trueno-ublk stat 0 --mm-stat | awk '{ print $1 }')
[ "$stored" -gt 10000000 ] || fail "only $stored bytes are stored after the runs"
must trueno-ublk remove 0

must trueno-ublk create --size 128M --dev-id 0 --transport ublk --block-size 512
verify mixed_512_to_1m --rw=randwrite --bsrange=512-1024k --blockalign=512
verify trims_mixed --rw=randtrimwrite --bsrange=512-64k --blockalign=512 --size=10M
[ "$(trueno-ublk stat 0 --io-stat | awk '{ print $1 + $2 }')" = 0 ] || fail "requests have failed"
must trueno-ublk remove 0
kernel_is_content
