# claim: a swap device that chooses an algorithm for each page loses nothing, and its standby goes on with all of them
# mem: 512
# pages: yes
# timeout: 300
. /test/lib.sh
watch_for_hangs
swap_real swap_adaptive 560 1 640M --reserve 16M --algorithm adaptive
trueno-ublk stat 0 --json >/tmp/stat.json
report "swap_adaptive: $(tr -d ' \n' </tmp/stat.json | sed 's/.*"chosen":\(\[[^]]*\]\).*/\1/')"
chosen=$(tr -d ' \n' </tmp/stat.json | sed 's/.*"chosen":\[\([^]]*\)\].*/\1/' | tr '{' '\n' | grep -c '"pages":[1-9]')
[ "$chosen" -ge 2 ] || fail "one algorithm was chosen for all pages: $(cat /tmp/stat.json)"

# What is on the device now, of several algorithms, is another process's to give back.
vm-guest hog --mb 560 --passes 1 --pages /test/pages.raw >/tmp/hog.out 2>&1 &
hog=$!
must wait_for 60 sh -c '[ "$(awk "/ublkb0/ { print \$4 }" /proc/swaps)" -gt 100000 ]'
first=$daemon
kill -9 "$first"
must wait_for 30 sh -c '. /test/lib.sh; [ -n "$(standby)" ] && [ "$(worker)" != '"$first"' ]'
daemon=$(worker)
must wait $hog
[ "$(trueno-ublk stat 0 --io-stat | awk '{ print $1 }')" = 0 ] || fail "reads have failed"
kernel_is_content
end_swap
