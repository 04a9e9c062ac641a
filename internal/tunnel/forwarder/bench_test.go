package forwarder_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

const (
	benchRounds = 3
	benchTime   = time.Second
)

// carrier is one way between two hosts, under its own inner network.
type carrier struct {
	name  string
	inner [2]netip.Addr // of the hosts
	pids  []int         // of its forwarders
}

// cpu is the time that the processors have spent on it so far, and on the
// benchmark. Unlike throughput it hardly depends on what else runs.
func (c carrier) cpu(b *testing.B) float64 {
	b.Helper()
	const ticks = 100 // a second, in /proc
	var sum float64
	for _, pid := range append([]int{os.Getpid()}, c.pids...) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			b.Fatal(err)
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')'):]))
		for _, i := range []int{12, 13} { // utime, stime
			n, err := strconv.Atoi(fields[i])
			if err != nil {
				b.Fatal(err)
			}
			sum += float64(n) / ticks
		}
	}
	return sum
}

// carriers are the fast loops, the plain ones, and the kernel's VXLAN as
// iproute2 makes it, all at once between the same hosts.
func carriers(b *testing.B, one, two *host) []carrier {
	b.Helper()
	var out []carrier
	for i, name := range []string{"fast", "plain", "vxlan"} {
		c := carrier{name: name}
		for j, h := range []*host{one, two} {
			subnet := netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", 20+i, j))
			c.inner[j] = addr.Host(subnet, 1)
			if name == "vxlan" {
				h.vxlan(b, i, j)
			} else {
				other := netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", 20+i, 1-j))
				peer := tunnel.Peer{Subnet: other, Dst: []*host{two, one}[j].outer(addr.IPv4), ECN: true}
				pid := h.carry(b, i, &tunnel.Config{Local: []netip.Prefix{subnet}, Plain: name == "plain"}, peer)
				c.pids = append(c.pids, pid)
			}
			h.run(b, fmt.Sprintf("ip addr add %s/32 dev lo", c.inner[j]))
		}
		out = append(out, c)
	}
	return out
}

// carry starts a forwarder of its own for carrier i.
func (h *host) carry(b *testing.B, i int, config *tunnel.Config, peer tunnel.Peer) int {
	b.Helper()
	config.Link, config.Port = fmt.Sprintf("tun%d", i), uint16(9000+i)
	config.Source = []netip.Addr{h.outer(addr.IPv4)}
	h.run(b, fmt.Sprintf(`
		ip tuntap add dev %[1]s mode tun vnet_hdr
		ip link set %[1]s mtu 1472 addrgenmode none up
		ip addr add 10.%[2]d.%[3]d.0/32 dev %[1]s
		ip route add 10.%[2]d.0.0/16 dev %[1]s
	`, config.Link, 20+i, config.Local[0].Addr().As4()[2]))
	other := &host{n: h.n, netns: h.netns, socket: fmt.Sprintf("%s.%d", h.socket, i)}
	b.Cleanup(func() { other.stop(b) })
	c := other.startBare(b)
	other.configure(b, c, config, peer)
	return c.Hello().PID
}

func (h *host) vxlan(b *testing.B, i, j int) {
	b.Helper()
	mac := func(n int) string { return fmt.Sprintf("02:00:00:00:00:%02x", n) }
	h.run(b, fmt.Sprintf(`
		ip link add vx type vxlan id 1 dev eth0 local %[1]s dstport 8472 nolearning
		ip link set vx address %[2]s mtu 1450 addrgenmode none up
		ip addr add 10.%[3]d.%[4]d.0/32 dev vx
		ip route add 10.%[3]d.%[5]d.0/24 via 10.%[3]d.%[5]d.0 dev vx onlink
		ip neigh add 10.%[3]d.%[5]d.0 lladdr %[6]s dev vx nud permanent
		bridge fdb add %[6]s dev vx dst %[7]s
	`, h.outer(addr.IPv4), mac(j), 20+i, j, 1-j, mac(1-j), outerOf(2-j, addr.IPv4)))
}

// BenchmarkCarriers measures all carriers in turn, several times, and reports
// the medians and how they compare: figures of different runs do not. Run it
// with -benchtime 1x.
func BenchmarkCarriers(b *testing.B) {
	one, two := hosts(b)
	all, ends := carriers(b, one, two), [2]*host{one, two}
	for _, uplink := range []string{"whole", "cut"} { // cut: closer to a plain network card
		if uplink == "cut" {
			for _, h := range ends {
				h.run(b, "ethtool -K eth0 tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off tx-udp-segmentation off")
			}
		}
		for _, k := range measurements() {
			b.Run(uplink+"/"+k.name, func(b *testing.B) {
				for b.Loop() {
					k.compare(b, all, ends)
				}
			})
		}
	}
}

type measurement struct {
	name string
	run  func(*testing.B, carrier, [2]*host) float64
}

func measurements() []measurement {
	streams := func(n int) func(*testing.B, carrier, [2]*host) float64 {
		return func(b *testing.B, c carrier, h [2]*host) float64 {
			b.Helper()
			return stream(b, c, h, n)
		}
	}
	return []measurement{{"tcp1-Mbit", streams(1)}, {"tcp4-Mbit", streams(4)}, {"kpps", flood}, {"p50-us", pingPong}}
}

