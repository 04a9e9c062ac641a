// Package forwarder moves packets between a TUN device and UDP sockets: the
// data path of the udp backend. An inner packet is the payload of a datagram,
// without a header between.
//
// It owns the descriptors and the counters. It never makes, addresses or
// removes the device, knows no lease, and changes no packet but by
// fragmentation: the kernels on both sides count the hops. Called by
// cmd/flanneld in a process of its own.
//
// There are two forms of it. The plain one, outbound and inbound, has one
// system call for each packet and direction. The fast one, gather and scatter,
// moves many with each, and lets kernel and network card cut and join them; it
// must equal the plain one. What becomes of a packet is decided in view, apart
// from how it is read and written.
package forwarder

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
	"github.com/flannel-ng/flannel-ng/internal/tunnel/table"
)

var (
	// ErrConfig says that a change asks for something that cannot be.
	ErrConfig = errors.New("wrong configuration")
	// ErrStopped says that the forwarder works no more.
	ErrStopped = errors.New("forwarder has stopped")
	// ErrDeviceGone says that the TUN device was deleted.
	ErrDeviceGone = errors.New("TUN device was deleted")
)

// Forwarder moves packets as it was last told. It is a tunnel.Forwarder.
type Forwarder struct {
	log      *slog.Logger
	counters counters
	errors   *errorSender
	now      atomic.Pointer[view]

	mu      sync.Mutex // of changes
	stopped bool
	shared  bool // another process reads too: it may not know offloads
	running sync.WaitGroup

	fail sync.Once
	done chan struct{}
	err  error // why; written before done is closed
}

// New makes a forwarder that does nothing yet.
func New(ctx context.Context, log *slog.Logger) *Forwarder {
	f := &Forwarder{log: log, counters: newCounters(), errors: newErrorSender(ctx, log), done: make(chan struct{})}
	f.now.Store(&view{table: table.New(nil)})
	return f
}

// Status tells what is configured and what has been counted.
func (f *Forwarder) Status() tunnel.Status {
	v := f.now.Load()
	return tunnel.Status{Config: v.config, Peers: v.table.Peers(), Counters: f.counters.read(), Offload: v.offload()}
}

// Done is closed when the forwarder cannot go on; Err says why.
func (f *Forwarder) Done() <-chan struct{} { return f.done }

// Err is why Done is closed: ErrDeviceGone, or what a descriptor said.
func (f *Forwarder) Err() error {
	<-f.done
	return f.err
}

// Change does all that c says, or nothing. Errors: ErrConfig, ErrStopped, or
// that of the device or address that cannot be used.
func (f *Forwarder) Change(ctx context.Context, c tunnel.Change) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return ErrStopped
	}
	if err := check(c); err != nil {
		return err
	}
	last := f.now.Load()
	next := *last
	if c.Config != nil {
		ends, err := f.reopen(ctx, last, *c.Config)
		if err != nil {
			return err
		}
		next.config, next.ends = c.Config, ends
	}
	next.table = next.table.With(c.Put, c.Remove)
	f.install(&next)
	return nil
}

// reopen makes the ends that c wants. The other form of loop reads from other
// descriptors of the same ends, so that either has ended or has not begun.
func (f *Forwarder) reopen(ctx context.Context, last *view, c tunnel.Config) (ends, error) {
	if last.config == nil || last.config.Plain == c.Plain {
		return open(ctx, c, last.ends)
	}
	f.calm(last)
	have, err := last.ends.again()
	if err == nil {
		var next ends
		if next, err = open(ctx, c, have); err == nil {
			return next, have.close(next)
		}
		err = errors.Join(err, have.close(last.ends))
	}
	f.boost(last)
	return ends{}, err
}

// Inherit goes on with what a predecessor had. The descriptors are taken, even
// if there is an error.
func (f *Forwarder) Inherit(ctx context.Context, s tunnel.Status, ds []tunnel.Descriptor) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	have, err := inherited(s, ds)
	if err != nil {
		return err
	}
	next := view{table: table.New(s.Peers), config: s.Config}
	if s.Config != nil {
		if next.ends, err = open(ctx, *s.Config, have); err != nil {
			return errors.Join(err, have.close(ends{}))
		}
	}
	f.shared = true
	f.install(&next)
	return have.close(next.ends)
}

// GoOn adds what predecessors have counted. They read no more.
func (f *Forwarder) GoOn(from tunnel.Counters) {
	f.counters.goOn(from)
	f.alone()
}

// alone ends the time in which another process read too.
func (f *Forwarder) alone() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shared = false
	if !f.stopped {
		f.boost(f.now.Load())
	}
}

// install makes next what counts, starts to read from what is new in it, and
// then closes what is not: some descriptor is read at any moment.
func (f *Forwarder) install(next *view) {
	last := f.now.Swap(next)
	outbound, inbound := f.gather, f.scatter
	if next.config != nil && next.config.Plain {
		outbound, inbound = f.outbound, f.inbound
	}
	if d := next.ends.device; d != last.ends.device {
		f.run(func() error { return outbound(d) })
	}
	for _, family := range addr.Families() {
		if s := next.ends.sockets.At(family); s != nil && s != last.ends.sockets.At(family) {
			f.run(func() error { return inbound(s) })
		}
	}
	if err := last.ends.close(next.ends); err != nil {
		f.log.Warn("descriptors of the last configuration not closed", "err", err)
	}
	f.boost(next)
}

// run is one loop. It ends for good reason when its descriptor is closed, or
// Stop said so.
func (f *Forwarder) run(loop func() error) {
	f.running.Go(func() {
		err := loop()
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		f.fail.Do(func() {
			f.err = err
			close(f.done)
		})
	})
}

// Descriptors implements tunnel.Forwarder.
func (f *Forwarder) Descriptors() ([]tunnel.Descriptor, func(), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return nil, nil, ErrStopped
	}
	v := f.now.Load()
	f.calm(v)
	ds, err := v.ends.duplicate()
	if err != nil {
		f.boost(v)
		return nil, nil, err
	}
	f.shared = true
	return ds, f.alone, nil
}

// Stop finishes the packets in hand and reads no more. What waits in the
// descriptors is left to a successor, if there is one.
func (f *Forwarder) Stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return
	}
	f.stopped = true
	last := f.now.Load().ends
	last.interrupt()
	f.running.Wait()
	if err := errors.Join(last.close(ends{}), f.errors.close()); err != nil {
		f.log.Warn("descriptors not closed", "err", err)
	}
}

// check refuses what no forwarder can do.
func check(c tunnel.Change) error {
	for _, p := range c.Put {
		if !p.Subnet.IsValid() || !p.Dst.IsValid() {
			return fmt.Errorf("%w: peer %s dst %s", ErrConfig, p.Subnet, p.Dst)
		}
	}
	if c.Config == nil {
		return nil
	}
	if c.Config.Link == "" || c.Config.Port == 0 {
		return fmt.Errorf("%w: link %q port %d", ErrConfig, c.Config.Link, c.Config.Port)
	}
	var seen addr.ByFamily[netip.Addr]
	for _, a := range c.Config.Source {
		if !a.IsValid() || seen.At(addr.Of(a)).IsValid() {
			return fmt.Errorf("%w: sources %s", ErrConfig, c.Config.Source)
		}
		seen.Put(addr.Of(a), a)
	}
	return nil
}
