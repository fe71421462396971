# claim: a 256 MB machine swaps to the device and gets every page back
# mem: 256
# pages: yes
# timeout: 300
. /test/lib.sh
watch_for_hangs
swap_real swap_256 240 2 320M --reserve 8M
end_swap
