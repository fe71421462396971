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
    --test codecs --test compressor --test hostile --test lz4 --test seeds >"$SCRATCH/tests" 2>&1
status=$?
cat "$SCRATCH/tests"
[ $status = 0 ] || fail "cargo test: status $status"
echo "report tests=$(awk '/^test result: ok/ { n += $4 } END { print n }' "$SCRATCH/tests")"

# translated BACKEND: how many instructions of NEON's reduction, which the search for pages of one
# word ends each step with, the emulator found on its way through our code.
translated() {
    env "$runner=qemu-aarch64-static -d in_asm -D $SCRATCH/$1" cargo test --package trueno-zram-core \
        --target $target --test neon "search_by_$1" >"$SCRATCH/search" 2>&1
    grep -q '^test result: ok. 1 passed' "$SCRATCH/search" || fail "$(cat "$SCRATCH/search")"
    awk '/^IN:/ { ours = /trueno_zram_core/ } ours && /umaxv/ { n++ } END { print n + 0 }' "$SCRATCH/$1"
}
neon=$(translated neon) || fail "$neon"
scalar=$(translated scalar) || fail "$scalar"
echo "report reductions: neon=$neon scalar=$scalar"
[ "$neon" -gt 0 ] || fail "the NEON backend runs no NEON"
[ "$scalar" = 0 ] || fail "the scalar backend runs NEON"
