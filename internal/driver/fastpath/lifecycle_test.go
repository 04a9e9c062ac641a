package fastpath_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/flannel-ng/flannel-ng/internal/bpf"
	"github.com/flannel-ng/flannel-ng/internal/driver/fastpath"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// A daemon that starts again, here a new driver after each step, finds all in
// place, and what it carries does not depend on it.
func TestRestart(t *testing.T) {
	a, b := pair(t)
	before := a.settings(t)
	if left := a.plan(t, a.want(b)); len(left) > 0 {
		t.Errorf("left to do after a restart: %v", left)
	}
	a.make(t, a.want(b))
	ping(t, a, b, 100)
	if after := a.settings(t); after != before {
		t.Errorf("settings %v, were %v", after, before)
	}
}

// programs lists what is attached to a device of h, by TCX.
func (h *host) programs(tb testing.TB, device string) int {
	tb.Helper()
	n := 0
	var index int
	if _, err := fmt.Sscanf(h.output(tb, "ip", "-o", "link", "show", "dev", device), "%d:", &index); err != nil {
		tb.Fatal(err)
	}
	h.do(tb, func() error {
		for _, side := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
			r, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: side})
			if err != nil {
				return err
			}
			n += len(r.Programs)
		}
		return nil
	})
	return n
}

func TestRemoval(t *testing.T) {
	a, b := pair(t)
	links := len(strings.Split(a.output(t, "ip", "-o", "link"), "\n"))
	a.make(t, &state.Set{})
	if left := len(strings.Split(a.output(t, "ip", "-o", "link"), "\n")); left != links-1 {
		t.Errorf("%d links, had %d: want the hidden one gone", left, links)
	}
	for _, device := range []string{"eth0", "flannel0"} {
		if n := a.programs(t, device); n > 0 {
			t.Errorf("%d programs left on %s", n, device)
		}
	}
	a.do(t, func() error {
		dir, err := fastpath.Dir(a.root, a.owner)
		if err != nil {
			return err
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("pins left: %v", err)
		}
		return nil
	})
	a.make(t, &state.Set{}) // once more is no error
	// Peers alone are nothing to be made.
	a.make(t, &state.Set{FastPeers: a.want(b).FastPeers})
	a.make(t, a.want(b))
	ping(t, a, b, 100)
}

// Whatever is torn away is seen and mended.
func TestRepair(t *testing.T) {
	for _, tt := range []struct {
		name string
		tear func(*testing.T, *host)
	}{
		{"hidden device gone", func(t *testing.T, h *host) { h.run(t, "ip link del flannel0-in") }},
		{"hidden device down", func(t *testing.T, h *host) { h.run(t, "ip link set flannel0-in down") }},
		{"TUN device made anew", func(t *testing.T, h *host) {
			h.run(t, "ip link del flannel0")
			h.tun(t, "flannel0", "flannel-ng")
			h.run(t, "ip route add 10.5.0.0/16 dev flannel0 src "+h.inner().String())
		}},
		{"detached", func(t *testing.T, h *host) { h.tearPin(t, "link-fl_in") }},
		{"a map gone", func(t *testing.T, h *host) { h.tearPin(t, "fl_peers") }},
		{"a program gone", func(t *testing.T, h *host) { h.tearPin(t, "fl_out-"+bpf.Version()) }},
		{"peers changed", func(t *testing.T, h *host) {
			h.pins(t, func(p *bpf.Path) error {
				_, err := p.Put([]bpf.Peer{{Subnet: subnet(2), Dst: netip.MustParseAddr("203.0.113.9")}, {Subnet: subnet(9), Dst: h.outer()}})
				return err
			})
		}},
		{"settings changed", func(t *testing.T, h *host) {
			h.pins(t, func(p *bpf.Path) error {
				s, err := p.Settings()
				if err != nil {
					return err
				}
				s.Port++
				return p.SetSettings(s)
			})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := pair(t)
			tt.tear(t, a)
			if len(a.plan(t, a.want(b))) == 0 {
				t.Fatal("not seen")
			}
			a.make(t, a.want(b))
			ping(t, a, b, 100)
			ping(t, b, a, 100)
			if c := a.counters(t); c.SentPackets == 0 || c.ReceivedPackets == 0 {
				t.Errorf("%+v: not carried by the kernel", c)
			}
		})
	}
}

