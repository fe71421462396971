# claim: of 20 000 blocks read at once after they were written, not one is stale
# timeout: 240
. /test/lib.sh
watch_for_hangs
must trueno-ublk create --size 256M --dev-id 0 --transport ublk --queues 2
from=$(now)
must vm-guest raw-test /dev/ublkb0 --count 20000
report "raw_test_seconds=$(since "$from")"
must trueno-ublk remove 0
kernel_is_content
