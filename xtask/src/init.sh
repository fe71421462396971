#!/bin/busybox sh
# The first process of a guest. Console output is the log; the second serial line carries what the
# host acts upon (`up`, `report`, `exit`), so that no kernel message can fall in between.
/bin/busybox --install -s /bin
export PATH=/usr/bin:/bin:/sbin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t debugfs debugfs /sys/kernel/debug 2>/dev/null
ln -s /proc/self/fd /dev/fd
ln -s /proc/mounts /etc/mtab
exec </dev/null >/dev/console 2>&1
stty raw </dev/ttyS1
ip link set lo up 2>/dev/null
read -r uptime _ </proc/uptime
echo "up $uptime $(uname -r)" >/dev/ttyS1
while read -r module; do
    modprobe "$module" || echo "cannot load $module"
done </test/modules
. /test/arguments.sh
sh /test/script.sh "$@"
echo "exit $?" >/dev/ttyS1
sync
poweroff -f
