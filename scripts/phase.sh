#!/bin/sh
# Runs one phase of a longer job and says how long it took. A phase that ends
# with 77 could not be done here: that is said, and is no failure.
# Usage: scripts/phase.sh NAME COMMAND…
name=$1
shift
printf '\n==> %s\n' "$name"
begin=$(date +%s)
status=0
"$@" || status=$?
took=$(($(date +%s) - begin))
if [ $status -eq 77 ]; then
    printf '==> %s: NOT DONE, %d s\n' "$name" "$took"
    exit 0
fi
if [ $status -ne 0 ]; then
    printf '==> %s: FAILED after %d s\n' "$name" "$took"
    exit $status
fi
printf '==> %s: ok, %d s\n' "$name" "$took"
