package daemon

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/backend/udp"
	"github.com/flannel-ng/flannel-ng/internal/bpf"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/driver/fastpath"
	"github.com/flannel-ng/flannel-ng/internal/report"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

// accounting is how long the forwarder may take to say how it is.
const accounting = time.Second

// Status implements control.Source.
func (p *parts) Status() report.Status {
	s := p.brief()
	s.Peers = p.engine.Peers()
	return s
}

// brief is Status without the list of peers.
func (p *parts) brief() report.Status {
	s := p.summary()
	receives := func(wire string) bool { return strings.HasPrefix(wire, udp.Type+" ") }
	if slices.ContainsFunc(s.Change.Receives, receives) {
		s.Tunnel = account(state.TunnelSocket(p.world.opts.SubnetFile))
		addKernel(s.Tunnel, p.world)
	}
	return s
}

// account is the forwarder's own word: nothing is remembered here.
func account(socket string) *report.Tunnel {
	out := &report.Tunnel{Dropped: map[string]uint64{}}
	ctx, cancel := context.WithTimeout(context.Background(), accounting)
	defer cancel()
	c, err := tunnel.Dial(ctx, socket)
	if err != nil {
		out.Error = err.Error()
		return out
	}
	st, err := c.Status(ctx)
	if err := errors.Join(err, c.Close()); err != nil {
		out.Error = err.Error()
		return out
	}
	out.Offload = st.Offload.String()
	n := st.Counters
	out.PID, out.Build = st.PID, st.Build
	out.SentPackets, out.SentBytes = n.SentPackets, n.SentBytes
	out.ReceivedPackets, out.ReceivedBytes = n.ReceivedPackets, n.ReceivedBytes
	for reason, dropped := range n.Dropped {
		out.Dropped[string(reason)] = dropped
	}
	return out
}

// addKernel adds what the kernel carried, or says why it carries nothing.
func addKernel(t *report.Tunnel, w *world) {
	n, err := kernelCounters(w.owner)
	if err != nil {
		t.FastPath = "off: " + w.withoutFastPath(err)
		return
	}
	t.FastPath = "on"
	t.KernelSentPackets, t.KernelReceivedPackets = n.SentPackets, n.ReceivedPackets
	t.SentPackets += n.SentPackets
	t.SentBytes += n.SentBytes
	t.ReceivedPackets += n.ReceivedPackets
	t.ReceivedBytes += n.ReceivedBytes
	for reason, dropped := range map[tunnel.Reason]uint64{
		tunnel.Malformed: n.Malformed, tunnel.FromElsewhere: n.InnerSource, tunnel.NotForUs: n.InnerDest,
		tunnel.NotSent: n.SendError, tunnel.NotDelivered: n.DeliverError,
	} {
		t.Dropped[string(reason)] += dropped
	}
}

func kernelCounters(owner state.Owner) (bpf.Counters, error) {
	dir, err := fastpath.Dir(fastpath.Root, owner)
	if err != nil {
		return bpf.Counters{}, err
	}
	p, err := bpf.Open(dir)
	if err != nil {
		return bpf.Counters{}, err
	}
	n, err := p.Counters()
	return n, errors.Join(err, p.Close())
}

// withoutFastPath says why there is no fast path: because none is wanted, or
// because of err.
func (w *world) withoutFastPath(err error) string {
	snap, _ := w.Snapshot()
	node := w.shown.Load()
	network, parseErr := config.Parse(snap.Config)
	if node == nil || parseErr != nil {
		return err.Error()
	}
	return cmp.Or(udp.WithoutFastPath(network, *node), err.Error())
}
