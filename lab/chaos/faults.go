package chaos

import (
	"regexp"
	"slices"
)

// faults is the whole table.
func faults() []fault {
	return slices.Concat(peerFaults(), flushes(), deviceFaults(), uplinkFaults(), firewallFaults(), sysctlFaults(), storeFaults(), udpFaults())
}

// chosen are the faults that a variant has, by name. Of a large fabric only
// those of peers' objects and devices; of the variants for iptables and
// checksums, those that are about them, and a few more.
func chosen(v variant, names *regexp.Regexp) []fault {
	var out []fault
	for _, f := range faults() {
		switch {
		case f.applies != nil && !f.applies(v), !names.MatchString(f.name), v.peers > real3 && !f.crowd:
		case !special(v) || about(v, f.name):
			out = append(out, f)
		}
	}
	return out
}

// special is a variant beside the matrix of carriers and families.
func special(v variant) bool { return v.offload != "" || ipt(v) }

func about(v variant, name string) bool {
	if v.offload != "" {
		return slices.ContainsFunc(deviceFaults(), func(f fault) bool { return f.name == name && f.applies != nil }) &&
			regexp.MustCompile(`checksum|deleted`).MatchString(name)
	}
	return slices.ContainsFunc(firewallFaults(), func(f fault) bool { return f.name == name })
}