func (h *host) tearPin(tb testing.TB, name string) {
	tb.Helper()
	h.do(tb, func() error {
		dir, err := fastpath.Dir(h.root, h.owner)
		if err != nil {
			return err
		}
		return os.Remove(filepath.Join(dir, name))
	})
}

// Programs of another build are exchanged where they are, while they work, and
// peers and counters stay.
func TestUpgrade(t *testing.T) {
	a, b := pair(t)
	a.do(t, func() error {
		dir, err := fastpath.Dir(a.root, a.owner)
		if err != nil {
			return err
		}
		for _, h := range bpf.Hooks() {
			if err := os.Rename(filepath.Join(dir, string(h)+"-"+bpf.Version()), filepath.Join(dir, string(h)+"-000000000000")); err != nil {
				return err
			}
		}
		return nil
	})
	ping(t, a, b, 100)
	counted := a.counters(t).SentPackets
	changes := a.plan(t, a.want(b))
	if len(changes) != 1 || changes[0].Op != reconcile.Update || !strings.Contains(changes[0].Was, "of another build") {
		t.Fatalf("%v: want one update", changes)
	}
	// Sent while the programs are exchanged; none may be lost.
	lost := make(chan string, 1)
	go func() {
		lost <- a.output(t, "ping", "-n", "-q", "-i0.002", "-c500", "-W5", "-I", a.inner().String(), b.inner().String())
	}()
	a.make(t, a.want(b))
	if out := <-lost; !strings.Contains(out, " 0% packet loss") {
		t.Error(out)
	}
	if now := a.counters(t).SentPackets; now < counted+500 {
		t.Errorf("%d packets counted, were %d: did not go on", now, counted)
	}
	a.do(t, func() error {
		dir, err := fastpath.Dir(a.root, a.owner)
		if err != nil {
			return err
		}
		old, err := filepath.Glob(dir + "/*-000000000000")
		if len(old) > 0 {
			t.Errorf("left of the other build: %v", old)
		}
		return err
	})
}

// The uplink is another one than before.
func TestUplinkMoves(t *testing.T) {
	a, b := pair(t)
	a.run(t, "ip link set eth0 down\nip link set eth0 name wan0\nip link set wan0 up")
	want := a.want(b)
	want.FastPaths[0].Uplink = "wan0"
	if left := a.plan(t, want); len(left) > 0 {
		t.Errorf("another name alone is to be changed: %v", left)
	}
	a.run(t, "ip link add eth1 type veth peer name eth1peer\nip link set eth1 up\nip link set eth1peer up")
	want.FastPaths[0].Uplink = "eth1"
	a.make(t, want)
	if n := a.programs(t, "wan0"); n != 0 {
		t.Errorf("%d programs left on the former uplink", n)
	}
	if n := a.programs(t, "eth1"); n != 1 {
		t.Errorf("%d programs on the uplink, want 1", n)
	}
	want.FastPaths[0].Uplink = "wan0"
	a.make(t, want)
	ping(t, a, b, 100)
}

