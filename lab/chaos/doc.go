// Package chaos breaks a fabric of real daemons in every way that it is told
// of, again and again, under traffic, and measures how it comes back.
//
// A fault is done from outside, by the commands that a stranger would use, and
// its repair is judged from outside: the whole network state of the host is
// read by netlink, nft and from files, and has to be what it was before, with
// everything that is not flannel-ng's. The daemon is never asked whether all is
// well. Loss is counted packet by packet between all pairs of containers.
//
// It owns the table of faults, their judging, and the result's tables. It never
// helps a daemon. Called by `lab chaos` (make chaos) and, in a short form, by
// the tests.
package chaos
