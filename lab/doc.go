// Package lab builds whole fabrics on one machine: hosts and containers are
// network namespaces, the wires are veth pairs, the programs are the real ones.
//
//	 c1 (eth0)   c2              c3
//	  │ veth      │               │
//	 cni0        cni0            cni0        bridges, from each subnet.env
//	┌─┴───────┐ ┌─┴───────┐  ┌────┴────┐
//	│ h1      │ │ h2      │  │ h3      │     flanneld, or a replayed flannel
//	└─┬───────┘ └─┬───────┘  └────┬────┘
//	 eth0 .1     eth0 .2         eth0 .3     198.51.100.0/24, 2001:db8::/64
//	──┴───────────┴──── switch ───┴──┬─────────────┬──
//	                               .253          .254
//	                               etcd         outside (203.0.113.1)
//
// It owns every namespace, process and file that it makes, and leaves nothing
// behind: namespaces are held only by processes, and these die with the lab,
// even when it is killed. It never touches the machine's own network and never
// fakes what flanneld does. Called by the scenarios (lab/testdata) and the demo.
package lab
