#!/bin/sh
# Runs a program as root with our environment: `go test -exec`. Namespaces need it.
if [ "$(id -u)" -eq 0 ]; then
    exec "$@"
fi
exec sudo --preserve-env=FLANNEL_BIN env "PATH=$PATH:/usr/sbin:/sbin" "HOME=$HOME" "$@"
