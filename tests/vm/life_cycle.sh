# claim: create, use, remove and SIGTERM leave nothing behind, and a device in use is not taken away
# tools: mkfs.ext4
# modules: ublk_drv ext4
# timeout: 240
. /test/lib.sh
watch_for_hangs

nothing_left() {
    for left in /dev/ublkc* /dev/ublkb* /run/trueno-ublk/*.sock /run/trueno-ublk/[0-9]*; do
        [ ! -e "$left" ] || fail "$1 leaves $left"
    done
    [ -z "$(our_mounts)" ] || fail "$1 leaves a mount: $(our_mounts)"
    ! pidof trueno-ublk >/dev/null || fail "$1 leaves a process"
}

round=0
while [ $round -lt 20 ]; do
    must trueno-ublk create --size 64M --dev-id 0 --transport ublk --queues 2 >/dev/null
    must dd if=/dev/urandom of=/dev/ublkb0 bs=64k count=16 2>/dev/null
    must trueno-ublk remove 0 >/dev/null
    nothing_left "round $round"
    round=$((round + 1))
done

must trueno-ublk create --size 64M --dev-id 3 --transport ublk
pid=$(pidof trueno-ublk)
must kill -TERM "$pid"
must wait_for 10 test ! -e "/proc/$pid"
nothing_left SIGTERM

# In use: neither remove, nor reset, nor SIGTERM takes it away.
must trueno-ublk create --size 64M --dev-id 0 --transport ublk
must mkfs.ext4 -q /dev/ublkb0
must mount /dev/ublkb0 /mnt
echo data >/mnt/file
must_not trueno-ublk remove 0
must_not trueno-ublk reset 0
kill -TERM "$(pidof trueno-ublk)"
sleep 1
[ "$(cat /mnt/file)" = data ] || fail "the file is gone"
must umount /mnt
must trueno-ublk reset 0
[ "$(dd if=/dev/ublkb0 bs=4096 count=1 2>/dev/null | tr -d '\0' | wc -c)" = 0 ] || fail "reset left data"
must trueno-ublk remove 0
nothing_left remove

# Two devices at once; the number of a device that exists is refused.
must trueno-ublk create --size 64M --dev-id 0 --transport ublk
must_not trueno-ublk create --size 64M --dev-id 0 --transport ublk
must trueno-ublk create --size 64M --transport ublk
[ "$(trueno-ublk list --json | grep -o '"/dev/ublkb[01]"' | sort -u | wc -l)" = 2 ] || fail "list: $(trueno-ublk list)"
must trueno-ublk remove 0
must trueno-ublk remove 1
nothing_left "two devices"
kernel_is_content
