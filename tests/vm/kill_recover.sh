# claim: a daemon killed with -9 at random moments loses no acknowledged write: its device waits, recover goes on, fio verifies
# tools: fio mkfs.ext4
# modules: ublk_drv fuse loop ext4
# args: KILLS=30
# timeout: 420
. /test/lib.sh
watch_for_hangs

# The daemon ends by SIGNAL, and another one goes on; how long requests waited, in ms, goes to $pause.
succeed() {
    daemon=$(pidof trueno-ublk)
    from=$(now)
    kill "-$1" "$daemon" || fail "there is no daemon"
    while [ -e "/proc/$daemon" ]; do :; done
    trueno-ublk recover 0 >/tmp/recovered || fail "recover after $1: $(cat /run/trueno-ublk/0.log)"
    pause=$(awk -v s="$(since "$from")" 'BEGIN { print s * 1000 }')
}

# Up to 0.8 s at random.
moment() {
    usleep $(($(od -An -N2 -tu2 /dev/urandom) * 12))
}

# Until $KILLS daemons are dead.
must trueno-ublk create --size 64M --dev-id 0 --transport ublk
refused "needs no recovery" trueno-ublk recover 0
refused "no device" trueno-ublk recover 1
fio_until_enough &
fio=$!
kills=0 longest=0 total=0
from_all=$(now)
while [ $kills -lt "$KILLS" ]; do
    moment
    [ -e /proc/$fio ] || break
    succeed KILL
    kills=$((kills + 1)) total=$((total + pause))
    [ $longest -ge "$pause" ] || longest=$pause
done
touch /tmp/enough
wait $fio || { cat /tmp/fio.out; fail "fio after $kills kills"; }
[ $kills = "$KILLS" ] || fail "fio ended after $kills kills"
report "kill_recover: kills=$kills fio_passes=$(cat /tmp/passes) seconds=$(since "$from_all")" \
    "pause_ms=$((total / kills)) pause_max_ms=$longest"
sed -n 's/.*attached after/attached after/p' /run/trueno-ublk/0.log | tail -n 3
kernel_is_content
[ "$(trueno-ublk stat 0 --io-stat | awk '{ print $1 + $2 }')" = 0 ] || fail "requests have failed"
must trueno-ublk reset 0
[ "$(trueno-ublk stat 0 --mm-stat | awk '{ print $1 }')" = 0 ] || fail "reset left pages"

# A file system on it: what waits goes on, and abort and a failed queue thread are no worse than kill.
must mkfs.ext4 -q /dev/ublkb0
must mount /dev/ublkb0 /mnt
must dd if=/dev/urandom of=/mnt/before bs=64k count=64 2>/dev/null
sync
sum=$(sha256sum </mnt/before)
for signal in ABRT KILL; do
    daemon=$(pidof trueno-ublk)
    kill -$signal "$daemon"
    must wait_for 10 test ! -e "/proc/$daemon"
    (dd if=/mnt/before of=/mnt/after bs=64k conv=fsync 2>/dev/null && touch /tmp/done) &
    writer=$!
    sleep 1
    [ ! -e /tmp/done ] || fail "a write did not wait for a daemon"
    [ "$(trueno-ublk list --json | grep -c '"recoverable": true')" = 1 ] || fail "$(trueno-ublk list --json)"
    refused "0 dead recover" trueno-ublk create --size 64M --dev-id 0 --transport ublk
    refused "0 dead recover" trueno-ublk create --size 64M --dev-id 0 --transport loop
    refused "/mnt recover --force" trueno-ublk remove 0
    must trueno-ublk recover /dev/ublkb0
    must wait $writer
    rm /tmp/done
    echo 3 >/proc/sys/vm/drop_caches
    [ "$(sha256sum </mnt/before)" = "$sum" ] || fail "a file differs after $signal"
    [ "$(sha256sum </mnt/after)" = "$sum" ] || fail "a file written meanwhile differs after $signal"
done
tid=$(vm-guest verify-threads "$(pidof trueno-ublk)" | sed -n 's/.*tid=\([0-9]*\) name=ublk0-q0 .*/\1/p')
must vm-guest fail-wait "$tid"
must wait_for 20 sh -c 'trueno-ublk list --json | grep -q "\"state\": \"failed\""'
must trueno-ublk recover 0
echo 3 >/proc/sys/vm/drop_caches
[ "$(sha256sum </mnt/after)" = "$sum" ] || fail "a file differs after a failed queue thread"

# Two at once: one of them goes on with it.
daemon=$(pidof trueno-ublk)
kill -9 "$daemon"
trueno-ublk recover 0 >/dev/null 2>&1 &
first=$!
trueno-ublk recover 0 >/dev/null 2>&1
second=$?
wait $first
[ $(($? + second)) = 1 ] || fail "of two recoveries, not one succeeded"
[ "$(sha256sum </mnt/after)" = "$sum" ] || fail "a file differs after two recoveries at once"
kernel_is_content

# Given up: what waits ends with errors, and nothing is left.
kill -9 "$(pidof trueno-ublk)"
must trueno-ublk remove --force 0
umount /mnt
for left in /dev/ublkc* /dev/ublkb* /run/trueno-ublk/*; do
    [ ! -e "$left" ] || fail "remove of a dead device leaves $left"
done
[ -z "$(our_mounts)" ] || fail "a mount is left: $(our_mounts)"

# A store that is not what the plan says is refused, and stays.
must trueno-ublk create --size 64M --dev-id 0 --transport ublk >/dev/null
kill -9 "$(pidof trueno-ublk)"
dd if=/dev/zero of=/run/trueno-ublk/0/memory/store bs=4096 count=1 conv=notrunc 2>/dev/null
refused "cannot go on with the store" trueno-ublk recover 0
[ -e /dev/ublkb0 ] || fail "a recovery that failed took the device away"
must trueno-ublk remove 0

# A device that ends on purpose after a recovery leaves nothing.
must trueno-ublk create --size 64M --dev-id 0 --transport ublk >/dev/null
succeed KILL
kill -TERM "$(pidof trueno-ublk)"
must wait_for 10 test ! -e /run/trueno-ublk/0.lock
for left in /dev/ublkc* /dev/ublkb* /run/trueno-ublk/*; do
    [ ! -e "$left" ] || fail "SIGTERM after a recovery leaves $left"
done
! dmesg | grep -E 'blocked for more than|BUG:|WARNING:' || fail "the kernel complains"
