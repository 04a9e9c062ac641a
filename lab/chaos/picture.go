package chaos

import (
	"slices"
	"strings"
)

// picture is a host's network state: sorted lines.
type picture []string

// without leaves out lines.
func (p picture) without(drop func(string) bool) picture {
	return slices.DeleteFunc(slices.Clone(p), drop)
}

// with replaces words in all lines.
func (p picture) with(oldNew ...string) picture {
	r := strings.NewReplacer(oldNew...)
	out := make(picture, len(p))
	for i, line := range p {
		out[i] = strings.TrimSuffix(r.Replace(line+" "), " ") // so that every word has its end
	}
	slices.Sort(out)
	return out
}

func (p picture) equal(q picture) bool { return slices.Equal(p, q) }

// difference says what q has more and less than p, a line each.
func (p picture) difference(q picture) []string {
	var out []string
	i, j := 0, 0
	for i < len(p) || j < len(q) {
		switch {
		case j == len(q) || i < len(p) && p[i] < q[j]:
			out = append(out, "- "+p[i])
			i++
		case i == len(p) || q[j] < p[i]:
			out = append(out, "+ "+q[j])
			j++
		default:
			i++
			j++
		}
	}
	return out
}

// most bounds how many differences are told.
const most = 12

// tell is a difference as text.
func tell(difference []string) string {
	if len(difference) > most {
		difference = append(difference[:most:most], "…")
	}
	return strings.Join(difference, "\n")
}
