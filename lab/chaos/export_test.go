package chaos

import "regexp"

// Table is which faults each variant has.
func Table() map[string][]string {
	out := map[string][]string{}
	all := append(variants(), variant{carrier: vxlan, family: "4", firewall: "nft", peers: 2000})
	for _, v := range all {
		for _, f := range chosen(v, regexp.MustCompile("")) {
			out[v.name()] = append(out[v.name()], f.name)
		}
	}
	return out
}

// Names are those of all faults.
func Names() (out []string) {
	for _, f := range faults() {
		out = append(out, f.name)
	}
	return out
}

// RuleLines reads a list of rules.
func RuleLines(text string) []string { return ruleLines(text) }

// Difference of two pictures.
func Difference(before, now []string) []string { return picture(before).difference(now) }

// Readdressed replaces an address.
func Readdressed(lines []string, from, to string) []string {
	return picture(lines).with(addressed(from, to)...)
}

// Attributes reads those of a message.
func Attributes(b []byte) map[uint16][]byte { return attributes(b) }
