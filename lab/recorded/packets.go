package recorded

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Ports of the tunnels on the wire.
const (
	vxlanPort = 8472
	udpPort   = 8285
)

// errShort is returned for a packet that ends inside a header.
var errShort = errors.New("packet ends too early")

// Decode reads packets as `tcpdump -xx` prints them and says what matters of
// each header, a line each, indented by its depth. Ids, checksums' values,
// source ports drawn from a hash and the pings' payload are left out.
func Decode(dump string) ([]string, error) {
	raw, err := packetsOf(dump)
	if err != nil {
		return nil, err
	}
	var d decoder
	for i, p := range raw {
		d.depth = 0
		if err := d.ethernet(p); err != nil {
			return nil, fmt.Errorf("packet %d: %w", i+1, err)
		}
	}
	return d.out, nil
}

// packetsOf collects the bytes: lines "\t0x0010:  0800 4500 …" below a line of
// words for each packet.
func packetsOf(dump string) ([][]byte, error) {
	var all [][]byte
	for _, line := range lines(dump) {
		offset, digits, ok := strings.Cut(strings.TrimSpace(line), ":  ")
		if !ok || !strings.HasPrefix(offset, "0x") {
			continue
		}
		bytes, err := hex.DecodeString(strings.ReplaceAll(digits, " ", ""))
		if err != nil {
			return nil, fmt.Errorf("bytes at %s: %w", offset, err)
		}
		if offset == "0x0000" {
			all = append(all, nil)
		}
		if len(all) == 0 {
			return nil, fmt.Errorf("bytes at %s before the start of a packet", offset)
		}
		all[len(all)-1] = append(all[len(all)-1], bytes...)
	}
	return all, nil
}

type decoder struct {
	out   []string
	depth int
}

func (d *decoder) say(format string, args ...any) {
	d.out = append(d.out, strings.Repeat("  ", d.depth)+fmt.Sprintf(format, args...))
	d.depth++
}

func (d *decoder) ethernet(b []byte) error {
	if len(b) < 14 {
		return fmt.Errorf("ethernet: %w", errShort)
	}
	kind := binary.BigEndian.Uint16(b[12:])
	d.say("ethernet %s > %s type 0x%04x", net.HardwareAddr(b[6:12]), net.HardwareAddr(b[:6]), kind)
	if kind != 0x0800 {
		d.say("%d bytes", len(b)-14)
		return nil
	}
	return d.ipv4(b[14:])
}

func (d *decoder) ipv4(b []byte) error {
	if len(b) < 20 || b[0] != 0x45 {
		return fmt.Errorf("IPv4 without options: %w", errShort)
	}
	total := int(binary.BigEndian.Uint16(b[2:]))
	if total < 20 || total > len(b) {
		return fmt.Errorf("IPv4 of %d bytes: %w", total, errShort)
	}
	d.say("ipv4 %s > %s length %d tos 0x%02x ttl %d flags 0x%04x protocol %d",
		netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])),
		total, b[1], b[8], binary.BigEndian.Uint16(b[6:]), b[9])
	rest := b[20:total]
	switch b[9] {
	case 1:
		return d.icmp(rest)
	case 17:
		return d.udp(rest)
	}
	d.say("%d bytes", len(rest))
	return nil
}

func (d *decoder) icmp(b []byte) error {
	if len(b) < 8 {
		return fmt.Errorf("ICMP: %w", errShort)
	}
	d.say("icmp type %d code %d sequence %d length %d", b[0], b[1], binary.BigEndian.Uint16(b[6:]), len(b))
	return nil
}

func (d *decoder) udp(b []byte) error {
	if len(b) < 8 {
		return fmt.Errorf("UDP: %w", errShort)
	}
	from, to := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	source := fmt.Sprint(from)
	if to == vxlanPort {
		source = "N" // a hash of the packet inside
	}
	sum := "set"
	if binary.BigEndian.Uint16(b[6:]) == 0 {
		sum = "absent"
	}
	d.say("udp %s > %d length %d checksum %s", source, to, binary.BigEndian.Uint16(b[4:]), sum)
	switch to {
	case vxlanPort:
		return d.vxlan(b[8:])
	case udpPort:
		return d.ipv4(b[8:])
	}
	d.say("%d bytes", len(b)-8)
	return nil
}

func (d *decoder) vxlan(b []byte) error {
	if len(b) < 8 {
		return fmt.Errorf("VXLAN: %w", errShort)
	}
	reserved := uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	d.say("vxlan flags 0x%02x reserved 0x%06x vni %d reserved 0x%02x",
		b[0], reserved, binary.BigEndian.Uint32(b[4:])>>8, b[7])
	return d.ethernet(b[8:])
}
