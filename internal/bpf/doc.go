// Package bpf holds the programs that carry the udp backend's packets in the
// kernel (c/fastpath.c), and what makes, reads and changes them there: maps,
// programs and attachments, all pinned in one directory of a bpf file system,
// so that they outlive the process.
//
// It owns the pins of that directory and decides nothing: which devices,
// addresses and peers is the caller's affair (driver/fastpath). The objects are
// compiled by `make generate` and committed.
package bpf

//go:generate go tool bpf2go -cc clang-14 -go-package bpf -output-stem fastpath -target bpfel,bpfeb -type settings -type subnet -type peer -type counters fastpath c/fastpath.c -- -O2 -mcpu=v3 -Wall -Wextra -Werror
