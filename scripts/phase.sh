#!/bin/sh
# Runs one phase of a longer job and says how long it took.
# Usage: scripts/phase.sh NAME COMMAND…
name=$1
shift
printf '\n==> %s\n' "$name"
begin=$(date +%s)
status=0
"$@" || status=$?
took=$(($(date +%s) - begin))
if [ $status -ne 0 ]; then
    printf '==> %s: FAILED after %d s\n' "$name" "$took"
    exit $status
fi
printf '==> %s: ok, %d s\n' "$name" "$took"
