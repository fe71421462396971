# claim: a swap device whose worker is killed or crashes while memory is short loses nothing: its standby goes on at once
# mem: 512
# pages: yes
# args: KILLS=10
# timeout: 420
. /test/lib.sh
watch_for_hangs
make_swap 640M --reserve 16M
[ -n "$(standby)" ] || fail "nobody stands by: $(trueno-ublk stat 0 --json)"

report "kill_swap: standby_private_kb=$(awk '/^Private_/ { kb += $2 } END { print kb }' "/proc/$(standby)/smaps_rollup")"

# A dump of the store would never end.
echo '|/bin/sleep 1000' >/proc/sys/kernel/core_pattern

# Kills $KILLS workers, every second one with an abort, each some seconds after its standby was ready.
kill_workers() {
    kills=0
    while [ $kills -lt "$KILLS" ]; do
        wait_for 60 sh -c '. /test/lib.sh; [ -n "$(standby)" ]' || exit 1
        usleep $((500000 + $(od -An -N2 -tu2 /dev/urandom) * 20))
        signal=$(echo KILL ABRT | cut -d' ' -f$((kills % 2 + 1)))
        kill -s "$signal" "$(worker)" || exit 1
        kills=$((kills + 1))
        echo $kills >/tmp/kills
    done
}
echo 0 >/tmp/kills
kill_workers &
killer=$!
press --mb 620 --passes $(((KILLS + 9) / 10)) --pages /test/pages.raw
kill $killer 2>/dev/null
kills=$(cat /tmp/kills)
cat /run/trueno-ublk/0.log
pauses=$(sed -n 's/.*standby serves \([0-9]*\) ms after.*/\1/p' /run/trueno-ublk/0.log)
press_report "kill_swap ublk"
report "kill_swap: kills=$kills pause_ms=$(echo $pauses | tr ' ' ',')"
[ "$hog_status" = 0 ] || fail "the hog ended with status $hog_status: $hog_line"
[ "$kills" = "$KILLS" ] || fail "the hog ended after $kills kills"
[ "$(echo "$pauses" | wc -l)" = "$KILLS" ] || fail "of $KILLS kills the log shows $pauses"
out=$(value_of pswpout "$ticker_line")
[ "$out" -gt 10000 ] || fail "only $out pages were swapped out: no pressure"
[ "$(trueno-ublk stat 0 --io-stat | awk '{ print $1 }')" = 0 ] || fail "reads have failed"
nothing_swapped_out
kernel_is_content
in_time

# A standby that dies is replaced.
wait_for 30 sh -c '. /test/lib.sh; [ -n "$(standby)" ]' || fail "nobody stands by"
first=$(standby)
kill -9 "$first"
second=$first
from=$(now)
while [ -z "$second" ] || [ "$second" = "$first" ]; do
    [ "$(since "$from" | cut -d. -f1)" -lt 30 ] || fail "a dead standby is not replaced"
    sleep 1
    second=$(standby)
done

# Both dead, which nothing can stand while pages are on the device: it is recovered by hand.
must swapoff /dev/ublkb0
daemon=$(worker)
kill -9 "$second" "$daemon"
must wait_for 10 sh -c 'trueno-ublk list --json | grep -q "\"recoverable\": true"'
must trueno-ublk recover 0
must swapon -d /dev/ublkb0
daemon=$(worker)
wait_for 30 sh -c '. /test/lib.sh; [ -n "$(standby)" ]' || fail "nobody stands by after recover"
end_swap
[ ! -e /run/trueno-ublk/0.lock ] || fail "remove leaves $(ls /run/trueno-ublk)"
