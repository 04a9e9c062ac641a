package vxlan

// Options are the keys of the Backend object.
type Options struct {
	VNI             uint32 `default:"1" range:"1..16777215" doc:"VXLAN network identifier; names the devices flannel.<VNI> and flannel-v6.<VNI>"`
	Port            uint16 `default:"0" doc:"UDP destination port; 0 is the kernel's, 8472"`
	MTU             int    `default:"0" range:"0..65535" doc:"MTU of the underlay in bytes; 0 is that of the uplink, which is also the most. Containers get 50 bytes less, 70 where IPv6 is enabled"`
	GBP             bool   `default:"false" doc:"carry the low 16 bits of packet marks to other hosts (VXLAN group based policy). All hosts need the same value: without it, a host drops marked packets. A change makes the devices anew"`
	Learning        bool   `default:"false" doc:"let the devices learn MACs from received packets. Nothing in the fabric needs it, and the kernel then drops what a peer sends from another address than it publishes (NAT)"`
	DirectRouting   bool   `default:"false" doc:"route straight to peers on a directly attached network, without a tunnel"`
	ChecksumOffload *bool  `doc:"leave checksums of inner packets to the network card (true), or compute them before the tunnel (false): the cure where a card, driver or hypervisor gets them wrong. Without it, what ethtool has set stays"`
}
