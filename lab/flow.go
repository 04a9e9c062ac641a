package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// flowBuffer holds what comes while the lab is not scheduled, in bytes.
const flowBuffer = 8 << 20

// Flow is a steady flow of numbered datagrams in both directions between two
// containers, so that each direction's losses are counted by themselves.
type Flow struct {
	Rate int // datagrams a second each way

	ends [2]*flowEnd
	stop context.CancelFunc
	sent sync.WaitGroup // senders
	all  sync.WaitGroup // receivers
}

// flowEnd sends to its peer and counts what comes from there.
type flowEnd struct {
	name string
	conn *net.UDPConn
	at   netip.AddrPort // of conn
	peer netip.AddrPort
	sent atomic.Uint64

	mu    sync.Mutex
	seen  numbers     // that came
	times []time.Time // when the first flowTimed numbers were sent
}

// flowTimed bounds for how many packets it is known when they were sent.
const flowTimed = 1 << 20

// numbers is a set of numbers that mostly follow each other: a flow may run for
// hours.
type numbers struct {
	bits  []uint64
	count uint64
	next  uint64 // beyond the greatest
}

// flowMost bounds what a stranger's datagram could make the set take: 4 hours
// at 10,000 a second.
const flowMost = 4 * 3600 * 10_000

func (s *numbers) add(n uint64) {
	if n >= flowMost || s.has(n) {
		return
	}
	for n/64 >= uint64(len(s.bits)) {
		s.bits = append(s.bits, 0)
	}
	s.bits[n/64] |= 1 << (n % 64)
	s.count++
	s.next = max(s.next, n+1)
}

func (s *numbers) has(n uint64) bool {
	return n/64 < uint64(len(s.bits)) && s.bits[n/64]&(1<<(n%64)) != 0
}

// missing counts what is not there between from and the greatest that is.
func (s *numbers) missing(from uint64) (lost uint64) {
	for n := from; n < s.next; n++ {
		if !s.has(n) {
			lost++
		}
	}
	return lost
}

// StartFlow sends rate datagrams a second each way until Stop.
func StartFlow(ctx context.Context, w Way, rate int) (*Flow, error) {
	ctx, stop := context.WithCancel(ctx)
	s := &Flow{Rate: rate, stop: stop}
	for i, c := range []*Container{w.From, w.To} {
		end := &flowEnd{name: c.Name}
		var err error
		if end.conn, err = c.datagrams(ctx, netip.AddrPortFrom(c.Addr(w.Family), 0)); err != nil {
			stop()
			return nil, err
		}
		end.at = end.conn.LocalAddr().(*net.UDPAddr).AddrPort()
		s.ends[i] = end
	}
	for i, end := range s.ends {
		end.peer = s.ends[1-i].at
		s.all.Go(end.receive)
		s.sent.Go(func() { end.send(ctx, rate) })
	}
	return s, nil
}

// datagrams opens a socket inside the node with room for pauses of the lab.
func (n *Node) datagrams(ctx context.Context, at netip.AddrPort) (*net.UDPConn, error) {
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var set error
		err := c.Control(func(fd uintptr) {
			set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, flowBuffer)
		})
		return errors.Join(err, set)
	}}
	var conn net.PacketConn
	err := n.within(func() (err error) {
		conn, err = config.ListenPacket(ctx, "udp", at.String())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("flow on %s: %w", n.Name, err)
	}
	return conn.(*net.UDPConn), nil
}

