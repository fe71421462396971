#!/bin/bash
# claim: nothing in the codecs reads memory that nobody wrote, or that is not theirs, as valgrind finds
# tools: valgrind
# tier: medium
# timeout: 600
# On whatever vectors valgrind has: AVX2 at most.
set -u
fail() {
    echo "FAILED: $*"
    exit 1
}

cargo test --config "target.'cfg(all())'.runner = ['valgrind', '--quiet', '--error-exitcode=9']" \
    --package trueno-zram-core --lib --test lz4 --test seeds >"$SCRATCH/tests" 2>&1
status=$?
cat "$SCRATCH/tests"
[ $status = 0 ] || fail "cargo test: status $status"
! grep '^==[0-9]*== ' "$SCRATCH/tests" || fail "valgrind has something to say"
echo "report tests=$(awk '/^test result: ok/ { n += $4 } END { print n }' "$SCRATCH/tests")"
