package forwarder_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

// Two hosts speak through their forwarders, in both families, and nothing of
// what they say is changed.
func TestCarries(t *testing.T) {
	both(t, func(t *testing.T, plain bool) {
		one, two := hostsThat(t, plain)
		a, b := one.start(t, 2), two.start(t, 1)
		for _, f := range addr.Families() {
			client, server := one.udp(t, at(one.inner(f), 0)), two.udp(t, at(two.inner(f), 7000))
			for _, size := range []int{0, 1, 17, 1400} {
				sent := bytes.Repeat([]byte{'x'}, size)
				transmit(t, client, sent, localOf(server))
				got, from := receive(t, server)
				if !bytes.Equal(got, sent) || from != localOf(client) {
					t.Errorf("%s: %d bytes from %s, sent %d from %s", f, len(got), from, size, localOf(client))
				}
				transmit(t, server, sent, from)
				if got, _ := receive(t, client); !bytes.Equal(got, sent) {
					t.Errorf("%s: answer of %d bytes, sent %d", f, len(got), size)
				}
			}
		}
		for _, c := range []*tunnel.Client{a, b} {
			eventually(t, "counters", func() error {
				n := status(t, c).Counters
				if n.SentPackets < 8 || n.ReceivedPackets < 8 || n.SentBytes < 2*(1400+28) {
					return fmt.Errorf("forwarder %d counts too little: %+v", c.Hello().PID, n)
				}
				return nil
			})
		}
		if s := status(t, a); s.Config.Link != link || len(s.Peers) != 2 || s.Build != "one" || s.Version != tunnel.Version {
			t.Errorf("status %+v", s)
		}
	})
}

// The payload of a datagram is the inner packet and nothing else, from our port
// to the peer's, as the kernel made it: hop count and all.
func TestOnTheWire(t *testing.T) {
	both(t, func(t *testing.T, plain bool) {
		one, two := hostsThat(t, plain)
		one.start(t, 2)
		for _, f := range addr.Families() {
			client, wire := one.udp(t, at(one.inner(f), 6000)), two.udp(t, at(two.outer(f), port))
			transmit(t, client, []byte("hello"), at(two.inner(f), 7000))
			got, from := receive(t, wire)
			if from != at(one.outer(f), port) {
				t.Errorf("%s: datagram from %s", f, from)
			}
			want := inner(localOf(client), at(two.inner(f), 7000), []byte("hello"))
			if f == addr.IPv4 { // what differs: identification, DF, and with them the checksum
				copy(want[4:8], got[4:8])
				copy(want[10:12], got[10:12])
			} else { // flow label
				copy(want[1:4], got[1:4])
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s: on the wire\n%swant\n%s", f, hex.Dump(got), hex.Dump(want))
			}
		}
	})
}

// A datagram that plain flannel v0.28.9 has sent is understood, and the answer
// looks like the one recorded.
func TestRecordedFlannel(t *testing.T) {
	both(t, func(t *testing.T, plain bool) {
		request, answer := datagram(t, `
		4500003426624000 3e01a059 0a052502 0a053d02 080034f95dea0001
		812f016b00000000d3840b000000000000ff00ff00ff00ff`), datagram(t, `
		45000034775a0000 3e018f61 0a053d02 0a052502 00003cf95dea0001
		812f016b00000000d3840b000000000000ff00ff00ff00ff`)
		here, there := netip.MustParsePrefix("10.5.61.0/24"), netip.MustParsePrefix("10.5.37.0/24")
		one, two := hostsThat(t, plain)
		one.run(t, "ip addr add 10.5.61.2/32 dev lo")
		c := one.startBare(t)
		config := one.config()
		config.Local = []netip.Prefix{here}
		one.configure(t, c, config, tunnel.Peer{Subnet: there, Dst: two.outer(addr.IPv4)})
		flannel := two.udp(t, at(two.outer(addr.IPv4), port))
		transmit(t, flannel, request, at(one.outer(addr.IPv4), port))
		got, _ := receive(t, flannel)
		// Identification, hop count and checksum of the header are the kernel's.
		for _, i := range []int{4, 5, 8, 10, 11} {
			got[i], answer[i] = 0, 0
		}
		if !bytes.Equal(got, answer) {
			t.Errorf("answer\n%swant\n%s", hex.Dump(got), hex.Dump(answer))
		}
	})
}

