// Package bench measures what flannel-ng costs beside what the kernel can do by
// itself: carrying packets, and following thousands of peers.
//
// Absolute figures say more about the machine and its neighbours than about us.
// So every run has its yardsticks in it (plain kernel set-ups by iproute2 and
// `ip -batch`), rows take turns within each round, and what counts is the median
// over the rounds of the ratio to the yardstick in the same round. How much of
// the machine other processes used meanwhile is part of the result.
//
// It owns its fabrics and the result file. It never changes what it measures:
// real daemons, containers behind bridges as users have them. Called by
// `lab bench`.
package bench
