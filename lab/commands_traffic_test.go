package lab_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// ways are all pairs of containers, or both directions between two.
func (s *stage) ways(names []string) ([]lab.Way, error) {
	if len(names) == 0 || names[0] == "all" {
		return s.fabric.Ways(), nil
	}
	if len(names) != 2 {
		return nil, errUsage
	}
	var ways []lab.Way
	for _, w := range s.fabric.Ways() {
		if w.From.Name == names[0] && w.To.Name == names[1] || w.From.Name == names[1] && w.To.Name == names[0] {
			ways = append(ways, w)
		}
	}
	if len(ways) == 0 {
		return nil, fmt.Errorf("no way between %s and %s", names[0], names[1])
	}
	return ways, nil
}

// [!] ping [all | C C]: until it works; with "!" until it does not.
func ping(ctx context.Context, s *stage, c call) error {
	ways, err := s.ways(c.args)
	if err != nil {
		return err
	}
	if !c.neg {
		return lab.Each(ctx, ways, lab.PingWay)
	}
	return lab.Each(ctx, ways, func(ctx context.Context, w lab.Way) error {
		if lab.PingWay(ctx, w) == nil {
			return errors.New("still answers")
		}
		return nil
	})
}

// bigping [all | C C]
func bigping(ctx context.Context, s *stage, c call) error {
	ways, err := s.ways(c.args)
	if err != nil {
		return err
	}
	return lab.Each(ctx, ways, lab.BigPingWay)
}

// unfragmented: no host had to cut a packet so far.
func unfragmented(_ context.Context, s *stage, _ call) error {
	for _, h := range s.fabric.Hosts {
		n, err := h.Fragments()
		if err != nil {
			return err
		}
		if n != 0 {
			return fmt.Errorf("%s made %d fragments", h.Name, n)
		}
	}
	return nil
}

// tcp BYTES [all | C C]: transfers with hashes compared.
func tcp(ctx context.Context, s *stage, c call) error {
	if len(c.args) == 0 {
		return errUsage
	}
	bytes, err := strconv.ParseInt(c.args[0], 10, 64)
	if err != nil {
		return err
	}
	ways, err := s.ways(c.args[1:])
	if err != nil {
		return err
	}
	return lab.Each(ctx, ways, func(ctx context.Context, w lab.Way) error {
		_, _, err := w.From.Transfer(ctx, lab.Origin{}, w.To.Addr(w.Family), bytes)
		return err
	})
}

// source FROM TO EXPECT: TO sees connections from FROM come from EXPECT.
// FROM may bind to its uplink address and set a mark: h1@eth0, h1@eth0+0x4000.
// EXPECT may be a host's tunnel address: h1.tunnel.
func source(ctx context.Context, s *stage, c call) error {
	if len(c.args) != 3 {
		return errUsage
	}
	for _, f := range s.fabric.Options.Families {
		if err := s.sourceIn(ctx, f, c); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
	}
	return nil
}

func (s *stage) sourceIn(ctx context.Context, f addr.Family, c call) error {
	name, mark, marked := strings.Cut(c.arg(0), "+")
	name, _, bound := strings.Cut(name, "@")
	from, err := s.node(name)
	if err != nil {
		return err
	}
	var o lab.Origin
	if marked {
		m, err := strconv.ParseInt(mark, 0, 32)
		if err != nil {
			return err
		}
		o.Mark = int(m)
	}
	if bound || name == "outside" { // the world speaks with its own address
		if o.Source, err = s.address(name, f); err != nil {
			return err
		}
	}
	to, err := s.address(c.arg(1), f)
	if err != nil {
		return err
	}
	want, err := s.address(c.arg(2), f)
	if err != nil {
		return err
	}
	return lab.Eventually(ctx, func(ctx context.Context) error {
		seen, _, err := from.Transfer(ctx, o, to, 1)
		if err == nil && seen != want {
			err = fmt.Errorf("%s sees %s come from %s, want %s (%s)", c.arg(1), c.arg(0), seen, want, c.arg(2))
		}
		return err
	})
}

// route C HOST: the world reaches the subnet of container C through HOST.
func route(ctx context.Context, s *stage, c call) error {
	to, err := s.fabric.Container(c.arg(0))
	if err != nil {
		return err
	}
	via, err := s.fabric.Host(c.arg(1))
	if err != nil {
		return err
	}
	for _, f := range s.fabric.Options.Families {
		gateway, err := to.Host.Gateway(f)
		if err != nil {
			return err
		}
		if err := s.fabric.RouteFromOutside(ctx, gateway.Masked(), via); err != nil {
			return err
		}
	}
	return nil
}

