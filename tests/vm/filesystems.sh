# claim: ext4 and xfs keep their files over unmount and remount, are clean, and give memory back after fstrim
# tools: mkfs.ext4 e2fsck mkfs.xfs xfs_repair
# modules: ublk_drv ext4 xfs
# pages: yes
# timeout: 300
. /test/lib.sh
watch_for_hangs

used() {
    trueno-ublk stat 0 --mm-stat | awk '{ print $3 }'
}

# What stays after the files are gone: the filesystem's metadata, and partly filled slabs.
few_in_use() {
    after=$(used)
    [ "$after" -le $((start + full / 10 + 8388608)) ]
}

# Real files: programs, libraries and memory pages, several copies in directories.
fill() {
    for copy in 1 2 3 4; do
        mkdir -p "$1/$copy" || return 1
        cp -r /usr /bin /lib* /test "$1/$copy/" || return 1
    done
}

same() {
    (cd / && find usr bin lib* test -type f) | while read -r file; do
        for copy in 1 2 3 4; do
            cmp "/$file" "$1/$copy/$file" || echo "$file differs"
        done
    done >/tmp/differences
    [ ! -s /tmp/differences ] || fail "$(head -3 /tmp/differences)"
}

# check MKFS FSCK
check() {
    type=${1%% *} type=${type#mkfs.}
    must trueno-ublk create --size 1G --dev-id 0 --transport ublk
    must $1 /dev/ublkb0
    must mount -t $type -o discard /dev/ublkb0 /mnt
    sync
    start=$(used)
    must fill /mnt
    must umount /mnt
    full=$(used)
    must mount -t $type /dev/ublkb0 /mnt
    same /mnt
    stored=$(trueno-ublk stat 0 --mm-stat | awk '{ print $1 }')
    files=$(du -sk /mnt | awk '{ print $1 * 1024 }')
    [ "$stored" -ge "$files" ] || fail "$stored bytes are stored of $files in files"
    rm -rf /mnt/[1-4]
    # xfs frees the blocks of deleted files in its own time; unmounting waits for that.
    must umount /mnt
    must mount -t $type -o discard /dev/ublkb0 /mnt
    must fstrim /mnt
    # The daemon compacts behind the discards, in small steps.
    wait_for 30 few_in_use || fail "$after bytes are still in use: $(trueno-ublk stat 0 --mm-stat)"
    report "filesystem=$type files=$files used=$full after_fstrim=$after at_start=$start"
    must umount /mnt
    must $2 /dev/ublkb0
    must_not trueno-ublk stat 7
    must trueno-ublk remove 0
}

check "mkfs.ext4 -q" "e2fsck -f -n"
check "mkfs.xfs -q -f" "xfs_repair -n"
kernel_is_content
