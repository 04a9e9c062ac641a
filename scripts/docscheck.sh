#!/bin/sh
# Fails if a generated document differs from what the code says now.
set -eu
before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
cp -R docs "$before/docs"
go generate -skip bpf2go ./... # scripts/bpf.sh looks after that
if ! diff -ru "$before/docs" docs; then
    echo "Generated documents were out of date; they are renewed, commit them." >&2
    exit 1
fi
