// Package traffic makes load between two containers and counts what arrives:
// bytes of TCP streams, datagrams of a flood, round trips.
//
// The lab brings its own generator because iperf3 sends one datagram per system
// call, which measures the system call and not the path, runs all streams on one
// thread, and has no round-trip times. Here datagrams leave and arrive in
// batches (sendmmsg, recvmmsg), and what counts is what the receiver has counted
// between two moments of its own clock, so starting and stopping costs nothing.
//
// It owns its sockets and nothing else; it never measures by itself how long.
// Called by `lab traffic`, which package bench starts inside containers.
package traffic
