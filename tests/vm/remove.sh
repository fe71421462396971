# claim: remove takes away what is ours and unused, says what remains, and touches nothing else
# tools: mkfs.ext4 addpart
# modules: ublk_drv fuse loop ext4
# timeout: 300
. /test/lib.sh
watch_for_hangs

nothing_left() {
    for left in /dev/ublkc* /dev/ublkb* /run/trueno-ublk/*; do
        [ ! -e "$left" ] || fail "$1 leaves $left"
    done
    [ -z "$(our_mounts)" ] || fail "$1 leaves a mount: $(our_mounts)"
    ! pidof trueno-ublk >/dev/null || fail "$1 leaves a process"
}

create() {
    must trueno-ublk create --size 64M --dev-id "$1" --transport "${2:-ublk}" >/dev/null
}

# Somebody has the device open: it is theirs, or, by force, gone with what they have being told.
create 0
sleep 1000 </dev/ublkb0 &
holder=$!
refused "in use by a program" trueno-ublk remove 0
from=$(now)
must trueno-ublk remove --force 0 >/tmp/said
grep -q "still has it open" /tmp/said || fail "remove --force says: $(cat /tmp/said)"
[ "$(since "$from" | cut -d. -f1)" -lt 20 ] || fail "remove --force took $(since "$from") s"
nothing_left "remove --force"
# The number is not free before they let go, and nobody gets it.
[ "$(trueno-ublk find)" = 1 ] || fail "find gives $(trueno-ublk find)"
must trueno-ublk create --size 64M --transport ublk >/dev/null
[ -e /dev/ublkb1 ] || fail "the next device is not number 1"
must trueno-ublk remove 1
kill $holder
wait $holder
create 0
must trueno-ublk remove 0
nothing_left "a device once held open"

# Mounted, by force: an end in finite time, with a warning.
create 0
must mkfs.ext4 -q /dev/ublkb0
must mount /dev/ublkb0 /mnt
dd if=/dev/urandom of=/mnt/dirty bs=64k count=64 2>/dev/null
must trueno-ublk remove --force 0 2>/tmp/said
grep -q "I/O errors" /tmp/said || fail "no warning: $(cat /tmp/said)"
umount /mnt
nothing_left "remove --force of a mounted device"
dmesg -c >/tmp/errors.of.ext4

# Swap on a partition, and a swap file on a partition.
create 0
must addpart /dev/ublkb0 1 2048 65536
must mkswap /dev/ublkb0p1 >/dev/null
must swapon /dev/ublkb0p1
refused "/dev/ublkb0p1 swapoff" trueno-ublk remove 0
trueno-ublk list --json | grep -q '"swap_active": true' || fail "list: $(trueno-ublk list --json)"
must trueno-ublk remove --force 0
[ "$(wc -l </proc/swaps)" = 1 ] || fail "swap is left: $(cat /proc/swaps)"
nothing_left "remove --force of swap on a partition"
create 0
must addpart /dev/ublkb0 1 2048 65536
must mkfs.ext4 -q /dev/ublkb0p1
must mount /dev/ublkb0p1 /mnt
must dd if=/dev/zero of=/mnt/swap bs=64k count=64 2>/dev/null
must chmod 600 /mnt/swap
must mkswap /mnt/swap >/dev/null
must swapon /mnt/swap
refused "/mnt/swap umount" trueno-ublk remove 0
must swapoff /mnt/swap
refused "umount" trueno-ublk remove 0
must umount /mnt
must trueno-ublk remove 0
nothing_left "a swap file on a partition"

# The dead: a foreign ublk device of the same number stays, its owner's remove takes it.
export TRUENO_RUN_DIR=/run/others
create 0
kill -9 "$(pidof trueno-ublk)"
must wait_for 10 sh -c 'trueno-ublk list --json | grep -q "\"state\": \"dead\""'
[ -e /dev/ublkb0 ] || fail "nothing is left of the killed ublk daemon"
unset TRUENO_RUN_DIR
create 0 loop
kill -9 "$(pidof trueno-ublk)"
must trueno-ublk remove 0
[ -e /dev/ublkc0 ] || fail "removing a dead loop device took somebody's ublk device away"
TRUENO_RUN_DIR=/run/others must trueno-ublk remove 0
nothing_left "two dead daemons"

# A queue's thread fails, idle and under load: requests wait, the cause is told, and remove ends them
# with errors.
for load in idle busy; do
    create 0
    if [ $load = busy ]; then
        (while dd if=/dev/urandom of=/dev/ublkb0 bs=64k 2>/dev/null; do :; done) &
        sleep 1
    fi
    daemon=$(pidof trueno-ublk)
    tid=$(vm-guest verify-threads "$daemon" | sed -n 's/.*tid=\([0-9]*\) name=ublk0-q0 .*/\1/p')
    must vm-guest fail-wait "$tid"
    must wait_for 20 sh -c 'trueno-ublk list --json | grep -q "\"state\": \"failed\""'
    must_not trueno-ublk stat 0 2>/tmp/said
    grep -q "/dev/ublkb0.*queue thread ublk0-q0: waiting for requests" /tmp/said ||
        fail "stat says: $(cat /tmp/said)"
    grep -q "recover 0" /tmp/said || fail "stat does not say what to do: $(cat /tmp/said)"
    grep -q "serves no longer" /run/trueno-ublk/0.log || fail "log: $(cat /run/trueno-ublk/0.log)"
    dd if=/dev/ublkb0 of=/dev/null bs=4096 count=1 iflag=direct 2>/dev/null &
    reader=$!
    sleep 1
    [ -e "/proc/$reader" ] || fail "a request does not wait for a successor of the daemon"
    must trueno-ublk remove 0
    must_not wait $reader
    [ $load = idle ] || wait
    nothing_left "a failed queue thread ($load)"
done

dmesg | grep -E 'blocked for more than|BUG:|WARNING:' && fail "a failed queue thread leaves a hang"
dmesg -c >/tmp/errors.of.failed.threads

# The machine's setting goes back with the last swap device, also when that one was killed.
setting=/proc/sys/vm/compact_unevictable_allowed
[ "$(cat $setting)" = 1 ] || fail "the setting begins as $(cat $setting)"
swap() {
    must trueno-ublk create --size 64M --dev-id "$1" --transport ublk --swap --reserve 8M >/dev/null
}
swap 0
swap 1
must trueno-ublk remove --force 0
[ "$(cat $setting)" = 0 ] || fail "the first end set it back while the other lives"
must trueno-ublk remove --force 1
[ "$(cat $setting)" = 1 ] || fail "the last end did not set it back"
swap 0
must swapoff /dev/ublkb0
# Its standby first.
must kill -9 "$(trueno-ublk stat 0 --json | sed -n 's/.*"standby": \([0-9]*\).*/\1/p')"
kill -9 $(pidof trueno-ublk)
must wait_for 10 sh -c 'trueno-ublk list --json | grep -q "\"state\": \"dead\""'
[ "$(cat $setting)" = 0 ] || fail "nobody set it back, and it is back"
must trueno-ublk remove 0
[ "$(cat $setting)" = 1 ] || fail "remove of the dead did not set it back"
nothing_left "swap devices"
kernel_is_content
