// Package outage measures what a fabric of real daemons does while its store is
// out of reach, and while its daemons are restarted: packets lost of steady
// flows, processor time, lines in logs, time to recover.
//
// It owns its fabrics and the tables. It never changes what it measures. Called
// by `lab outage` and `lab restart`.
package outage