func (m measurement) compare(b *testing.B, all []carrier, hosts [2]*host) {
	b.Helper()
	got, cost := map[string][]float64{}, map[string][]float64{}
	for range benchRounds {
		for _, c := range all {
			before := c.cpu(b)
			n := m.run(b, c, hosts)
			got[c.name] = append(got[c.name], n)
			cost[c.name] = append(cost[c.name], 1e3*(c.cpu(b)-before)/n)
		}
	}
	median := func(all []float64) float64 {
		slices.Sort(all)
		return all[len(all)/2]
	}
	for _, c := range all {
		b.ReportMetric(median(got[c.name]), c.name)
		b.ReportMetric(median(cost[c.name]), c.name+"-cpu-ms")
	}
	fast := median(got["fast"])
	b.ReportMetric(fast/median(got["plain"]), "fast/plain")
	b.ReportMetric(fast/median(got["vxlan"]), "fast/vxlan")
}

// stream sends over n TCP connections for a while, and says how much arrived.
func stream(b *testing.B, c carrier, hosts [2]*host, n int) float64 {
	b.Helper()
	var l net.Listener
	hosts[1].do(b, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(c.inner[1], 0).String())
		return err
	})
	defer l.Close()
	start := time.Now()
	received := make(chan int64, n)
	for range n {
		var out net.Conn
		hosts[0].do(b, func() (err error) {
			out, err = net.Dial("tcp", l.Addr().String())
			return err
		})
		in, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		go func() {
			n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{in}, make([]byte, 512<<10))
			received <- n
		}()
		go func() {
			chunk := make([]byte, 512<<10)
			for time.Since(start) < benchTime {
				if _, err := out.Write(chunk); err != nil {
					break
				}
			}
			out.Close()
		}()
	}
	var sum int64
	for range n {
		sum += <-received
	}
	return float64(sum) * 8 / 1e6 / time.Since(start).Seconds()
}

// flood sends small datagrams as fast as it can, and says how many thousands a
// second arrived. What is lost is lost on purpose.
func flood(b *testing.B, c carrier, hosts [2]*host) float64 {
	b.Helper()
	server := hosts[1].udp(b, at(c.inner[1], 0))
	client := hosts[0].udp(b, at(c.inner[0], 0))
	defer client.Close()
	defer server.Close()
	raw, to := rawOf(b, client), &unix.SockaddrInet4{Port: int(localOf(server).Port()), Addr: c.inner[1].As4()}
	end := time.Now().Add(benchTime)
	go func() {
		payload := make([]byte, 64)
		for i := 0; i%64 != 0 || time.Now().Before(end); i++ {
			_ = unix.Sendto(raw, payload, 0, to)
		}
	}()
	n, in := 0, make([]byte, 2048)
	_ = server.SetReadDeadline(end)
	fd := rawOf(b, server)
	for time.Now().Before(end) {
		if _, _, err := server.ReadFromUDPAddrPort(in); err != nil {
			break
		}
		for n++; ; n++ {
			if _, _, err := unix.Recvfrom(fd, in, unix.MSG_DONTWAIT); err != nil {
				break
			}
		}
	}
	return float64(n) / benchTime.Seconds() / 1e3
}

// pingPong is half the median time of a round trip, in microseconds.
func pingPong(b *testing.B, c carrier, hosts [2]*host) float64 {
	b.Helper()
	server := hosts[1].udp(b, at(c.inner[1], 0))
	client := hosts[0].udp(b, at(c.inner[0], 0))
	defer client.Close()
	defer server.Close()
	a, z := rawOf(b, client), rawOf(b, server)
	for _, fd := range []int{a, z} {
		if err := unix.SetNonblock(fd, false); err != nil {
			b.Fatal(err)
		}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}); err != nil {
			b.Fatal(err)
		}
	}
	to := &unix.SockaddrInet4{Port: int(localOf(server).Port()), Addr: c.inner[1].As4()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		in := make([]byte, 64)
		for {
			n, from, err := unix.Recvfrom(z, in, 0)
			if err != nil || n == 0 {
				return
			}
			_ = unix.Sendto(z, in[:n], 0, from)
		}
	}()
	var all []time.Duration
	in := make([]byte, 64)
	for end := time.Now().Add(benchTime); time.Now().Before(end); {
		start := time.Now()
		if err := unix.Sendto(a, in, 0, to); err != nil {
			b.Fatal(err)
		}
		if _, _, err := unix.Recvfrom(a, in, 0); err == nil {
			all = append(all, time.Since(start))
		}
	}
	_ = unix.Sendto(a, nil, 0, to)
	<-done
	slices.Sort(all)
	if len(all) == 0 {
		b.Fatal("no answer")
	}
	return float64(all[len(all)/2].Microseconds()) / 2
}

// rawOf is the descriptor of c, which stays open as long as c.
func rawOf(b *testing.B, c *net.UDPConn) int {
	b.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		b.Fatal(err)
	}
	out := -1
	if err := raw.Control(func(fd uintptr) { out = int(fd) }); err != nil {
		b.Fatal(err)
	}
	return out
}
