package ctl

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/report"
)

// writeStatus writes the whole status for people: first whether all is well,
// then the facts, then the peers, then everything that is wrong.
func writeStatus(w io.Writer, s report.Status, now time.Time) {
	put(w, "%s\n\n", headline(s, now))
	for _, row := range facts(s, now) {
		put(w, "%-10s %s\n", row[0], row[1])
	}
	section(w, "peers ("+strconv.Itoa(len(s.Peers))+")", peerRows(s.Peers))
	section(w, "failures", failureRows(s.Pass.Failures))
	section(w, "rejected store entries", rejectedRows(s.Rejected))
	lines(w, "not ready because", s.NotReady)
	lines(w, "warnings", s.Warnings)
}

func headline(s report.Status, now time.Time) string {
	word := "ready"
	if !s.Ready {
		word = "NOT READY"
	}
	out := fmt.Sprintf("flanneld %s on %s: %s, up %s", s.Version, s.Hostname, word, span(now.Sub(s.Started)))
	if s.Instance != "" {
		out += ", instance " + s.Instance
	}
	return out
}

func facts(s report.Status, now time.Time) [][2]string {
	out := [][2]string{
		{"host id", s.HostID},
		{"network", network(s.Network)},
		{"lease", ownLease(s.Lease, now)},
		{"uplink", uplink(s.Uplink)},
		{"store", storeLine(s.Store)},
	}
	if s.Change.Carrier != "" {
		out = slices.Insert(out, 2, [2]string{"carrier", oneLine(s.Change.String())})
	}
	if s.Tunnel != nil {
		out = append(out, [2]string{"tunnel", tunnel(*s.Tunnel)})
	}
	return append(out, [2]string{"last pass", pass(s.Pass, now)}, [2]string{"changes", changes(s.Pass.Changes)})
}

func tunnel(t report.Tunnel) string {
	var out []string
	if t.Error != "" {
		out = append(out, "forwarder does not answer: "+oneLine(t.Error))
	} else {
		out = append(out, fmt.Sprintf("forwarder %d", t.PID))
	}
	// Without the forwarder's own these are the packets that the kernel carried.
	if t.Error == "" || t.FastPath == "on" {
		out = append(out, fmt.Sprintf("sent %d packets, received %d", t.SentPackets, t.ReceivedPackets))
	}
	if t.Offload != "" {
		out = append(out, "offload "+oneLine(t.Offload))
	}
	switch t.FastPath {
	case "":
	case "on":
		out = append(out, fmt.Sprintf("kernel on (%d, %d)", t.KernelSentPackets, t.KernelReceivedPackets))
	default:
		out = append(out, "kernel "+oneLine(t.FastPath))
	}
	for _, reason := range slices.Sorted(maps.Keys(t.Dropped)) {
		if n := t.Dropped[reason]; n > 0 {
			out = append(out, fmt.Sprintf("dropped %d %s", n, reason))
		}
	}
	return strings.Join(out, ", ")
}

func network(n report.Network) string {
	if len(n.Networks) == 0 {
		return "no config yet"
	}
	return fmt.Sprintf("%s, %s, %s, MTU %d", strings.Join(n.Networks, " "), n.Backend, n.Firewall, n.MTU)
}

func ownLease(l report.Lease, now time.Time) string {
	out := strings.TrimSpace(strings.Join(l.Subnets, " ") + " " + l.State)
	if len(l.Public) > 0 {
		out += " as " + strings.Join(l.Public, " ")
	}
	// A lease that is not held and has no end is from the last known good picture.
	if len(l.Subnets) > 0 && (l.State == lease.Owned.String() || !l.Expires.IsZero()) {
		out += ", " + expiry(l.Expires, now)
	}
	if l.Reason != "" {
		out += ": " + oneLine(l.Reason)
	}
	return out
}

func uplink(u report.Uplink) string {
	if u.Name == "" {
		return "none found yet"
	}
	return fmt.Sprintf("%s, %s, MTU %d", u.Name, strings.Join(u.Sources, " "), u.MTU)
}

func storeLine(s report.Store) string {
	out := fmt.Sprintf("%s, revision %d, ", s.Kind, s.Revision)
	switch {
	case s.LastKnownGood:
		out += "LAST KNOWN GOOD, seen live " + span(s.Age) + " ago"
	case s.Age > 0:
		out += "NOT REACHABLE for " + span(s.Age)
	case s.Synced:
		out += "live"
	default:
		out += "not synced yet"
	}
	if s.Error != "" {
		out += ": " + oneLine(s.Error)
	}
	return out
}

func pass(p report.Pass, now time.Time) string {
	if p.Passes == 0 {
		return "none yet"
	}
	return fmt.Sprintf("%s ago, took %s, %d since the start, %d failing",
		span(now.Sub(p.At)), p.Duration.Round(time.Millisecond/10), p.Passes, len(p.Failures))
}

func changes(n map[string]int64) string {
	var out []string
	for _, what := range slices.Sorted(maps.Keys(n)) {
		out = append(out, fmt.Sprintf("%s %d", what, n[what]))
	}
	if len(out) == 0 {
		return "none since the start"
	}
	return strings.Join(out, ", ")
}

func peerRows(peers []report.Peer) [][]string {
	rows := [][]string{{"SUBNETS", "NODE", "BACKEND", "HOST", "STATE"}}
	for _, p := range peers {
		state := p.State
		if p.Error != "" {
			state += ": " + oneLine(p.Error)
		}
		rows = append(rows, []string{
			strings.Join(p.Subnets, " "), strings.Join(p.Public, " "), p.Backend, host(p.Owner), state,
		})
	}
	return rows
}

func failureRows(fs []report.Failure) [][]string {
	rows := [][]string{{"OBJECT", "ERROR"}}
	for _, f := range fs {
		rows = append(rows, []string{oneLine(f.Object), oneLine(f.Error)})
	}
	return rows
}

func rejectedRows(rs []report.Rejected) [][]string {
	rows := [][]string{{"KEY", "REASON"}}
	for _, r := range rs {
		rows = append(rows, []string{oneLine(r.Key), oneLine(r.Reason)})
	}
	return rows
}

// section writes a table under a title, and nothing if it has only a heading.
func section(w io.Writer, title string, rows [][]string) {
	if len(rows) < 2 {
		return
	}
	put(w, "\n%s\n", title)
	table(w, rows)
}

func lines(w io.Writer, title string, texts []string) {
	if len(texts) == 0 {
		return
	}
	put(w, "\n%s\n", title)
	for _, text := range texts {
		put(w, "- %s\n", oneLine(text))
	}
}

// host names a holder: the start of its random id, or that it has none.
func host(owner string) string {
	const enough = 8
	switch {
	case owner == "":
		return "flannel"
	case len(owner) > enough:
		return owner[:enough]
	default:
		return owner
	}
}

// expiry says when a lease ends; the zero time is never.
func expiry(at, now time.Time) string {
	switch {
	case at.IsZero():
		return "reserved, never expires"
	case !at.After(now):
		return "EXPIRED " + span(now.Sub(at)) + " ago"
	default:
		return "expires in " + span(at.Sub(now))
	}
}

// span rounds a duration to what people care about.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0s"
	case d < time.Minute:
		return d.Truncate(time.Second).String()
	case d < 48*time.Hour:
		text := strings.TrimSuffix(d.Truncate(time.Minute).String(), "0s")
		if strings.HasSuffix(text, "h0m") {
			text = strings.TrimSuffix(text, "0m")
		}
		return text
	default:
		return fmt.Sprintf("%dd", int(d.Hours())/24)
	}
}
