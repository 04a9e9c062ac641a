package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
)

// SendDatagram sends one UDP datagram from the node.
func (n *Node) SendDatagram(ctx context.Context, to netip.AddrPort, payload []byte) error {
	var conn net.Conn
	err := n.within(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, "udp", to.String())
		return err
	})
	if err != nil {
		return fmt.Errorf("datagram from %s: %w", n.Name, err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write(payload); err != nil {
		return fmt.Errorf("datagram from %s: %w", n.Name, err)
	}
	return nil
}

// InnerPacket is an IP packet as it travels inside a tunnel: UDP from and to
// port 9999, without payload and, where that may be, without checksum.
func InnerPacket(from, to netip.Addr) []byte {
	const port = 9999
	udp := binary.BigEndian.AppendUint32(nil, port<<16|port)
	udp = append(udp, 0, 8, 0, 0) // length, no checksum
	if from.Is4() {
		packet := []byte{0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0}
		packet = append(append(packet, from.AsSlice()...), to.AsSlice()...)
		binary.BigEndian.PutUint16(packet[10:], onesSum(packet))
		return append(packet, udp...)
	}
	packet := []byte{0x60, 0, 0, 0, 0, 8, 17, 64}
	packet = append(append(packet, from.AsSlice()...), to.AsSlice()...)
	return append(packet, udp...)
}

// onesSum is the checksum of an IPv4 header (RFC 1071).
func onesSum(header []byte) uint16 {
	var sum uint32
	for i := 0; i < len(header); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(header[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
