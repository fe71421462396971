# claim: before Linux 6.4 the store lies in a locked segment: it outlives a killed daemon, and goes with the device
# kernels: 6.1
# modules: loop fuse
. /test/lib.sh
watch_for_hangs

# The shared segments that there are.
segments() {
    tail -n +2 /proc/sysvipc/shm
}

must trueno-ublk create --size 64M --dev-id 0 --transport loop --json >/tmp/info
device=$(sed -n 's/.*"name": "\([^"]*\)".*/\1/p' /tmp/info)
grep -q '"memory": "locked segment"' /tmp/info || fail "the store is not in a segment: $(cat /tmp/info)"
# The mode with SHM_LOCKED.
segments | awk '{ exit $3 != 2600 }' || fail "the segment is not locked: $(segments)"
must dd if=/dev/urandom of=/tmp/pages bs=64k count=64 2>/dev/null
must dd if=/tmp/pages of="$device" bs=64k conv=fsync 2>/dev/null
# Each processor keeps some pages back before it counts them.
unevictable=$(awk '$1 == "Unevictable:" { print $2 }' /proc/meminfo)
[ "$unevictable" -ge 3840 ] || fail "only $unevictable KiB are unevictable, with 4096 KiB of noise stored"

# Twice: what a successor opens outlives it too.
for attempt in 1 2; do
    kill -9 "$(pidof trueno-ublk)"
    must wait_for 10 sh -c 'trueno-ublk list --json | grep -q "\"recoverable\": true"'
    must trueno-ublk recover 0 --json >/tmp/info
    device=$(sed -n 's/.*"name": "\([^"]*\)".*/\1/p' /tmp/info)
    dd if="$device" bs=64k count=64 2>/dev/null | cmp - /tmp/pages || fail "other pages after a recovery"
done
must trueno-ublk remove 0
[ -z "$(segments)" ] || fail "remove leaves $(segments)"

# A dead one that nobody wants any more.
must trueno-ublk create --size 64M --dev-id 0 --transport loop >/dev/null
kill -9 "$(pidof trueno-ublk)"
must wait_for 10 sh -c 'trueno-ublk list --json | grep -q "\"recoverable\": true"'
must trueno-ublk remove 0
[ -z "$(segments)" ] || fail "remove of a dead device leaves $(segments)"
for left in /run/trueno-ublk/*; do
    [ ! -e "$left" ] || fail "an end leaves $left"
done
kernel_is_content
