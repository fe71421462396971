# claim: when swap is full, programs get an error or the OOM killer acts; the machine lives and nothing verified is wrong
# mem: 512
# pages: yes
# timeout: 300
. /test/lib.sh
watch_for_hangs
make_swap 96M --reserve 8M
press --mb 700 --passes 1 --procs 3 --pages /test/pages.raw
press_report "swap_full ublk"
# 3: a worker was killed, and no page that was verified was wrong.
[ "$hog_status" = 3 ] || fail "the hog ended with status $hog_status, 3 was expected: $hog_line"
[ "$(value_of bad "$hog_line")" = 0 ] || fail "$hog_line"
[ "$(worker)" = "$daemon" ] || fail "the daemon is gone"
complaints=$(dmesg | grep -E 'blocked .*for more than|BUG:|soft lockup')
[ -z "$complaints" ] || fail "$complaints"
[ "$(value_of gap_ms "$ticker_line")" -lt 1000 ] || slow "$ticker_line"
# The machine goes on: swap still works. (Some 320 MB find memory, and 7.x keeps pages in both places
# until its swap is full: with 380 MB there was once no room for all.)
press --mb 350 --passes 1 --pages /test/pages.raw
[ "$hog_status" = 0 ] || fail "the hog ended with status $hog_status: $hog_line"
[ "$(value_of pswpout "$ticker_line")" -gt 1000 ] || fail "nothing was swapped: $ticker_line"
end_swap
