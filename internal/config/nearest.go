package config

import "strings"

// Nearest returns the known word that a mistyped one most likely means. ok is
// false if none is near: at most a third of the known word may be wrong
// (in a short one, a single letter). Case does not count. The first of equally
// near words wins.
func Nearest(word string, known []string) (near string, ok bool) {
	const longest = 100 // nobody types more by mistake, and the cost is quadratic
	if len(word) > longest {
		return "", false
	}
	best := 0
	for _, k := range known {
		d := distance(strings.ToLower(word), strings.ToLower(k))
		if d < len(k) && d <= max(1, len(k)/3) && (!ok || d < best) {
			near, best, ok = k, d, true
		}
	}
	return near, ok
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbouring bytes between a and b (optimal string alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
