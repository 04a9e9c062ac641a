package torture

import (
	"fmt"
	"strings"
)

// Summary is a table of all combinations, the mismatches that were kept, and a
// last line with the totals.
func Summary(all []Tally) string {
	var b strings.Builder
	b.WriteString("| Path | Uplink | Sent | Arrived as expected | ICMP answers | Datagrams on the wire | Carried by the kernel | Mismatches |\n")
	b.WriteString("|---|--:|--:|--:|--:|--:|--:|--:|\n")
	var total Tally
	combinations := 0
	for _, t := range all {
		if t.Left != "" {
			fmt.Fprintf(&b, "| %s | %d | – | – | – | – | – | not run: %s |\n", t.Name, t.Uplink, t.Left)
			continue
		}
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d | %d | %s | %d |\n", t.Name, t.Uplink, t.Sent, t.Compared, t.Answers, t.Wire, kernel(t), t.Mismatches)
		combinations++
		total.Sent += t.Sent
		total.Compared += t.Compared
		total.Wire += t.Wire
		total.Mismatches += t.Mismatches
	}
	for _, t := range all {
		for _, d := range t.Details {
			fmt.Fprintf(&b, "\n%s: %s", t.Name, d)
		}
	}
	fmt.Fprintf(&b, "\n%d packets through %d combinations, %d datagrams looked at on the wire, mismatches: %d\n",
		total.Sent, combinations, total.Wire, total.Mismatches)
	return b.String()
}

// kernel is how many packets the kernel carried by itself; VXLAN carries all.
func kernel(t Tally) string {
	if t.Kernel == 0 {
		return "–"
	}
	return fmt.Sprint(t.Kernel)
}