// A link of the name that the hidden device should have is not touched, nor is
// a TUN device that is not ours read.
func TestForeign(t *testing.T) {
	all := hosts(t, 1)
	a := all[0]
	a.run(t, "ip link add flannel0-in type bridge")
	fails := func(want *state.Set, text string) {
		t.Helper()
		a.do(t, func() error {
			out := reconcile.Execute(t.Context(), []reconcile.Driver{a.driver()}, want, true)
			failed := out.Failed()
			if len(failed) == 0 || !strings.Contains(failed[0].Err.Error(), text) {
				t.Errorf("%v: want %q", out.Results, text)
			}
			return nil
		})
	}
	fails(a.want(), "not ours")
	a.run(t, "ip link del flannel0-in\nip link set flannel0 alias somebody")
	fails(a.want(), "not ours")
	a.run(t, "ip link set flannel0 alias flannel-ng\nip tuntap add tun9 mode tun\nip link set tun9 up")
	want := a.want()
	want.FastPaths[0].Uplink = "tun9"
	fails(want, "Ethernet")
	a.make(t, &state.Set{})
}

// Peers come and go by themselves, 20,000 as well as one, and a plan of a part
// finds what the whole one does.
func TestPeers(t *testing.T) {
	all := hosts(t, 1)
	a := all[0]
	want := a.want()
	for i := range 20000 {
		want.FastPeers = append(want.FastPeers, state.FastPeer{
			Link:   "flannel0",
			Subnet: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 128 | byte(i>>12), byte(i >> 4), byte(i << 4)}), 28),
			Dst:    netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}),
		})
	}
	a.make(t, want)
	less := a.want()
	less.FastPeers = append(less.FastPeers, want.FastPeers[:10]...)
	less.FastPeers[3].Dst = netip.MustParseAddr("203.0.113.3")
	extra := state.FastPeer{Link: "flannel0", Subnet: netip.MustParsePrefix("10.200.0.0/28"), Dst: netip.MustParseAddr("203.0.113.4")}
	less.FastPeers = append(less.FastPeers, extra)
	scope := reconcile.Scope{
		Want: &state.Set{FastPeers: []state.FastPeer{less.FastPeers[2], less.FastPeers[3], extra}},
		Gone: []state.Object{want.FastPeers[11], state.FastPeer{Link: "flannel0", Subnet: netip.MustParsePrefix("10.128.0.0/29")}},
		All:  func() *state.Set { return less },
	}
	a.do(t, func() error {
		changes, err := a.driver().PlanScope(t.Context(), scope)
		var got []string
		for _, c := range changes {
			got = append(got, string(c.Op)+" "+c.Object.Key().Prefix.String())
		}
		if s := strings.Join(got, ", "); s != "update 10.128.0.48/28, remove 10.128.0.176/28, add 10.200.0.0/28" {
			t.Errorf("plan of a part: %s", s)
		}
		return err
	})
	a.make(t, less)
	a.make(t, a.want())
}

// The hidden device has a UDP port that anybody may send to. What came in by it
// without a program that looks at it would be routed.
func TestHiddenDeviceIsNeverUnguarded(t *testing.T) {
	index := func(t *testing.T, h *host) string {
		t.Helper()
		number, _, _ := strings.Cut(h.try(t, "ip", "-o", "link", "show", "dev", "flannel0-in"), ":")
		return number
	}
	t.Run("program torn away", func(t *testing.T) {
		a, b := pair(t)
		open := index(t, a)
		a.tearPin(t, "link-fl_decap")
		a.make(t, a.want(b))
		if index(t, a) == open {
			t.Error("stayed up until it had a program again")
		}
		ping(t, a, b, 100)
	})
	t.Run("pins cannot be removed", func(t *testing.T) {
		a, _ := pair(t)
		a.do(t, func() error {
			dir, err := fastpath.Dir(a.root, a.owner)
			if err != nil {
				return err
			}
			return os.MkdirAll(filepath.Join(dir, "strange", "full"), 0o700)
		})
		a.do(t, func() error {
			out := reconcile.Execute(t.Context(), []reconcile.Driver{a.driver()}, &state.Set{}, true)
			if len(out.Failed()) == 0 {
				return errors.New("nothing failed")
			}
			return nil
		})
		if out := a.try(t, "ip", "-o", "link", "show", "dev", "flannel0-in", "up"); strings.Contains(out, "UP") {
			t.Errorf("up without a program: %s", out)
		}
	})
}
