package outage

import (
	"fmt"
	"strings"
	"time"
)

// Text is the table of outages in Markdown.
func Text(rows []Outage, length time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| etcd, for %.0f s | CPU of a flanneld, s | log lines of a flanneld | with the recovery | packets sent | lost | in step again after, s |\n",
		length.Seconds())
	b.WriteString("|---|--:|--:|--:|--:|--:|--:|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %.2f | %d | %d | %d | %d | %.1f |\n",
			r.Kind, r.CPU.Seconds(), r.Lines, r.LinesAll, r.Sent, r.Lost, r.Recovered.Seconds())
	}
	b.WriteString("\nOf all hosts the one that had most.\n")
	return b.String()
}

// RestartText is the table of restarts in Markdown.
func RestartText(rows []Restart) string {
	var b strings.Builder
	b.WriteString("| flanneld of one of two hosts | carrier | packets sent | lost | TCP resets | devices made anew | objects removed |\n")
	b.WriteString("|---|---|--:|--:|--:|--:|--:|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d | %d | %d |\n", r.Cause, r.Carrier, r.Sent, r.Lost, r.Resets, r.Recreated, r.Removed)
	}
	return b.String()
}
