# claim: a device goes over to another program again and again under load: fio verifies, and only waits for moments; swap does too
# tools: fio
# args: UPGRADES=50
# timeout: 420
. /test/lib.sh
watch_for_hangs

# The other version of the program: the same one, elsewhere.
mkdir /tmp/new
cp /usr/bin/trueno-ublk /tmp/new/

# upgrade PROGRAM: it serves device 0 afterwards, and nobody else does.
upgrade() {
    before=$(worker)
    must "$1" upgrade 0 >/tmp/said
    after=$(worker)
    [ "$(readlink "/proc/$after/exe")" = "$1" ] || fail "device 0 is served by $(readlink "/proc/$after/exe"), not $1"
    must wait_for 10 test ! -e "/proc/$before"
}

must trueno-ublk create --size 64M --dev-id 0 --transport ublk
[ -z "$(standby)" ] || fail "a RAM disk has a standby"
fio_until_enough &
fio=$!
upgrades=0
while [ $upgrades -lt "$UPGRADES" ] && [ -e /proc/$fio ]; do
    upgrade /tmp/new/trueno-ublk
    upgrade /usr/bin/trueno-ublk
    upgrades=$((upgrades + 2))
done
touch /tmp/enough
wait $fio || { cat /tmp/fio.out; fail "fio after $upgrades upgrades"; }
[ $upgrades -ge "$UPGRADES" ] || fail "fio ended after $upgrades upgrades"
pauses=$(sed -n 's/.*standby serves \([0-9]*\) ms after.*/\1/p' /run/trueno-ublk/0.log | sort -n)
[ "$(echo "$pauses" | wc -l)" = $upgrades ] || fail "of $upgrades upgrades the log shows $(echo "$pauses" | wc -l)"
report "upgrade: upgrades=$upgrades fio_passes=$(cat /tmp/passes)" \
    "pause_ms=$(echo "$pauses" | sed -n $((upgrades / 2))p) pause_max_ms=$(echo "$pauses" | tail -n 1)"
[ "$(trueno-ublk stat 0 --io-stat | awk '{ print $1 + $2 }')" = 0 ] || fail "requests have failed"

# A scrub does not go over: who waits for it is told, and the next one sees all pages.
trueno-ublk scrub 0 --rate 1M >/tmp/scrub 2>&1 &
scrub=$!
must wait_for 10 sh -c 'trueno-ublk stat 0 --json | grep -q "\"phase\": \"running\""'
upgrade /tmp/new/trueno-ublk
wait $scrub && fail "a scrub ended well with its daemon: $(cat /tmp/scrub)"
grep -q -e 'the scrub is no more' -e 'has ended with its daemon' /tmp/scrub || fail "scrub says $(cat /tmp/scrub)"
must trueno-ublk scrub 0
upgrade /usr/bin/trueno-ublk

# A program that does not know the store's version says so before the old one ends.
memory=/run/trueno-ublk/0/memory/store
before=$(worker)
printf '\143' | dd of=$memory bs=1 seek=8 conv=notrunc 2>/dev/null || fail "cannot write to $memory"
refused "format 99" /tmp/new/trueno-ublk upgrade 0
[ "$(worker)" = "$before" ] || fail "another process serves"
must trueno-ublk remove 0

# told WORDS: systemd hears this, and did not before.
told() {
    must wait_for 10 grep -qx "$1" /tmp/told
    : >/tmp/told
}

# Swap, as a service: the standby is replaced by one of the other program, and systemd told of it all.
vm-guest notified /tmp/systemd >>/tmp/told &
must wait_for 10 test -e /tmp/systemd
NOTIFY_SOCKET=/tmp/systemd trueno-ublk create --foreground --size 64M --dev-id 0 --transport ublk \
    --swap --reserve 8M >/dev/null &
told READY=1
grep -q '^/dev/ublkb0 ' /proc/swaps || fail "ready without swap: $(cat /proc/swaps)"
[ -n "$(standby)" ] || fail "ready without a standby"
upgrade /tmp/new/trueno-ublk
told "READY=1 MAINPID=$(worker)"
wait_for 30 sh -c '. /test/lib.sh; [ -n "$(standby)" ]' || fail "nobody stands by after an upgrade"
[ "$(readlink "/proc/$(standby)/exe")" = /tmp/new/trueno-ublk ] || fail "an old program stands by"
must swapoff /dev/ublkb0
must trueno-ublk remove 0
for left in /dev/ublkc* /dev/ublkb* /run/trueno-ublk/*; do
    [ ! -e "$left" ] || fail "an end after upgrades leaves $left"
done
! pidof trueno-ublk >/dev/null || fail "an end after upgrades leaves a process"

# What is no service itself tells nothing in the name of one that it is called from.
NOTIFY_SOCKET=/tmp/systemd must trueno-ublk create --size 64M --dev-id 0 --transport ublk >/dev/null
upgrade /tmp/new/trueno-ublk
must trueno-ublk remove 0
[ ! -s /tmp/told ] || fail "systemd was told: $(cat /tmp/told)"
kernel_is_content
