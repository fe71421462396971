# claim: swapping 700 MB of real memory on a 512 MB machine loses nothing, on the kernel's zram or on ours; how long each takes
# mem: 512
# pages: yes
# tier: long
# timeout: 800
. /test/lib.sh
watch_for_hangs
make_zram_swap 640M
press --mb 700 --passes 2 --pages /test/pages.raw
[ "$hog_status" = 0 ] || fail "the hog fails on zram: $hog_line"
press_report "swap_zram zram"
zram_ms=$(value_of total_ms "$hog_line")
end_zram_swap
swap_real swap_zram 700 2 640M --reserve 16M
our_ms=$(value_of total_ms "$hog_line")
report "swap_zram time against zram: $(awk -v a="$our_ms" -v b="$zram_ms" 'BEGIN { printf "%.2f", a / b }')"
end_swap
