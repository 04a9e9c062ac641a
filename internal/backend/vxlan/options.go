package vxlan

// Options are the keys of the Backend object.
type Options struct {
	VNI           uint32 `default:"1" range:"1..16777215" doc:"VXLAN network identifier; names the devices flannel.<VNI> and flannel-v6.<VNI>"`
	Port          uint16 `default:"0" doc:"UDP destination port; 0 is the kernel's, 8472"`
	MTU           int    `default:"0" range:"0..65535" doc:"MTU of the underlay in bytes; 0 is that of the uplink, which is also the most. Containers get 50 bytes less, 70 where IPv6 is enabled"`
	DirectRouting bool   `default:"false" doc:"route straight to peers on a directly attached network, without a tunnel"`
}
