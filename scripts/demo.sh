#!/bin/sh
# Runs the demo as root, with the settings of `make demo`.
set -eu
keep=
[ "${KEEP:-0}" = 0 ] || keep=--keep
set -- ./bin/lab demo --family "${FAMILY:-dual}" --firewall "${FIREWALL:-nft}" --hosts "${HOSTS:-3}" --backend "${BACKEND:-vxlan}" $keep
exec ./scripts/asroot.sh "$@"
