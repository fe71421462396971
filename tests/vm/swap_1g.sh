# claim: a 1 GB machine swaps 1.2 GB of real memory to the device and gets every page back
# mem: 1024
# pages: yes
# timeout: 420
. /test/lib.sh
watch_for_hangs
make_swap 1G
press --mb 1200 --passes 1 --pages /test/pages.raw
press_report "swap_1g ublk"
swap_held
end_swap
