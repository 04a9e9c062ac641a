#!/bin/sh
# Looks for known vulnerabilities in what we call. A finding is fatal; that the
# tool or its database cannot be fetched (exit 77) is not, so that work goes on
# offline.
# Usage: scripts/vulncheck.sh GOVULNCHECK VERSION   (a file, built if missing)
set -u
tool=$1 version=$2

not_checked() {
    echo "NOT CHECKED for known vulnerabilities: $1"
    echo "$out" | tail -n 3
    exit 77
}

if [ ! -x "$tool" ]; then
    out=$(GOBIN=$(dirname "$tool") go install "golang.org/x/vuln/cmd/govulncheck@$version" 2>&1) ||
        not_checked "govulncheck $version cannot be built"
    mv "$(dirname "$tool")/govulncheck" "$tool"
fi
out=$("$tool" ./... 2>&1)
case $? in
0) echo "$out" | tail -n 1 ;;
3) echo "$out"; exit 1 ;;
*) not_checked "govulncheck cannot run" ;;
esac
