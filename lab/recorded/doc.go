// Package recorded compares what plain flannel v0.28.9 leaves on two hosts, as
// recorded in lab/testdata/recorded, with what flannel-ng leaves on the same
// two: etcd, subnet.env, the kernel's own words, and packets on the wire.
//
// It owns how a run is read and put into symbols (normalise.go), the table of
// admitted differences with their reasons (differences.txt), and
// docs/recorded-facts.md, which is that table for people. It starts no process
// and touches no host. Called by its tests, which make the runs, and docgen.
package recorded

//go:generate go run ./docgen ../testdata/recorded ../../docs/recorded-facts.md
