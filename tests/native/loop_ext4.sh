#!/bin/sh
# claim: natively on the loop transport, 2 GB of real files survive unmount and remount byte for byte, and memory comes back
# tools: mkfs.ext4 e2fsck fstrim dumpe2fs
# timeout: 900
# Started by `cargo xtask test`, which puts our programs first in PATH and makes SCRATCH.
set -u
export TRUENO_RUN_DIR="$SCRATCH/run"
mnt=$SCRATCH/mnt
mkdir -p "$TRUENO_RUN_DIR" "$mnt"
device=

cleanup() {
    ! mountpoint -q "$mnt" || umount "$mnt"
    [ -z "$device" ] || trueno-ublk remove 0 --force >/dev/null 2>&1
}
trap cleanup EXIT
fail() {
    echo "FAILED: $*"
    exit 1
}
# Field N of mm_stat.
mm_stat() {
    trueno-ublk stat 0 --mm-stat | awk -v n="$1" '{ print $n }'
}

trueno-ublk create --size 8G --dev-id 0 --transport loop || fail "create"
device=$(trueno-ublk list --json | grep -o '/dev/loop[0-9]*' | head -1)
mkfs.ext4 -q "$device" || fail "mkfs.ext4"
mount -o discard "$device" "$mnt" || fail "mount"
sync
echo "report at_start: used=$(mm_stat 3)"

# Real files, directory by directory, until there are 2.2 GB.
directories=
bytes=0
for directory in /usr/lib /usr/share /usr/bin "$HOME/.rustup" "$HOME/.cargo/registry" /usr/include; do
    [ -d "$directory" ] || continue
    [ "$bytes" -lt 2200000000 ] || break
    directories="$directories $directory"
    bytes=$((bytes + $(du -sb "$directory" | cut -f1)))
done
for directory in $directories; do
    mkdir -p "$mnt$directory"
    cp -a "$directory/." "$mnt$directory/" || fail "copy of $directory"
done
umount "$mnt" || fail "umount"
e2fsck -f -n "$device" || fail "e2fsck"
orig=$(mm_stat 1) compressed=$(mm_stat 2) used=$(mm_stat 3) full=$used
echo "report full: files=$bytes orig=$orig compressed=$compressed used=$used" \
    "same=$(mm_stat 6) huge=$(mm_stat 8)"
[ "$orig" -ge $((bytes * 9 / 10)) ] || fail "$orig bytes are stored of $bytes"
[ "$used" -ge "$compressed" ] || fail "used $used, compressed $compressed"
[ "$used" -le $((compressed + compressed / 10)) ] || fail "used $used, compressed $compressed"

mount "$device" "$mnt" || fail "mount again"
for directory in $directories; do
    diff -r --no-dereference "$directory" "$mnt$directory" || fail "$directory differs"
done
rm -rf "${mnt:?}"/*
sync
fstrim "$mnt" || fail "fstrim"
umount "$mnt" || fail "umount"
e2fsck -f -n "$device" || fail "e2fsck after deleting"
# What ext4 itself still holds (journal, inode tables, bitmaps) stays, and nothing else.
in_use=$(dumpe2fs -h "$device" 2>/dev/null | awk -F: '
    /^Block count/ { count = $2 } /^Free blocks/ { free = $2 } END { print (count - free) * 4096 }')
orig=$(mm_stat 1) compressed=$(mm_stat 2) used=$(mm_stat 3)
echo "report deleted: file_system=$in_use orig=$orig compressed=$compressed used=$used"
[ "$orig" -le "$in_use" ] || fail "$orig bytes are stored, the file system holds $in_use"
# Compaction follows within seconds; it leaves a slab of each class, and huge pages where they are.
left=30
while used=$(mm_stat 3) && [ "$used" -gt $((full / 20)) ]; do
    [ "$left" -gt 0 ] || fail "used $used of $full"
    left=$((left - 1))
    sleep 1
done
echo "report compacted: used=$used"

blkdiscard -f "$device" || fail "blkdiscard"
# The other threads keep the slabs that they were filling.
[ "$(mm_stat 1)" = 0 ] && [ "$(mm_stat 3)" -le 8388608 ] ||
    fail "after blkdiscard: $(trueno-ublk stat 0 --mm-stat)"
trueno-ublk remove 0 || fail "remove"
device=
[ -z "$(ls -A "$TRUENO_RUN_DIR")" ] || fail "left behind: $(ls "$TRUENO_RUN_DIR")"