// datagram HOST TO packet SRC DST | datagram HOST TO hex DIGITS: one datagram to
// the forwarder's port, with a packet (UDP to port 9999) or any bytes in it.
func datagram(ctx context.Context, s *stage, c call) error {
	if len(c.args) < 4 {
		return errUsage
	}
	h, err := s.fabric.Host(c.arg(0))
	if err != nil {
		return err
	}
	to, err := netip.ParseAddr(c.arg(1))
	if err != nil {
		return err
	}
	payload, err := datagramPayload(c.args[2:])
	if err != nil {
		return err
	}
	return h.SendDatagram(ctx, netip.AddrPortFrom(to, 8285), payload)
}

func datagramPayload(args []string) ([]byte, error) {
	switch {
	case args[0] == "hex":
		return hex.DecodeString(args[1])
	case args[0] == "packet" && len(args) == 3:
		src, err1 := netip.ParseAddr(args[1])
		dst, err2 := netip.ParseAddr(args[2])
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return lab.InnerPacket(src, dst), nil
	default:
		return nil, errUsage
	}
}

// clock is a time of day as logs have it.
const clock = "15:04:05.000"

// usualRate is that of a flow without one, in datagrams a second.
const usualRate = 50

// flow start NAME C C [RATE [4|6]] | flow sent NAME MORE | flow stop NAME MAXLOST: a
// steady flow of numbered datagrams in each direction; wait until each end has
// sent MORE; count what was lost.
func flow(ctx context.Context, s *stage, c call) error {
	if len(c.args) < 3 {
		return errUsage
	}
	if c.arg(0) == "start" {
		return s.startFlow(ctx, c)
	}
	f, ok := s.flows[c.arg(1)]
	if !ok {
		return fmt.Errorf("no flow %q", c.arg(1))
	}
	number, err := strconv.ParseUint(c.arg(2), 10, 64)
	if err != nil {
		return errUsage
	}
	switch c.arg(0) {
	case "sent":
		return f.Sent(ctx, number)
	case "stop":
		return s.stopFlow(ctx, c, f, number)
	default:
		return errUsage
	}
}

func (s *stage) startFlow(ctx context.Context, c call) error {
	if len(c.args) < 4 {
		return errUsage
	}
	ways, err := s.ways(c.args[2:4])
	if err != nil {
		return err
	}
	rate := usualRate
	if c.arg(4) != "" {
		if rate, err = strconv.Atoi(c.arg(4)); err != nil || rate <= 0 {
			return errUsage
		}
	}
	i := slices.IndexFunc(ways, func(w lab.Way) bool { return c.arg(5) == "" || c.arg(5) == "6" == (w.Family == addr.IPv6) })
	if i < 0 {
		return fmt.Errorf("no way from %s to %s in family %s", c.arg(2), c.arg(3), c.arg(5))
	}
	s.flows[c.arg(1)], err = lab.StartFlow(context.WithoutCancel(ctx), ways[i], rate)
	return err
}

// stopFlow allows so many lost packets. Those of fast flows are figures worth
// reporting.
func (s *stage) stopFlow(ctx context.Context, c call, f *lab.Flow, allowed uint64) error {
	delete(s.flows, c.arg(1))
	ways, err := f.Stop(ctx)
	if err != nil {
		return err
	}
	var lost uint64
	for _, w := range ways {
		figure := fmt.Sprintf("flow %s: %s→%s %d sent, %d lost", c.arg(1), w.From, w.To, w.Sent, w.Lost)
		c.ts.Logf("%s", figure)
		for _, g := range w.Gaps[:min(len(w.Gaps), 10)] { // to find the cause by
			c.ts.Logf("  %d lost from %s to %s", g.Packets, g.First.UTC().Format(clock), g.Last.UTC().Format(clock))
		}
		if f.Rate > usualRate {
			s.figures = append(s.figures, figure)
		}
		if lost += w.Lost; w.Sent == 0 {
			return errors.New(figure)
		}
	}
	if lost > allowed {
		return fmt.Errorf("flow %s: %d packets lost, %d allowed", c.arg(1), lost, allowed)
	}
	return nil
}

// capture start NAME NODE FILTER… | [!] capture stop NAME PATTERN…: packets on
// its eth0, in the words of tcpdump, must come to match every pattern;
// with "!" no packet so far matches any.
func capture(ctx context.Context, s *stage, c call) error {
	if len(c.args) < 3 {
		return errUsage
	}
	if c.arg(0) == "start" {
		n, err := s.node(c.arg(2))
		if err != nil {
			return err
		}
		s.captures[c.arg(1)], err = n.StartCapture(context.WithoutCancel(ctx), c.args[3:]...)
		return err
	}
	running, ok := s.captures[c.arg(1)]
	if !ok {
		return fmt.Errorf("no capture %q", c.arg(1))
	}
	if c.neg {
		if err := running.Stop(ctx); err != nil { // flushes what it has
			return err
		}
		return matchesNone(running.Packets(), c.args[2:])
	}
	err := lab.Eventually(ctx, func(context.Context) error { return matches(running.Packets(), c.args[2:]) })
	return errors.Join(err, running.Stop(ctx))
}
