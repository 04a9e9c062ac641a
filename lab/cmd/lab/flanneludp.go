package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// relay behaves as the recorded forwarder of plain flannel's udp backend: one
// raw IPv4 packet a datagram, one hop taken in each direction, no check of
// sources, ICMP network unreachable for what no peer has.
type relay struct {
	tun  *os.File
	conn *net.UDPConn
	self netip.Addr // of the device, the source of ICMP errors
	port uint16     // flannel sends to the port that it listens on

	mu    sync.Mutex
	peers map[netip.Prefix]netip.Addr
}

// flannelUDP serves until standard input closes, which gives it its peers:
// "set SUBNET HOST" and "del SUBNET", a line each.
func flannelUDP(ctx context.Context, args []string) error {
	if len(args) != 3 {
		return errUsage
	}
	self, err := netip.ParseAddr(args[1])
	if err != nil {
		return fmt.Errorf("device address: %w", err)
	}
	listen, err := netip.ParseAddrPort(args[2])
	if err != nil {
		return fmt.Errorf("listen address: %w", err)
	}
	r := &relay{self: self, port: listen.Port(), peers: map[netip.Prefix]netip.Addr{}}
	if r.tun, err = openTUN(args[0]); err != nil {
		return err
	}
	if r.conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(listen)); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if _, err := fmt.Println("ready"); err != nil {
		return err
	}
	ended := make(chan error, 3)
	go func() { ended <- r.outward() }()
	go func() { ended <- r.inward() }()
	go func() { ended <- r.obey(os.Stdin) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

// openTUN makes a device that vanishes with its file: no packet information,
// no offload headers, not persistent.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", name, err)
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (r *relay) obey(orders io.Reader) error {
	for lines := bufio.NewScanner(orders); lines.Scan(); {
		var verb, subnet, host string
		_, _ = fmt.Sscan(lines.Text(), &verb, &subnet, &host) // "del" has no host
		prefix, err := netip.ParsePrefix(subnet)
		if err != nil {
			return fmt.Errorf("order %q: %w", lines.Text(), err)
		}
		r.mu.Lock()
		delete(r.peers, prefix)
		if verb == "set" {
			r.peers[prefix], err = netip.ParseAddr(host)
		}
		r.mu.Unlock()
		if err != nil {
			return fmt.Errorf("order %q: %w", lines.Text(), err)
		}
	}
	return nil
}

// outward carries packets from the device to peers.
func (r *relay) outward() error {
	buf := make([]byte, 1<<16)
	for {
		n, err := r.tun.Read(buf)
		if err != nil {
			return fmt.Errorf("read device: %w", err)
		}
		packet := buf[:n]
		if n < 20 || packet[0]>>4 != 4 {
			continue
		}
		to, ok := r.lookup(netip.AddrFrom4([4]byte(packet[16:20])))
		if !ok {
			r.unreachable(packet)
			continue
		}
		if hop(packet) {
			// A refused or lost datagram is the network's affair.
			_, _ = r.conn.WriteToUDPAddrPort(packet, netip.AddrPortFrom(to, r.port))
		}
	}
}

// inward carries packets of whomever to the device.
func (r *relay) inward() error {
	buf := make([]byte, 1<<16)
	for {
		n, err := r.conn.Read(buf)
		if errors.Is(err, unix.ECONNREFUSED) || err == nil && n < 20 {
			continue
		}
		if err != nil {
			return fmt.Errorf("read socket: %w", err)
		}
		if hop(buf[:n]) {
			_, _ = r.tun.Write(buf[:n]) // the kernel refuses what is no packet
		}
	}
}

func (r *relay) lookup(to netip.Addr) (netip.Addr, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for subnet, host := range r.peers {
		if subnet.Contains(to) {
			return host, true
		}
	}
	return netip.Addr{}, false
}

// hop takes one from the packet's time to live and patches the checksum
// (RFC 1141); a packet that has no time left is not sent.
func hop(packet []byte) bool {
	if packet[8] <= 1 {
		return false
	}
	packet[8]--
	sum := uint32(binary.BigEndian.Uint16(packet[10:])) + 0x0100
	binary.BigEndian.PutUint16(packet[10:], uint16(sum+sum>>16))
	return true
}

// unreachable answers with ICMP 3/0, time to live 8, that quotes the header and
// eight bytes; never about ICMP or a later fragment.
func (r *relay) unreachable(packet []byte) {
	header := int(packet[0]&15) * 4
	later := binary.BigEndian.Uint16(packet[6:])&0x1fff != 0
	if packet[9] == unix.IPPROTO_ICMP || later || header < 20 || len(packet) < header+8 {
		return
	}
	quote := packet[:header+8]
	answer := make([]byte, 28, 28+len(quote))
	answer[0], answer[8], answer[9] = 0x45, 8, unix.IPPROTO_ICMP
	binary.BigEndian.PutUint16(answer[2:], uint16(28+len(quote)))
	source := r.self.As4()
	copy(answer[12:], source[:])
	copy(answer[16:], packet[12:16])
	answer[20] = 3
	answer = append(answer, quote...)
	binary.BigEndian.PutUint16(answer[10:], checksum(answer[:20]))
	binary.BigEndian.PutUint16(answer[22:], checksum(answer[20:]))
	_, _ = r.tun.Write(answer)
}

func checksum(b []byte) uint16 {
	var sum uint32
	for i := range b {
		sum += uint32(b[i]) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
