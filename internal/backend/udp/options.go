package udp

// Options are the keys of the Backend object.
type Options struct {
	Port uint16 `default:"8285" range:"1..65535" doc:"UDP port of every host's forwarder"`
}
