#!/bin/sh
# mk-docker-opts.sh [-f subnet.env] [-d docker_opts.env] [-i] [-c] [-k key] [-m]
#
# Flannel's script of this name: the work is done by `flannelctl docker-opts`,
# which is looked for beside this script and then in PATH.
set -eu

# Without a slash in $0 (`sh mk-docker-opts.sh`) the script is in the current
# directory, or the shell found it in PATH.
case $0 in
*/*) dir=${0%/*} ;;
*) if [ -f "$0" ]; then dir=.; else
	dir=$(command -v -- "$0") || dir=./
	dir=${dir%/*}
fi ;;
esac
flannelctl=${dir:-/}/flannelctl
[ -x "$flannelctl" ] || flannelctl=flannelctl

# Asking for help always was an error here.
if [ "${1-}" = -h ]; then
	"$flannelctl" docker-opts --help >&2
	exit 1
fi
exec "$flannelctl" docker-opts "$@"
