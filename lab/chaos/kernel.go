package chaos

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/state"
)

// reading is what one look at a kernel finds, as lines that compare: links by
// name and nexthop objects by content, since their numbers change when they are
// made again, and nothing that comes and goes by itself.
type reading struct {
	names    map[uint32]string // of links
	nexthops map[uint32]string
	lines    []string
}

// Attributes that linux/if_link.h has and x/sys has not.
const (
	infoKind     = 1
	infoData     = 2
	vxlanLink    = 3
	vxlanLocal   = 4
	vxlanLocal6  = 17
	ifaLocal     = 2
	ifaAddress   = 1
	ifaFlags     = 8
	nhaGroup     = 2
	rtaNexthop   = 30
	ndaDst       = 1
	ndaLLAddr    = 2
	ndaIfindex   = 8
	ndaProtocol  = 12
	volatileAddr = unix.IFA_F_NODAD | unix.IFA_F_TENTATIVE | unix.IFA_F_OPTIMISTIC | unix.IFA_F_STABLE_PRIVACY | unix.IFA_F_MANAGETEMPADDR
)

func (r *reading) add(format string, args ...any) {
	r.lines = append(r.lines, fmt.Sprintf(format, args...))
}

func (r *reading) link(index uint32) string {
	if name, ok := r.names[index]; ok {
		return name
	}
	return fmt.Sprintf("link %d", index)
}

// readKernel reads links, addresses, nexthops, routes, neighbours, forwarding
// entries and rules.
func readKernel(w *wire) ([]string, error) {
	r := &reading{names: map[uint32]string{}, nexthops: map[uint32]string{}}
	type question struct {
		typ   uint16
		body  int // length of the header that the kernel wants
		at    byte
		visit func([]byte)
	}
	var links [][]byte
	for _, q := range []question{
		{unix.RTM_GETLINK, unix.SizeofIfInfomsg, unix.AF_UNSPEC, func(b []byte) {
			links = append(links, slices.Clone(b))
			r.name(b)
		}},
		{unix.RTM_GETADDR, unix.SizeofIfAddrmsg, unix.AF_UNSPEC, r.address},
		{unix.RTM_GETNEXTHOP, unix.SizeofNhmsg, unix.AF_UNSPEC, r.nexthop},
		{unix.RTM_GETROUTE, unix.SizeofRtMsg, unix.AF_INET, r.route},
		{unix.RTM_GETROUTE, unix.SizeofRtMsg, unix.AF_INET6, r.route},
		{unix.RTM_GETNEIGH, unix.SizeofNdMsg, unix.AF_INET, r.neighbour},
		{unix.RTM_GETNEIGH, unix.SizeofNdMsg, unix.AF_INET6, r.neighbour},
		{unix.RTM_GETNEIGH, unix.SizeofNdMsg, unix.AF_BRIDGE, r.fdb},
		{unix.RTM_GETRULE, unix.SizeofRtMsg, unix.AF_INET, r.rule},
		{unix.RTM_GETRULE, unix.SizeofRtMsg, unix.AF_INET6, r.rule},
	} {
		body := make([]byte, q.body)
		body[0] = q.at
		err := w.ask(q.typ, unix.NLM_F_DUMP, body, func(_ uint16, b []byte) {
			if len(b) >= q.body {
				q.visit(b)
			}
		})
		if err != nil {
			return nil, err
		}
	}
	for _, b := range links {
		r.device(b)
	}
	return r.lines, nil
}

func (r *reading) name(b []byte) {
	name := attributes(b[unix.SizeofIfInfomsg:])[unix.IFLA_IFNAME]
	r.names[binary.NativeEndian.Uint32(b[4:])] = strings.TrimRight(string(name), "\x00")
}

func (r *reading) device(b []byte) {
	all := attributes(b[unix.SizeofIfInfomsg:])
	info := attributes(all[unix.IFLA_LINKINFO])
	kind := strings.TrimRight(string(info[infoKind]), "\x00")
	if alias := strings.TrimRight(string(all[unix.IFLA_IFALIAS]), "\x00"); strings.HasSuffix(alias, " fast path") {
		r.add("link %s %s, of the fast path", r.link(binary.NativeEndian.Uint32(b[4:])), kind) // any MAC, any port
		return
	}
	up := binary.NativeEndian.Uint32(b[8:])&unix.IFF_UP != 0
	line := fmt.Sprintf("link %s %s up=%v mtu=%d mac=%s alias=%s", r.link(binary.NativeEndian.Uint32(b[4:])),
		kind, up, number(all[unix.IFLA_MTU]), net.HardwareAddr(all[unix.IFLA_ADDRESS]), all[unix.IFLA_IFALIAS])
	if master := number(all[unix.IFLA_MASTER]); master != 0 {
		line += " master=" + r.link(master)
	}
	if kind == "vxlan" {
		line += r.vxlan(attributes(info[infoData]))
	}
	r.lines = append(r.lines, line)
}