func datagram(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(text), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Each datagram that must not pass is counted under its own reason, and in
// each case one that differs in nothing else passes.
func TestRefuses(t *testing.T) {
	both(t, func(t *testing.T, plain bool) {
		one, two := hostsThat(t, plain)
		two.run(t, "ip addr add 198.51.100.9/24 dev eth0\nip addr add 2001:db8::9/64 dev eth0 nodad")
		c := one.start(t, 2)
		for _, f := range addr.Families() {
			server := one.udp(t, at(one.inner(f), 7000))
			peer, stranger := two.udp(t, at(two.outer(f), 0)), two.udp(t, at(outerOf(9, f), port))
			src, dst := at(two.inner(f), 6000), at(one.inner(f), 7000)
			good := inner(src, dst, []byte("good"))
			changed := func(at int, to byte) []byte {
				b := bytes.Clone(good)
				b[at] = to
				return b
			}
			third := subnetOf(3, f).Addr()
			for name, bad := range map[string]struct {
				why tunnel.Reason
				b   []byte
			}{
				"peer unknown":             {why: tunnel.FromStranger, b: nil},
				"source of nobody":         {why: tunnel.FromElsewhere, b: inner(at(third, 6000), dst, nil)},
				"source of this host":      {why: tunnel.FromElsewhere, b: inner(at(one.inner(f), 6000), dst, nil)},
				"source is the peer's own": {why: tunnel.FromElsewhere, b: inner(at(two.outer(f), 6000), dst, nil)},
				"destination elsewhere":    {why: tunnel.NotForUs, b: inner(src, at(third, 7000), nil)},
				"destination is our own":   {why: tunnel.NotForUs, b: inner(src, at(one.outer(f), 7000), nil)},
				"destination is a group":   {why: tunnel.NotForUs, b: inner(src, at(f.Multicast().Addr().Next(), 7000), nil)},
				"version":                  {why: tunnel.Malformed, b: changed(0, 0x75)},
				"header only half there":   {why: tunnel.Malformed, b: good[:12]},
				"truncated":                {why: tunnel.Malformed, b: good[:len(good)-1]},
				"trailing byte":            {why: tunnel.Malformed, b: append(bytes.Clone(good), 0)},
				"empty":                    {why: tunnel.Malformed, b: []byte{}},
			} {
				t.Run(fmt.Sprintf("%s %s", f, name), func(t *testing.T) {
					before := status(t, c).Counters
					from := peer
					b := bad.b
					if bad.why == tunnel.FromStranger {
						from, b = stranger, good
					}
					transmit(t, from, b, at(one.outer(f), port))
					// What comes after it shows that it has been dealt with.
					transmit(t, peer, good, at(one.outer(f), port))
					if got, _ := receive(t, server); string(got) != "good" {
						t.Errorf("arrived: %q", got)
					}
					var after tunnel.Counters
					eventually(t, "count of what arrived", func() error {
						if after = status(t, c).Counters; after.ReceivedPackets == before.ReceivedPackets {
							return errors.New("none")
						}
						return nil
					})
					for _, why := range tunnel.Reasons()[:4] {
						var want uint64
						if why == bad.why {
							want = 1
						}
						if got := after.Dropped[why] - before.Dropped[why]; got != want {
							t.Errorf("%s: %d dropped, want %d", why, got, want)
						}
					}
					if got := after.ReceivedPackets - before.ReceivedPackets; got != 1 {
						t.Errorf("%d received, want 1", got)
					}
				})
			}
		}
	})
}

// Both forwarders of two fabrics on one host work, each on its port.
func TestTwoOnOneHost(t *testing.T) {
	one, two := hosts(t)
	one.start(t, 2)
	other := &host{n: one.n, netns: one.netns, socket: one.socket + ".2"}
	one.run(t, "ip tuntap add dev flannel7 mode tun vnet_hdr\nip link set flannel7 up")
	t.Cleanup(func() { other.stop(t) })
	c := other.startBare(t)
	config := one.config()
	config.Link, config.Port = "flannel7", 8286
	if err := c.Change(t.Context(), tunnel.Change{Config: config}); err != nil {
		t.Fatal(err)
	}
	client, wire := one.udp(t, at(one.inner(addr.IPv4), 0)), two.udp(t, at(two.outer(addr.IPv4), port))
	transmit(t, client, nil, at(two.inner(addr.IPv4), 7000))
	receive(t, wire)

	config.Port = port
	if err := c.Change(t.Context(), tunnel.Change{Config: config}); err == nil || !strings.Contains(err.Error(), "has the port") {
		t.Errorf("a port that is taken: %v", err)
	}
	config.Link, config.Port = link, 8286
	if err := c.Change(t.Context(), tunnel.Change{Config: config}); err == nil || !strings.Contains(err.Error(), "end that one") {
		t.Errorf("a device that is taken: %v", err)
	}
	if got := status(t, c).Config; got.Link != "flannel7" || got.Port != 8286 {
		t.Errorf("refused changes are in force: %+v", got)
	}
}

// What is not there is not made.
func TestNoDevice(t *testing.T) {
	one, _ := hosts(t)
	c := one.startBare(t)
	config := one.config()
	config.Link = "flannel9"
	if err := c.Change(t.Context(), tunnel.Change{Config: config}); err == nil {
		t.Error("attached to a device that was not there")
	}
	config.Link = "eth0"
	if err := c.Change(t.Context(), tunnel.Change{Config: config}); err == nil || !strings.Contains(err.Error(), "no TUN device") {
		t.Errorf("attached to an uplink: %v", err)
	}
	one.do(t, func() error {
		if out, err := exec.CommandContext(t.Context(), "ip", "link", "show", "flannel9").CombinedOutput(); err == nil {
			return fmt.Errorf("there is a device now: %s", out)
		}
		return nil
	})
}

// The uplink gets another address: the forwarder moves there.
func TestAnotherSource(t *testing.T) {
	both(t, func(t *testing.T, plain bool) {
		one, two := hostsThat(t, plain)
		one.run(t, "ip addr add 198.51.100.77/24 dev eth0")
		c := one.start(t, 2)
		client, wire := one.udp(t, at(one.inner(addr.IPv4), 0)), two.udp(t, at(two.outer(addr.IPv4), port))
		for _, source := range []netip.Addr{outerOf(1, addr.IPv4), outerOf(77, addr.IPv4)} {
			config := one.config()
			config.Source = []netip.Addr{source}
			if err := c.Change(t.Context(), tunnel.Change{Config: config}); err != nil {
				t.Fatal(err)
			}
			transmit(t, client, nil, at(two.inner(addr.IPv4), 7000))
			if _, from := receive(t, wire); from != at(source, port) {
				t.Errorf("datagram from %s, want %s", from, at(source, port))
			}
		}
		before := status(t, c).Counters.Dropped[tunnel.FamilyNotBound]
		transmit(t, one.udp(t, at(one.inner(addr.IPv6), 0)), nil, at(two.inner(addr.IPv6), 7000))
		eventually(t, "IPv6 without an own address", func() error {
			if status(t, c).Counters.Dropped[tunnel.FamilyNotBound] == before {
				return errors.New("not counted")
			}
			return nil
		})
	})
}

// Changes are checked, and all or nothing.
func TestWrongChanges(t *testing.T) {
	one, _ := hosts(t)
	c := one.start(t, 2)
	before := status(t, c)
	for name, ch := range map[string]tunnel.Change{
		"no subnet":   {Put: []tunnel.Peer{{Dst: outerOf(3, addr.IPv4)}}},
		"no outer":    {Put: []tunnel.Peer{{Subnet: subnetOf(3, addr.IPv4)}}},
		"no link":     {Config: &tunnel.Config{Port: 1}, Put: peers(3)},
		"no port":     {Config: &tunnel.Config{Link: link}, Put: peers(3)},
		"two sources": {Config: &tunnel.Config{Link: link, Port: 1, Source: []netip.Addr{outerOf(1, addr.IPv4), outerOf(2, addr.IPv4)}}},
		"not ours":    {Config: &tunnel.Config{Link: link, Port: port, Source: []netip.Addr{outerOf(99, addr.IPv4)}}, Put: peers(3)},
	} {
		if err := c.Change(t.Context(), ch); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	after := status(t, c)
	if fmt.Sprint(after.Config, after.Peers) != fmt.Sprint(before.Config, before.Peers) {
		t.Errorf("after refused changes %+v, before %+v", after, before)
	}
	if err := c.Change(t.Context(), tunnel.Change{Put: peers(3), Remove: []netip.Prefix{subnetOf(2, addr.IPv4)}}); err != nil {
		t.Fatal(err)
	}
	if got := status(t, c).Peers; len(got) != 3 {
		t.Errorf("peers %v", got)
	}
}

// The device is deleted: there is nothing left to do.
func TestDeviceDeleted(t *testing.T) {
	both(t, func(t *testing.T, plain bool) {
		one, _ := hostsThat(t, plain)
		c := one.start(t, 2)
		one.run(t, "ip link del "+link)
		<-c.Done()
		awaitEnd(t, c.Hello().PID)
		if _, err := tunnel.Dial(t.Context(), one.socket); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// A device that is down for a while is no reason to end.
func TestDeviceDown(t *testing.T) {
	both(t, func(t *testing.T, plain bool) {
		one, two := hostsThat(t, plain)
		c := one.start(t, 2)
		one.run(t, "ip link set flannel0 down")
		f := addr.IPv4
		good := inner(at(two.inner(f), 6000), at(one.inner(f), 7000), nil)
		transmit(t, two.udp(t, at(two.outer(f), 0)), good, at(one.outer(f), port))
		eventually(t, "packet for a device that is down", func() error {
			if status(t, c).Counters.Dropped[tunnel.NotDelivered] == 0 {
				return errors.New("not counted")
			}
			return nil
		})
		one.run(t, "ip link set flannel0 up\nip route add 10.5.0.0/16 dev flannel0")
		one.awaitCarrier(t, link)
		wire := two.udp(t, at(two.outer(f), port))
		transmit(t, one.udp(t, at(one.inner(f), 0)), nil, at(two.inner(f), 7000))
		receive(t, wire)
	})
}

// One that must not be ended by what ends its parent.
func TestSignals(t *testing.T) {
	one, _ := hosts(t)
	c := one.start(t, 2)
	pid := c.Hello().PID
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGHUP, unix.SIGPIPE} {
		if err := unix.Kill(pid, sig); err != nil {
			t.Fatal(err)
		}
	}
	status(t, c)
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session %d of process %d: %v", sid, pid, err)
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	awaitEnd(t, pid)
}
