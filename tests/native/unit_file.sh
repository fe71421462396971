#!/bin/sh
# claim: the systemd unit in docs is well formed, as systemd finds
# tools: systemd-analyze
set -u
fail() {
    echo "FAILED: $*"
    exit 1
}

# verify FILE: what systemd says of it; it says nothing of a good one.
verify() {
    systemd-analyze verify --man=no --recursive-errors=no "$1" 2>&1
}

unit=$SCRATCH/trueno-swap.service
# systemd looks whether the program is there.
sed "s,/usr/local/sbin/trueno-ublk,$TRUENO_UBLK," docs/trueno-swap.service >"$unit"
said=$(verify "$unit") || fail "$said"
[ -z "$said" ] || fail "$said"

# It would have said something.
sed -i 's/^OOMPolicy=.*/OOMPolicy=perhaps/' "$unit"
! verify "$unit" || fail "a wrong unit is not found"
