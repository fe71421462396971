# claim: the checks find no fault with the kernel's own zram, so a fault they find is the device's
# tier: short
# kernels: 6.12 7.x
# mem: 256
# bins: vm-guest
# modules: zram
# pages: yes
# timeout: 120
. /test/lib.sh

make_zram 64M
must vm-guest raw-test "$zram" --count 2000
must vm-guest overlap "$zram" --count 200

watch_for_hangs
make_zram 400M
must mkswap "$zram"
must swapon "$zram"
start=$(now)
vm-guest hog --mb 260 --passes 1 --procs 2 --pages /test/pages.raw &
hog=$!
vm-guest ticker --while $hog --max-gap 5000 &
ticker=$!
wait $hog || fail "the hog ended with status $?"
report seconds "$(since "$start")"
kill -TERM $ticker
wait $ticker || fail "the ticker ended with status $?"
[ "$(vmstat pswpout)" -gt 5000 ] || fail "nothing was swapped"
kernel_is_content
