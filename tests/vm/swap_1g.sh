# claim: a 1 GB machine swaps 1.2 GB of real memory to the device and gets every page back
# mem: 1024
# pages: yes
# timeout: 420
. /test/lib.sh
watch_for_hangs
swap_real swap_1g 1200 1 1G
end_swap
