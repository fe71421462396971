# claim: a 512 MB machine swaps 700 MB of real memory to the device and gets every page back
# mem: 512
# pages: yes
# timeout: 420
. /test/lib.sh
watch_for_hangs
make_swap 640M --reserve 16M
press --mb 700 --passes 2 --pages /test/pages.raw
press_report "swap_512 ublk"
swap_held
end_swap
