#!/bin/sh
# Fails if the committed kernel programs are not what their source compiles to.
# Another compiler makes other code of the same source, so there is one version.
set -eu
clang=clang-14
if ! command -v $clang >/dev/null 2>&1; then
    echo "The kernel programs are compiled by $clang, which is missing: scripts/deps.sh check installs it." >&2
    exit 1
fi
echo "$($clang --version | head -n1)"
before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
cp internal/bpf/fastpath_bpfe[bl].* "$before"
go generate ./internal/bpf
for f in "$before"/*; do
    if ! cmp "$f" "internal/bpf/$(basename "$f")"; then
        echo "The kernel programs were out of date; they are renewed, commit them." >&2
        exit 1
    fi
done
