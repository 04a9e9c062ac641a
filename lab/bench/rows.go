package bench

import (
	"fmt"
	"slices"
	"strings"
)

// row is a data path to measure.
type row struct {
	name, title, yardstick string
	backend                string // Backend of the network config; "" is a plain kernel set-up
	plain                  plain  // if backend is ""
	masq                   bool   // flanneld runs with --ip-masq, as users of containers do
	option                 string // key of backend that flanneld must know
	tunnel                 bool   // the uplink's segmentation makes a difference
	extra                  bool   // measured only when asked for
}

// The plain rows, others are compared with.
const (
	kernelVXLAN  = "kernel-vxlan"
	kernelRoutes = "kernel-routes"
)

// rows are all data paths in the order of the table.
func rows() []row {
	return []row{
		{name: kernelVXLAN, title: "plain kernel VXLAN (iproute2)", yardstick: kernelVXLAN, plain: plainVXLAN, tunnel: true},
		{name: "vxlan", title: "flannel-ng vxlan", yardstick: kernelVXLAN, backend: `{"Type":"vxlan"}`, masq: true, tunnel: true},
		{name: "vxlan-nomasq", title: "flannel-ng vxlan, no masquerading", yardstick: kernelVXLAN, backend: `{"Type":"vxlan"}`, tunnel: true, extra: true},
		{name: kernelRoutes, title: "plain kernel routes (iproute2)", yardstick: kernelRoutes, plain: plainRoutes},
		{name: "host-gw", title: "flannel-ng host-gw", yardstick: kernelRoutes, backend: `{"Type":"host-gw"}`, masq: true},
		{name: "host-gw-nomasq", title: "flannel-ng host-gw, no masquerading", yardstick: kernelRoutes, backend: `{"Type":"host-gw"}`, extra: true},
		{
			name: "udp-off", title: "flannel-ng udp, one packet at a time (Offload off)", yardstick: kernelVXLAN,
			backend: `{"Type":"udp","Offload":"off","BPF":"off"}`, masq: true, tunnel: true,
		},
		{
			name: "udp", title: "flannel-ng udp in user space (Offload auto)", yardstick: kernelVXLAN,
			backend: `{"Type":"udp","Offload":"auto","BPF":"off"}`, masq: true, option: "Offload", tunnel: true,
		},
		{
			name: "udp-bpf", title: "flannel-ng udp in the kernel (BPF auto)", yardstick: kernelVXLAN,
			backend: `{"Type":"udp","BPF":"auto"}`, masq: true, option: optionBPF, tunnel: true,
		},
	}
}

// optionBPF lets the kernel carry the packets of the udp backend.
const optionBPF = "BPF"

// Rows of convergence.
const (
	peersVXLAN  = "peers-vxlan"
	peersHostGW = "peers-host-gw"
)

// choose picks rows by name; none means all but the extra ones. A row brings its
// yardstick.
func choose(names []string) (paths []row, peers []string, err error) {
	all := rows()
	convergence := []string{peersVXLAN, peersHostGW}
	if len(names) == 0 {
		return slices.DeleteFunc(all, func(r row) bool { return r.extra }), convergence, nil
	}
	wanted := map[string]bool{}
	for _, name := range names {
		i := slices.IndexFunc(all, func(r row) bool { return r.name == name })
		switch {
		case i >= 0:
			wanted[name], wanted[all[i].yardstick] = true, true
		case slices.Contains(convergence, name):
			peers = append(peers, name)
		default:
			return nil, nil, fmt.Errorf("no row %q: there are %s", name, strings.Join(append(rowNames(all), convergence...), ", "))
		}
	}
	return slices.DeleteFunc(all, func(r row) bool { return !wanted[r.name] }), peers, nil
}

func rowNames(rows []row) []string {
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	return names
}
