# claim: a 256 MB machine swaps to the device and gets every page back
# mem: 256
# pages: yes
# timeout: 300
. /test/lib.sh
watch_for_hangs
make_swap 320M --reserve 8M
press --mb 240 --passes 2 --pages /test/pages.raw
press_report "swap_256 ublk"
swap_held
end_swap
