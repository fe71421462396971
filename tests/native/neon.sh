#!/bin/bash
# claim: on AArch64 the codecs pass their tests, and a forced NEON backend runs NEON, under emulation
# tools: rustc:arm64 aarch64-linux-gnu-gcc qemu-aarch64-static
# tier: medium
# timeout: 900
# Debian's compiler, since Debian has the standard library of the other architecture for it.
set -u
fail() {
    echo "FAILED: $*"
    exit 1
}

target=aarch64-unknown-linux-gnu
export RUSTC=/usr/bin/rustc
export CARGO_TARGET_DIR=${TRUENO_UBLK%/release/*}/aarch64
export CC_aarch64_unknown_linux_gnu=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
# Linked statically: with the C library as a library, QEMU 7.2 may hang where a thread is made.
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS=-Ctarget-feature=+crt-static
runner=CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER

# All of the core's but `no_alloc`, which replaces a malloc that is linked statically here.
env $runner=qemu-aarch64-static cargo test --package trueno-zram-core --target $target --lib \
    --test codecs --test compressor --test dictionary --test hostile --test lz4 --test seeds >"$SCRATCH/tests" 2>&1
status=$?
cat "$SCRATCH/tests"
[ $status = 0 ] || fail "cargo test: status $status"
echo "report tests=$(awk '/^test result: ok/ { n += $4 } END { print n }' "$SCRATCH/tests")"

# translated TEST INSTRUCTION: how many of that instruction the emulator found on its way through our
# code. The search for pages of one word ends each step with one reduction of NEON, and LZ4's
# comparison with one narrowing shift.
translated() {
    env "$runner=qemu-aarch64-static -d in_asm -D $SCRATCH/$1" cargo test --package trueno-zram-core \
        --target $target --test neon "$1" >"$SCRATCH/run" 2>&1
    grep -q '^test result: ok. 1 passed' "$SCRATCH/run" || fail "$(cat "$SCRATCH/run")"
    awk -v name="$2" '/^IN:/ { ours = /trueno_zram_core/ } ours && $0 ~ name { n++ } END { print n + 0 }' \
        "$SCRATCH/$1"
}
for pair in search:umaxv lz4:shrn; do
    neon=$(translated "${pair%:*}_by_neon" "${pair#*:}") || fail "$neon"
    scalar=$(translated "${pair%:*}_by_scalar" "${pair#*:}") || fail "$scalar"
    echo "report ${pair#*:}: neon=$neon scalar=$scalar"
    [ "$neon" -gt 0 ] || fail "${pair%:*} on the NEON backend runs no NEON"
    [ "$scalar" = 0 ] || fail "${pair%:*} on the scalar backend runs NEON"
done
