package recorded

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Sections that are not the output of a command on a host.
const (
	EtcdSection    = "etcd"
	EnvSection     = "subnet.env"
	PacketsSection = "packets"
)

// bothHosts is the place of what belongs to neither host alone.
const bothHosts = "both"

// View is what is to be seen at one place, line by line and in symbols, by
// section: a command, or one of the sections above.
type View struct {
	Place    string // h1, h2, or both for etcd and the wire
	Sections map[string][]string
}

// Views puts a run into symbols. On a host the two sides are called own and
// peer, so that both hosts must say the same; in etcd and on the wire h1, h2.
func (f Facts) Views() ([]View, error) {
	var sides [2]side
	for i, h := range f.Hosts {
		var err error
		if sides[i], err = sideOf(h); err != nil {
			return nil, fmt.Errorf("h%d: %w", i+1, err)
		}
	}
	packets, err := Decode(f.Packets)
	if err != nil {
		return nil, err
	}
	both := symbolsOf(named{"h1", sides[0]}, named{"h2", sides[1]})
	views := []View{{Place: bothHosts, Sections: map[string][]string{
		EtcdSection:    both.normalise(EtcdSection, pairs(f.Etcd)),
		PacketsSection: both.normalise(PacketsSection, packets),
	}}}
	for i, h := range f.Hosts {
		s := symbolsOf(named{"own", sides[i]}, named{"peer", sides[1-i]})
		view := View{Place: fmt.Sprintf("h%d", i+1), Sections: map[string][]string{
			EnvSection: s.normalise(EnvSection, lines(h.SubnetEnv)),
		}}
		for command, output := range outputs(h.Kernel) {
			view.Sections[command] = s.normalise(command, output)
		}
		views = append(views, view)
	}
	return views, nil
}

// normalise replaces all that differs from run to run, and nothing else:
//
//   - the two subnets, uplink addresses and MACs become names of a side;
//   - interface indexes, the other end of a veth, nexthop ids, packet counters
//     and host ids of side records become N;
//   - the bridge's port is called <port> and its state N: the bridge is not
//     flanneld's work;
//   - so does the port of the device that only programs send to: it is free by
//     chance;
//   - values of side records are left out: they are not flannel's affair;
//   - comments (times) and the kernel's own segmentation limits are dropped;
//   - lines that tools sort by an address drawn by lot are sorted anew, and so
//     are devices and tables that they list in the order of creation.
func (s symbols) normalise(section string, in []string) []string {
	var out []string
	for _, line := range in {
		if strings.HasPrefix(line, "#") {
			continue
		}
		for _, r := range slices.Concat(volatile(), s) {
			line = r.pattern.ReplaceAllString(line, r.name)
		}
		out = append(out, strings.TrimRight(line, " "))
	}
	switch {
	case sortedByAddress(section):
		slices.Sort(out)
	case strings.HasPrefix(section, "ip "):
		return sortBlocks(out, "N: ")
	case strings.HasPrefix(section, "nft "):
		return sortBlocks(out, "table ")
	}
	return out
}

// sortBlocks sorts blocks that begin with a line that starts with head.
func sortBlocks(in []string, head string) []string {
	var blocks []string
	for _, line := range in {
		if len(blocks) == 0 || strings.HasPrefix(line, head) {
			blocks = append(blocks, line)
			continue
		}
		blocks[len(blocks)-1] += "\n" + line
	}
	slices.Sort(blocks)
	return lines(strings.Join(blocks, "\n"))
}

func volatile() symbols {
	return symbols{
		{regexp.MustCompile(`^\d+: `), "N: "},
		{regexp.MustCompile(`@if\d+`), "@ifN"},
		{regexp.MustCompile(` link-netns(id)? \S+`), " link-netns N"},
		{regexp.MustCompile(`\b(vc|veth)\d+\b`), "<port>"},
		{regexp.MustCompile(`^(N: cni0: .* state) \S+`), "$1 N"},
		{regexp.MustCompile(`\bnhid \d+`), "nhid N"},
		{regexp.MustCompile(`\bcounter packets \d+ bytes \d+`), "counter packets N bytes N"},
		{regexp.MustCompile(`\[\d+:\d+\]`), "[N:N]"},
		{regexp.MustCompile(` gso_max_size .*`), ""},
		{regexp.MustCompile(`( external id 0 .* dstport) \d+`), "$1 N"},
		{regexp.MustCompile(`^(/\S+/ng/\S+) .*`), "$1 …"},
		{regexp.MustCompile(`\b[0-9a-f]{32}\b`), "N"},
	}
}

func sortedByAddress(section string) bool {
	for _, tool := range []string{EtcdSection, "ip route", "ip -6 route", "ip neigh", "ip -6 neigh", "bridge fdb"} {
		if strings.HasPrefix(section, tool) {
			return true
		}
	}
	return false
}

// pairs puts each key and its value on one line.
func pairs(text string) []string {
	var out []string
	in := lines(text)
	for i := 0; i+1 < len(in); i += 2 {
		out = append(out, in[i]+" "+in[i+1])
	}
	return out
}

// outputs splits a dump at its commands. A command without output says nothing,
// as in the recordings.
func outputs(text string) map[string][]string {
	out := map[string][]string{}
	command := ""
	for _, line := range lines(text) {
		if c, ok := strings.CutPrefix(line, "$ "); ok {
			command = c
			continue
		}
		out[command] = append(out[command], line)
	}
	for command, output := range out {
		for len(output) > 0 && output[len(output)-1] == "" {
			output = output[:len(output)-1]
		}
		out[command] = output
	}
	return out
}

func lines(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}
