# claim: a 512 MB machine swaps 700 MB of real memory to the device and gets every page back
# mem: 512
# pages: yes
# timeout: 420
. /test/lib.sh
watch_for_hangs
swap_real swap_512 700 2 640M --reserve 16M
end_swap
