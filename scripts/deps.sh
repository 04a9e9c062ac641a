#!/bin/sh
# Installs the programs that building, testing and the demo call, if they are
# missing: nothing else, and nothing when all are there.
# Usage: scripts/deps.sh [run|test|check]   (run: demo and lab; test: also the compiler for -race and qemu;
# check: the compiler of the kernel programs, and nothing else)
set -eu

want="ip:iproute2 bridge:iproute2 nft:nftables iptables:iptables ip6tables:iptables
      conntrack:conntrack etcdctl:etcd-client ping:iputils-ping tcpdump:tcpdump ethtool:ethtool
      modprobe:kmod nsenter:util-linux sysctl:procps git:git make:make"
if [ "${1:-run}" = test ]; then
    want="$want gcc:gcc qemu-s390x:qemu-user openssl:openssl"
fi

if [ "${1:-run}" = check ]; then
    want="clang-14:clang-14 llvm-strip-14:llvm-14"
fi

PATH=$PATH:/usr/sbin:/sbin
missing=
for pair in $want; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
# The race detector links against libc.
if [ "${1:-run}" = test ] && [ ! -e /usr/include/stdlib.h ]; then
    missing="$missing libc6-dev"
fi
[ -n "$missing" ] || exit 0
packages=$(printf '%s\n' $missing | sort -u | tr '\n' ' ')

if ! command -v apt-get >/dev/null 2>&1; then
    echo "Please install the packages that hold these (Debian names): $packages" >&2
    exit 1
fi
as_root=
if [ "$(id -u)" -ne 0 ]; then
    as_root=sudo
    command -v sudo >/dev/null 2>&1 || { echo "Needs root or sudo to install: $packages" >&2; exit 1; }
fi
echo "Installing: $packages"
$as_root apt-get update -q
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages
