#!/bin/sh
# Runs the demo as root, with the settings of `make demo`.
set -eu
case "${KEEP:-0}" in
0 | n | no | false) keep= ;;
*) keep=--keep ;;
esac
set -- ./bin/lab demo --family "${FAMILY:-dual}" --firewall "${FIREWALL:-nft}" --hosts "${HOSTS:-3}" --backend "${BACKEND:-vxlan}" $keep
exec ./scripts/asroot.sh "$@"
