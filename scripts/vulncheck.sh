#!/bin/sh
# Looks for known vulnerabilities in what we call. A finding is fatal; that the
# database cannot be reached is said and is not, so that work goes on offline.
# Usage: scripts/vulncheck.sh GOVULNCHECK
set -u
out=$("$1" ./... 2>&1)
status=$?
case $status in
0) echo "$out" | tail -n 1 ;;
3) echo "$out"; exit 1 ;;
*) echo "NOT CHECKED for vulnerabilities (govulncheck exit $status):"; echo "$out" | tail -n 3 ;;
esac
