# claim: a byte changed in the store's memory is found by `scrub` and by no other page's reader, under swap too
# mem: 256
# pages: yes
# timeout: 400
. /test/lib.sh
watch_for_hangs

# Change a letter of page 700's words in the store's file: they do not repeat, so the block has them
# as they are.
damage() {
    store=/run/trueno-ublk/0/memory/store
    at=$(head -c 16777216 $store | strings -t d | awk '
        { from = $1; sub(/^ *[0-9]+ /, ""); found = index($0, "this page is going") }
        found { print from + found - 1; exit }')
    [ -n "$at" ] || fail "the words are not in $store"
    printf T | dd of=$store bs=1 seek="$at" conv=notrunc 2>/dev/null || fail "cannot write to $store"
}

must trueno-ublk create --size 64M --dev-id 0 --transport ublk
must_not trueno-ublk scrub 0 --rate 0
trueno-ublk scrub 0 --rate fast
[ $? = 2 ] || fail "a rate that is none is not wrong usage"
yes 'words that a codec makes small' | head -c 4096000 >/tmp/data
printf 'this page is going to be damaged' | dd of=/tmp/data bs=4096 seek=700 conv=notrunc 2>/dev/null
must dd if=/tmp/data of=/dev/ublkb0 bs=4096 conv=fsync 2>/dev/null
must trueno-ublk scrub 0
damage
trueno-ublk scrub 0 >/tmp/scrub
[ $? = 1 ] || fail "scrub did not end with status 1: $(cat /tmp/scrub)"
grep -q 'damaged: page 700 (byte 2867200)' /tmp/scrub || fail "scrub says $(cat /tmp/scrub)"
echo 3 >/proc/sys/vm/drop_caches
must_not dd if=/dev/ublkb0 of=/dev/null bs=4096 skip=700 count=1 iflag=direct 2>/dev/null
for part in "0 700" "701 299"; do
    set -- $part
    dd if=/dev/ublkb0 bs=4096 skip="$1" count="$2" iflag=direct 2>/dev/null >/tmp/back
    dd if=/tmp/data bs=4096 skip="$1" count="$2" 2>/dev/null | cmp - /tmp/back || fail "the pages from $1 on differ"
done
must wait_for 10 grep -q 'page 700 (byte 2867200) is damaged: a read of it failed' /run/trueno-ublk/0.log
must grep -q 'scrub: page 700 (byte 2867200) is damaged' /run/trueno-ublk/0.log
trueno-ublk stat 0 --json >/tmp/stat.json
grep -q '"failed_reads": [1-9]' /tmp/stat.json || fail "stat: $(cat /tmp/stat.json)"
grep -q '"damaged_objects": [2-9]' /tmp/stat.json || fail "stat: $(cat /tmp/stat.json)"
must trueno-ublk remove 0

# That one read had to fail; nothing else may.
dmesg -c | grep -v 'I/O error, dev ublkb0, sector 5600 ' >/tmp/dmesg
must_not grep -E 'I/O error|WARNING:|BUG:' /tmp/dmesg

# Under swap, with the heap guard: real pages go out and come back while one scrub follows another.
make_swap 320M --reserve 8M
refused "serves swap" trueno-ublk compact 0
# By a standby that has taken over: it has mapped memory that another process filled.
first=$daemon
kill -9 "$first"
must wait_for 30 sh -c '. /test/lib.sh; [ -n "$(standby)" ] && [ "$(worker)" != '"$first"' ]'
daemon=$(worker)
faults >/tmp/faults.before
while [ ! -e /tmp/enough ]; do
    trueno-ublk scrub 0 --rate 16M >/tmp/scrub 2>&1 || break
    echo round >>/tmp/rounds
done &
scrubs=$!
press --mb 240 --passes 1 --pages /test/pages.raw
touch /tmp/enough
must wait $scrubs
grep -q ' 0 damaged' /tmp/scrub || fail "scrub says $(cat /tmp/scrub)"
press_report "scrub"
report "scrub: rounds=$(wc -l </tmp/rounds) last: $(cat /tmp/scrub)"
swap_held
end_swap