// send keeps to the rate on average. After a pause it catches up by few packets
// only, since a burst would overflow queues that a steady flow does not.
func (e *flowEnd) send(ctx context.Context, rate int) {
	const catchUp = 16
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	begin, skipped := time.Now(), uint64(0)
	for ctx.Err() == nil {
		due := uint64(time.Since(begin).Seconds()*float64(rate)) - skipped
		next := e.sent.Load()
		if due > next+catchUp {
			skipped += due - next - catchUp
			due = next + catchUp
		}
		for ; next < due; next++ {
			e.note(next)
			number := binary.BigEndian.AppendUint64(nil, next)
			// A refusal is a loss, and is counted as one.
			_, _ = e.conn.WriteToUDPAddrPort(number, e.peer)
			e.sent.Add(1)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// note keeps when number n is sent.
func (e *flowEnd) note(n uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n < flowTimed {
		e.times = append(e.times, time.Now())
	}
}

func (e *flowEnd) receive() {
	buf := make([]byte, 64)
	for {
		n, err := e.conn.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil && n == 8 {
			e.mu.Lock()
			e.seen.add(binary.BigEndian.Uint64(buf))
			e.mu.Unlock()
		}
	}
}

func (e *flowEnd) received() uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen.count
}

// Sent waits until each end has sent that many more datagrams.
func (s *Flow) Sent(ctx context.Context, more uint64) error {
	var until [2]uint64
	for i, end := range s.ends {
		until[i] = end.sent.Load() + more
	}
	return Eventually(ctx, func(context.Context) error {
		for i, end := range s.ends {
			if sent := end.sent.Load(); sent < until[i] {
				return fmt.Errorf("%s has sent %d datagrams, want %d", end.name, sent, until[i])
			}
		}
		return nil
	})
}

// FlowMark is a moment in a flow: how much each end had sent.
type FlowMark [2]uint64

// Mark is now.
func (s *Flow) Mark() (m FlowMark) {
	for i, end := range s.ends {
		m[i] = end.sent.Load()
	}
	return m
}

// Passes says whether, each way, something came that was sent after m.
func (s *Flow) Passes(m FlowMark) error {
	for i, end := range s.ends {
		to := s.ends[1-i]
		to.mu.Lock()
		came := to.seen.next
		to.mu.Unlock()
		if came <= m[i] {
			return fmt.Errorf("nothing comes from %s at %s", end.at.Addr(), to.at.Addr())
		}
	}
	return nil
}

// LostSince counts what was sent from m on, before the last that came.
func (s *Flow) LostSince(m FlowMark) (lost uint64) {
	for i := range s.ends {
		to := s.ends[1-i]
		to.mu.Lock()
		lost += to.seen.missing(m[i])
		to.mu.Unlock()
	}
	return lost
}

// Losses is how one direction went.
type Losses struct {
	From, To   string
	Sent, Lost uint64
	// Gaps are the runs of what was lost, in order.
	Gaps []Gap
}

// Gap is packets in a row that were lost.
type Gap struct {
	Packets     int
	First, Last time.Time // when they were sent
}

// gaps compares what e sent with what came.
func (e *flowEnd) gaps(to *flowEnd) []Gap {
	var out []Gap
	inside := false
	for n, at := range e.times {
		switch came := to.seen.has(uint64(n)); {
		case came:
			inside = false
		case inside:
			g := &out[len(out)-1]
			g.Packets, g.Last = g.Packets+1, at
		default:
			inside = true
			out = append(out, Gap{1, at, at})
		}
	}
	return out
}

// Stop ends the flow, waits for what is still on the way, and counts.
func (s *Flow) Stop(ctx context.Context) ([]Losses, error) {
	s.stop()
	s.sent.Wait()
	const underway = time.Second
	wait, cancel := context.WithTimeout(ctx, underway)
	defer cancel()
	// A loss is a result and not an error of the wait.
	_ = Eventually(wait, func(context.Context) error {
		for i, end := range s.ends {
			if s.ends[1-i].received() < end.sent.Load() {
				return errors.New("not everything has come")
			}
		}
		return nil
	})
	var errs []error
	for _, end := range s.ends {
		errs = append(errs, end.conn.Close())
	}
	s.all.Wait()
	var losses []Losses
	for i, end := range s.ends {
		to := s.ends[1-i]
		losses = append(losses, Losses{From: end.name, To: to.name, Sent: end.sent.Load(), Lost: end.sent.Load() - to.received(), Gaps: end.gaps(to)})
	}
	return losses, errors.Join(errs...)
}
