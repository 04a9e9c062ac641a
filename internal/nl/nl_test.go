package nl_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/drivertest"
	"github.com/flannel-ng/flannel-ng/internal/nl"
)

// message is one netlink message, with a body of four bytes.
func message(typ, flags uint16, seq uint32, body int32) []byte {
	b := binary.NativeEndian.AppendUint32(nil, 20)
	b = binary.NativeEndian.AppendUint16(b, typ)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	return binary.NativeEndian.AppendUint32(b, uint32(body))
}

func TestInterruptedDump(t *testing.T) {
	const multi, seq = unix.NLM_F_MULTI, nl.DumpSeq
	object := message(unix.RTM_NEWROUTE, multi, seq, 0)
	done := message(unix.NLMSG_DONE, multi, seq, 0)
	both := append(append([]byte(nil), object...), done...)
	for name, c := range map[string]struct {
		in      [][]byte
		objects int
		done    bool
		want    error
	}{
		"whole":            {[][]byte{object, object, done}, 2, true, nil},
		"one datagram":     {[][]byte{object, both}, 2, true, nil},
		"mark on object":   {[][]byte{message(unix.RTM_NEWROUTE, multi|unix.NLM_F_DUMP_INTR, seq, 0), done}, 1, true, nl.ErrInterrupted},
		"mark on end":      {[][]byte{object, message(unix.NLMSG_DONE, multi|unix.NLM_F_DUMP_INTR, seq, 0)}, 1, true, nl.ErrInterrupted},
		"error at the end": {[][]byte{object, message(unix.NLMSG_DONE, multi, seq, -int32(unix.ENOMEM))}, 1, true, unix.ENOMEM},
		"refused":          {[][]byte{message(unix.NLMSG_ERROR, 0, seq, -int32(unix.EOPNOTSUPP))}, 0, true, unix.EOPNOTSUPP},
		"of another dump":  {[][]byte{message(unix.NLMSG_DONE, multi, seq+1, 0)}, 0, false, nil},
		"cut short":        {[][]byte{object[:18]}, 0, false, unix.EBADMSG},
	} {
		t.Run(name, func(t *testing.T) {
			objects, done, err := nl.ReadDump(c.in...)
			if objects != c.objects || done != c.done || !errors.Is(err, c.want) {
				t.Errorf("got %d objects, done %v, %v", objects, done, err)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(message(unix.RTM_NEWLINK, 0, 1, 0))
	f.Add(message(unix.NLMSG_ERROR, unix.NLM_F_ACK_TLVS, 1, -2))
	route := message(unix.RTM_NEWROUTE, 0, 1, 2)
	route = append(route, make([]byte, 8)...)
	route = append(route, 12, 0, unix.RTA_MULTIPATH, 0, 8, 0, 4, 0, 1, 0, 0, 0)
	binary.NativeEndian.PutUint32(route, uint32(len(route)))
	f.Add(route)
	f.Fuzz(func(_ *testing.T, b []byte) { _ = nl.DecodeAll(b) })
}

func dial(t *testing.T) *nl.Conn {
	t.Helper()
	c, err := nl.Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func neighbour(link, i int) nl.Neighbour {
	return nl.Neighbour{
		Link: link, IP: netip.AddrFrom4([4]byte{10, 5, uint8(i >> 8), uint8(i)}), MAC: addr.MAC{2, 0, 0, 0, uint8(i >> 8), uint8(i)},
	}
}

// Every one of several full batches may fail, and each is told so.
func TestEachRequestHasItsOwnError(t *testing.T) {
	drivertest.Namespace(t)
	c := dial(t)
	l, err := c.LinkNamed(t.Context(), "foreign1")
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]func(i int) bool{
		"all":       func(int) bool { return true },
		"none":      func(int) bool { return false },
		"the last":  func(i int) bool { return i == 999 },
		"the first": func(i int) bool { return i == 0 },
		"some":      func(i int) bool { return i%7 == 3 },
	} {
		reqs := make([]nl.Request, 1000)
		for i := range reqs {
			n := neighbour(l.Index, i)
			if bad(i) {
				n.Link = 1 << 20
			}
			reqs[i] = nl.PutNeighbour(n, 70)
		}
		for i, err := range c.Do(t.Context(), reqs) {
			if (err != nil) != bad(i) || err != nil && !errors.Is(err, unix.ENODEV) {
				t.Fatalf("%s: request %d: %v", name, i, err)
			}
		}
	}
	if list, err := c.Neighbours(t.Context(), addr.IPv4, l.Index); err != nil || len(list) != 1000 {
		t.Errorf("%d neighbours, %v", len(list), err)
	}
}

func TestErrorsAreErrnos(t *testing.T) {
	drivertest.Namespace(t)
	c := dial(t)
	h := nl.Nexthop{ID: 9, Hop: nl.Hop{Link: 1 << 20, Via: netip.MustParseAddr("192.0.2.7")}}
	var e *nl.Error
	if err := c.Do(t.Context(), []nl.Request{nl.AddNexthop(h)})[0]; !errors.As(err, &e) || e.Message == "" {
		t.Errorf("the kernel's explanation is lost: %v", err)
	}
	if _, err := c.LinkNamed(t.Context(), "missing0"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("missing link: %v", err)
	}
	r := nl.Route{Dst: netip.MustParsePrefix("203.0.113.0/24"), Type: nl.Blackhole}
	if err := c.Do(t.Context(), []nl.Request{nl.AddRoute(r)})[0]; !errors.Is(err, fs.ErrExist) {
		t.Errorf("existing route: %v", err)
	}
}

func TestCancelledContextSendsNothing(t *testing.T) {
	drivertest.Namespace(t)
	c := dial(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Do(ctx, []nl.Request{nl.DelNexthop(5)})[0]; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if list, err := c.Nexthops(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("nexthop objects %v, %v", list, err)
	}
}

// While strangers add and remove, a listing is an error or has everything that
// did not move.
func TestListingWhileOthersWrite(t *testing.T) {
	drivertest.Namespace(t)
	c, other := dial(t), dial(t)
	l, err := c.LinkNamed(t.Context(), "foreign1")
	if err != nil {
		t.Fatal(err)
	}
	route := func(i int) nl.Route {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, uint8(i >> 12), uint8(i >> 4), uint8(i << 4)}), 28)
		return nl.Route{Dst: p, Type: nl.Unicast, Protocol: 70, Link: l.Index}
	}
	var steady, add, del []nl.Request
	for i := range 3000 {
		steady = append(steady, nl.AddRoute(route(2*i)))
		add, del = append(add, nl.AddRoute(route(2*i+1))), append(del, nl.DelRoute(route(2*i+1)))
	}
	if err := errors.Join(c.Do(t.Context(), steady)...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for ctx.Err() == nil {
			other.Do(ctx, add)
			other.Do(ctx, del)
		}
	}()
	whole := 0
	for range 50 {
		list, err := c.Routes(t.Context(), nl.RouteFilter{Family: addr.IPv4, Protocol: 70, Link: l.Index})
		if errors.Is(err, nl.ErrInterrupted) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		whole++
		found := 0
		for _, r := range list {
			if r.Dst.Addr().As4()[3]&16 == 0 {
				found++
			}
		}
		if found != 3000 {
			t.Fatalf("%d of 3000 routes, and no error", found)
		}
	}
	cancel()
	<-stopped
	t.Logf("%d of 50 listings were whole", whole)
}
