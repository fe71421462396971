# claim: concurrent overlapping writes leave, in each block, one of the values written
# timeout: 240
. /test/lib.sh
watch_for_hangs
must trueno-ublk create --size 64M --dev-id 0 --transport ublk --queues 2
must vm-guest overlap /dev/ublkb0 --count 400
must trueno-ublk remove 0
must trueno-ublk create --size 64M --dev-id 0 --transport ublk --queues 2 --block-size 512
must vm-guest overlap /dev/ublkb0 --count 400
must trueno-ublk remove 0
kernel_is_content
