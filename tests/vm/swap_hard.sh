# claim: two fast writers of poorly compressible memory and a reserve of 8 MiB: swapping goes on, nothing is lost
# mem: 512
# timeout: 420
. /test/lib.sh
watch_for_hangs
make_swap 480M --reserve 8M
press --mb 480 --passes 1 --procs 2 --poor
press_report "swap_hard ublk"
# Now and then the reserve may run dry; then a write fails at once and the kernel keeps the page.
[ "$hog_status" = 0 ] || fail "the hog ended with status $hog_status: $hog_line"
[ -e "/proc/$daemon" ] || fail "the daemon is gone"
complaints=$(dmesg | grep -E 'blocked for more than|Out of memory|BUG:|WARNING:|soft lockup')
[ -z "$complaints" ] || fail "$complaints"
in_time
end_swap
