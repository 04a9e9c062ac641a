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
	masq                   bool   // packets that leave the network are masqueraded
	option                 string // key of backend that flanneld must know
	tunnel                 bool   // the uplink's segmentation makes a difference
}

// The plain rows, others are compared with. A masquerading rule brings connection
// tracking, which every packet pays for, so who has one is compared with a kernel
// that has one.
const (
	kernelVXLAN      = "kernel-vxlan"
	kernelVXLANMasq  = "kernel-vxlan-masq"
	kernelRoutes     = "kernel-routes"
	kernelRoutesMasq = "kernel-routes-masq"
)

// rows are all data paths in the order of the table.
func rows() []row {
	return []row{
		{name: kernelVXLAN, title: "plain kernel VXLAN (iproute2)", yardstick: kernelVXLAN, plain: plainVXLAN, tunnel: true},
		{name: "vxlan", title: "flannel-ng vxlan", yardstick: kernelVXLAN, backend: `{"Type":"vxlan"}`, tunnel: true},
		{
			name: "udp-off", title: "flannel-ng udp, one packet at a time (Offload off)", yardstick: kernelVXLAN,
			backend: `{"Type":"udp","Offload":"off","BPF":"off"}`, tunnel: true,
		},
		{
			name: "udp", title: "flannel-ng udp in user space (Offload auto)", yardstick: kernelVXLAN,
			backend: `{"Type":"udp","Offload":"auto","BPF":"off"}`, option: "Offload", tunnel: true,
		},
		{
			name: "udp-bpf", title: "flannel-ng udp in the kernel (BPF auto)", yardstick: kernelVXLAN,
			backend: `{"Type":"udp","BPF":"auto"}`, option: optionBPF, tunnel: true,
		},
		{
			name: kernelVXLANMasq, title: "plain kernel VXLAN, masquerading", yardstick: kernelVXLANMasq,
			plain: plainVXLAN, masq: true, tunnel: true,
		},
		{
			name: "vxlan-masq", title: "flannel-ng vxlan, masquerading", yardstick: kernelVXLANMasq,
			backend: `{"Type":"vxlan"}`, masq: true, tunnel: true,
		},
		{
			name: "udp-bpf-masq", title: "flannel-ng udp in the kernel, masquerading", yardstick: kernelVXLANMasq,
			backend: `{"Type":"udp","BPF":"auto"}`, masq: true, option: optionBPF, tunnel: true,
		},
		{name: kernelRoutes, title: "plain kernel routes (iproute2)", yardstick: kernelRoutes, plain: plainRoutes},
		{name: "host-gw", title: "flannel-ng host-gw", yardstick: kernelRoutes, backend: `{"Type":"host-gw"}`},
		{
			name: kernelRoutesMasq, title: "plain kernel routes, masquerading", yardstick: kernelRoutesMasq,
			plain: plainRoutes, masq: true,
		},
		{
			name: "host-gw-masq", title: "flannel-ng host-gw, masquerading", yardstick: kernelRoutesMasq,
			backend: `{"Type":"host-gw"}`, masq: true,
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

// choose picks rows by name; none means all. A row brings its yardstick.
func choose(names []string) (paths []row, peers []string, err error) {
	all := rows()
	convergence := []string{peersVXLAN, peersHostGW}
	if len(names) == 0 {
		return all, convergence, nil
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