func (r *reading) vxlan(data map[uint16][]byte) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(data)) {
		switch key {
		case vxlanLink:
			fmt.Fprintf(&b, " dev=%s", r.link(number(data[key])))
		case vxlanLocal, vxlanLocal6:
			fmt.Fprintf(&b, " local=%s", address(data[key]))
		default:
			fmt.Fprintf(&b, " %d=%x", key, data[key])
		}
	}
	return b.String()
}

// address prints an IP address of either length.
func address(b []byte) string {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return fmt.Sprintf("%x", b)
	}
	return a.String()
}

// automatic addresses and routes are the kernel's own: of every link with IPv6.
func automatic(text string) bool {
	return strings.HasPrefix(text, "fe80:") || strings.HasPrefix(text, "ff00:")
}

func (r *reading) address(b []byte) {
	all := attributes(b[unix.SizeofIfAddrmsg:])
	text := address(all[ifaAddress])
	if automatic(text) {
		return
	}
	line := fmt.Sprintf("address %s/%d dev %s scope=%d flags=%x", text, b[1], r.link(binary.NativeEndian.Uint32(b[4:])),
		b[3], number(all[ifaFlags])&^volatileAddr)
	if local, ok := all[ifaLocal]; ok && address(local) != text {
		line += " local=" + address(local)
	}
	r.lines = append(r.lines, line)
}

func (r *reading) nexthop(b []byte) {
	all := attributes(b[unix.SizeofNhmsg:])
	content := fmt.Sprintf("via %s dev %s proto=%d flags=%x", address(all[unix.NHA_GATEWAY]), r.link(number(all[unix.NHA_OIF])),
		b[2], binary.NativeEndian.Uint32(b[4:])&unix.RTNH_F_ONLINK)
	if group, ok := all[nhaGroup]; ok {
		content = fmt.Sprintf("group %x", group)
	}
	r.nexthops[number(all[unix.NHA_ID])] = content
	// Routes are read with what they use. One of ours that none uses decides
	// nothing, and goes with the next full pass.
	if b[2] != state.Protocol {
		r.add("nexthop %s", content)
	}
}

func (r *reading) route(b []byte) {
	all := attributes(b[unix.SizeofRtMsg:])
	dst := "default"
	if d, ok := all[unix.RTA_DST]; ok {
		dst = fmt.Sprintf("%s/%d", address(d), b[1])
	}
	flags := binary.NativeEndian.Uint32(b[8:])
	table := number(all[unix.RTA_TABLE])
	if flags&unix.RTM_F_CLONED != 0 || automatic(dst) || strings.HasPrefix(dst, "default") && table == unix.RT_TABLE_LOCAL {
		return
	}
	line := fmt.Sprintf("route %s table=%d type=%d proto=%d scope=%d metric=%d", dst, table, b[7], b[5], b[6], number(all[unix.RTA_PRIORITY]))
	if id, ok := all[rtaNexthop]; ok {
		line += " nexthop " + r.nexthops[number(id)]
	} else {
		line += fmt.Sprintf(" dev %s onlink=%v", r.link(number(all[unix.RTA_OIF])), flags&unix.RTNH_F_ONLINK != 0)
		if via, ok := all[unix.RTA_GATEWAY]; ok {
			line += " via " + address(via)
		}
	}
	if src, ok := all[unix.RTA_PREFSRC]; ok {
		line += " src " + address(src)
	}
	if more, ok := all[unix.RTA_METRICS]; ok {
		line += fmt.Sprintf(" metrics=%x", more)
	}
	if many, ok := all[unix.RTA_MULTIPATH]; ok {
		line += fmt.Sprintf(" paths=%x", many)
	}
	r.lines = append(r.lines, line)
}

func (r *reading) neighbour(b []byte) {
	if binary.NativeEndian.Uint16(b[8:])&unix.NUD_PERMANENT == 0 {
		return
	}
	all := attributes(b[unix.SizeofNdMsg:])
	r.add("neighbour %s lladdr %s dev %s flags=%x proto=%x", address(all[ndaDst]), net.HardwareAddr(all[ndaLLAddr]),
		r.link(binary.NativeEndian.Uint32(b[4:])), b[10], all[ndaProtocol])
}

func (r *reading) fdb(b []byte) {
	all := attributes(b[unix.SizeofNdMsg:])
	mac := net.HardwareAddr(all[ndaLLAddr])
	multicast := len(mac) == 6 && mac[0]&1 != 0
	if multicast || binary.NativeEndian.Uint16(b[8:])&(unix.NUD_PERMANENT|unix.NUD_NOARP) == 0 {
		return
	}
	line := fmt.Sprintf("fdb %s dev %s flags=%x", mac, r.link(binary.NativeEndian.Uint32(b[4:])), b[10])
	if dst, ok := all[ndaDst]; ok {
		line += " dst " + address(dst)
	}
	if out, ok := all[ndaIfindex]; ok {
		line += " via " + r.link(number(out))
	}
	r.lines = append(r.lines, line)
}

func (r *reading) rule(b []byte) {
	all := attributes(b[unix.SizeofRtMsg:])
	var attrs strings.Builder
	for _, key := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&attrs, " %d=%x", key, all[key])
	}
	r.add("rule family=%d%s", b[0], attrs.String())
}
