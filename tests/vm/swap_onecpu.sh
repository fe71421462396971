# claim: a machine with one CPU, where every page waits for a task switch, swaps and gets every page back
# cpus: 1
# pages: yes
# timeout: 300
. /test/lib.sh
watch_for_hangs
swap_real swap_onecpu 480 1 480M --reserve 16M
end_swap
