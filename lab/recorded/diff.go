package recorded

import (
	"maps"
	"slices"
)

// Edit is one line that only one side has.
type Edit struct {
	Ours bool // else only recorded
	Line string
}

// String is the line as a diff shows it.
func (e Edit) String() string {
	if e.Ours {
		return "+" + e.Line
	}
	return "-" + e.Line
}

// Diff is the shortest list of lines to leave out and to add, in order.
func Diff(recorded, ours []string) []Edit {
	// common[i][j] is how many lines recorded[i:] and ours[j:] share.
	common := make([][]int, len(recorded)+1)
	for i := range common {
		common[i] = make([]int, len(ours)+1)
	}
	for i, r := range slices.Backward(recorded) {
		for j, o := range slices.Backward(ours) {
			if r == o {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var edits []Edit
	i, j := 0, 0
	for i < len(recorded) || j < len(ours) {
		switch {
		case i < len(recorded) && j < len(ours) && recorded[i] == ours[j]:
			i, j = i+1, j+1
		case j == len(ours) || i < len(recorded) && common[i+1][j] >= common[i][j+1]:
			edits = append(edits, Edit{Line: recorded[i]})
			i++
		default:
			edits = append(edits, Edit{Ours: true, Line: ours[j]})
			j++
		}
	}
	return edits
}

// Compare lists what differs at one place, by section.
func Compare(recorded, ours View) map[string][]Edit {
	sections := map[string]bool{}
	for s := range recorded.Sections {
		sections[s] = true
	}
	for s := range ours.Sections {
		sections[s] = true
	}
	out := map[string][]Edit{}
	for s := range maps.Keys(sections) {
		if edits := Diff(recorded.Sections[s], ours.Sections[s]); len(edits) > 0 {
			out[s] = edits
		}
	}
	return out
}
