package udp

// Options are the keys of the Backend object.
type Options struct {
	Port    uint16 `default:"8285" range:"1..65535" doc:"UDP port of every host's forwarder"`
	Offload string `default:"auto" doc:"how the forwarder moves packets: auto (many at once, cut and joined by the kernel as far as it can), or off (one by one, to compare)"`
	BPF     string `default:"auto" doc:"whether the kernel carries IPv4 packets between hosts that both can, by programs: auto (where it can be had), on (a host without it is not ready) or off; everything else goes through the forwarder"`
}
