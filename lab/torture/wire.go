package torture

import (
	"encoding/binary"
	"fmt"
)

// judge looks at datagrams on the underlay.
type judge struct {
	tunnel tunnel
	mtu    int             // of the underlay, in bytes
	mark   int             // ECN that the network sets
	odd    map[string]bool // inner packets whose checksum is wrong on purpose
}

// look returns what is wrong with a datagram of the tunnel; ours is false for
// other packets.
func (j judge) look(raw []byte) (ours bool, err error) {
	outer, err := parse(raw)
	if err != nil {
		return true, fmt.Errorf("outer packet: %w", err)
	}
	if outer.proto != protoUDP || len(outer.body) < 8 || outer.offset > 0 ||
		int(binary.BigEndian.Uint16(outer.body[2:])) != j.tunnel.port {
		return false, nil
	}
	switch {
	case len(raw) > j.mtu:
		return true, fmt.Errorf("%d bytes on a wire of %d", len(raw), j.mtu)
	case outer.fragment():
		return true, nil // cut by a host on purpose; only the first has a header
	case int(binary.BigEndian.Uint16(outer.body[4:])) != len(outer.body):
		return true, fmt.Errorf("UDP says %d bytes, has %d", binary.BigEndian.Uint16(outer.body[4:]), len(outer.body))
	case j.mark == 0 && binary.BigEndian.Uint16(outer.body[6:]) != 0 && !outer.full():
		// Where the network marks, the receiving kernel has by now written into
		// the inner header, in the memory that the capture shares with it.
		return true, fmt.Errorf("wrong outer checksum: %x", clip(raw))
	case len(outer.body) < 8+j.tunnel.header:
		return true, fmt.Errorf("%d bytes of tunnel", len(outer.body))
	}
	return true, j.inner(outer, outer.body[8+j.tunnel.header:])
}

func (j judge) inner(outer view, raw []byte) error {
	if j.tunnel.header > 0 && len(raw) > 0 && raw[0]>>4 != 4 && raw[0]>>4 != 6 {
		return nil // not IP
	}
	inner, err := parse(raw)
	if err != nil {
		return fmt.Errorf("inner packet: %w", err)
	}
	if !inner.summed() && !j.odd[string(raw)] {
		return fmt.Errorf("wrong inner checksum: %x", clip(raw))
	}
	want := inner.tos & 3
	if j.mark != 0 {
		want = byte(j.mark)
	}
	// RFC 3168's way to hide congestion from the tunnel is the kernel's.
	hidden := j.tunnel.fullECN && want == ce && outer.tos&3 == ect0
	if outer.tos&3 != want && !hidden {
		return fmt.Errorf("outer ECN is %d where the inner is %d (network marks %d)", outer.tos&3, inner.tos&3, j.mark)
	}
	if dscp := outer.tos >> 2; dscp != 0 && dscp != inner.tos>>2 {
		return fmt.Errorf("outer DSCP is %d where the inner is %d", dscp, inner.tos>>2)
	}
	return nil
}
