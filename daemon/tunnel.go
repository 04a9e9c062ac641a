package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/backend/udp"
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
	if s.Network.Backend == udp.Type {
		s.Tunnel = account(state.TunnelSocket(p.world.opts.SubnetFile))
	}
	return s
}

// account is the forwarder's own word: nothing is remembered here.
func account(socket string) *report.Tunnel {
	ctx, cancel := context.WithTimeout(context.Background(), accounting)
	defer cancel()
	c, err := tunnel.Dial(ctx, socket)
	if err != nil {
		return &report.Tunnel{Error: err.Error()}
	}
	st, err := c.Status(ctx)
	if err := errors.Join(err, c.Close()); err != nil {
		return &report.Tunnel{Error: err.Error()}
	}
	n := st.Counters
	out := &report.Tunnel{
		PID: st.PID, Build: st.Build, Dropped: map[string]uint64{},
		SentPackets: n.SentPackets, SentBytes: n.SentBytes,
		ReceivedPackets: n.ReceivedPackets, ReceivedBytes: n.ReceivedBytes,
	}
	for reason, dropped := range n.Dropped {
		out.Dropped[string(reason)] = dropped
	}
	return out
}
