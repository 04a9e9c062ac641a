package outage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// RestartOptions say what to measure.
type RestartOptions struct {
	Binaries lab.Binaries // with Upgraded
	Carriers []string     // none is all
	Progress io.Writer
}

// Restart is how one cause went with one carrier.
type Restart struct {
	Cause, Carrier string
	Sent, Lost     uint64 // packets, both directions together
	Resets         int    // TCP connections that broke
	Recreated      int    // devices with another index than before
	Removed        int    // kernel objects of ours that were deleted, by the kernel's own word
}

// carrier is a way to carry packets.
type carrier struct {
	name, backend string
	flannel       bool // plain flannel has it
}

func carriers() []carrier {
	return []carrier{
		{"vxlan", "vxlan", true},
		{"vxlan, direct routing", `{"Type":"vxlan","DirectRouting":true}`, true},
		{"host-gw", "host-gw", true},
		{"udp, kernel path", `{"Type":"udp"}`, false},
		{"udp, forwarder", `{"Type":"udp","BPF":"off"}`, false},
	}
}

// cause is what happens to the flanneld of the second host.
type cause struct {
	name string
	do   func(context.Context, *lab.Host) error
}

// causes are in this order because an upgraded host stays so.
func causes() []cause {
	return []cause{
		{"SIGTERM", func(ctx context.Context, h *lab.Host) error { return h.Stop(ctx) }},
		{"SIGKILL", func(ctx context.Context, h *lab.Host) error { return h.Kill(ctx) }},
		{"crash", func(ctx context.Context, h *lab.Host) error { return h.Crash(ctx, syscall.SIGABRT) }},
		{"upgrade", func(ctx context.Context, h *lab.Host) error { h.Upgrade(); return h.Stop(ctx) }},
	}
}

// away is how long flanneld is gone.
const away = time.Second

// Restarts measures every cause with every carrier, a fabric for each carrier,
// then take-over from plain flannel and hand-back.
func Restarts(ctx context.Context, o RestartOptions) ([]Restart, error) {
	var rows []Restart
	for _, c := range carriers() {
		if len(o.Carriers) > 0 && !slices.Contains(o.Carriers, c.name) {
			continue
		}
		_, _ = fmt.Fprintf(o.Progress, "restarts with %s\n", c.name)
		more, err := ownRestarts(ctx, o, c)
		rows = append(rows, more...)
		if err == nil && c.flannel {
			_, _ = fmt.Fprintf(o.Progress, "take-over with %s\n", c.name)
			more, err = takeOver(ctx, o, c)
			rows = append(rows, more...)
		}
		if err != nil {
			return rows, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return rows, nil
}

func ownRestarts(ctx context.Context, o RestartOptions, c carrier) (rows []Restart, err error) {
	f, err := restartFabric(ctx, o, c, 0)
	defer func() { err = errors.Join(err, closeFabric(ctx, f)) }()
	if err == nil {
		err = comeUp(ctx, f)
	}
	if err != nil {
		return nil, err
	}
	for _, why := range causes() {
		row, err := witnessed(ctx, f, func(ctx context.Context, h *lab.Host) error {
			return errors.Join(why.do(ctx, h), lab.Pause(ctx, away), again(ctx, h))
		})
		row.Cause, row.Carrier = why.name, c.name
		rows = append(rows, row)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", why.name, err)
		}
	}
	return rows, nil
}

func restartFabric(ctx context.Context, o RestartOptions, c carrier, replayed int) (*lab.Fabric, error) {
	families := addr.Families()
	return lab.New(ctx, lab.Options{
		Hosts: 2, Families: families[:], Firewall: lab.NFTables, Underlay: lab.L2,
		Binaries: o.Binaries, Backend: c.backend, Replayed: replayed,
	})
}

func again(ctx context.Context, h *lab.Host) error {
	wait, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	return errors.Join(h.Start(context.WithoutCancel(ctx), "--ip-masq"), h.WaitReady(wait))
}

// takeOver has flanneld follow plain flannel, and plain flannel flanneld.
func takeOver(ctx context.Context, o RestartOptions, c carrier) (rows []Restart, err error) {
	f, err := restartFabric(ctx, o, c, 2)
	defer func() { err = errors.Join(err, closeFabric(ctx, f)) }()
	if err != nil {
		return nil, err
	}
	for _, h := range f.Hosts {
		if err := h.Start(ctx); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(f.Hosts[0].Sync(ctx), f.Hosts[1].Sync(ctx), attach(ctx, f)); err != nil {
		return nil, err
	}
	for _, way := range []cause{
		{"take-over from flannel", func(ctx context.Context, h *lab.Host) error { return errors.Join(h.Replace(ctx), again(ctx, h)) }},
		{"back to flannel", func(ctx context.Context, h *lab.Host) error { return h.HandBack(ctx) }},
	} {
		row, err := witnessed(ctx, f, way.do)
		row.Cause, row.Carrier = way.name, c.name
		rows = append(rows, row)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", way.name, err)
		}
	}
	return rows, nil
}

// witnessed does something to the second host while packets flow in all
// families, a TCP connection lives, and the kernel is listened to.
func witnessed(ctx context.Context, f *lab.Fabric, do func(context.Context, *lab.Host) error) (row Restart, err error) {
	h := f.Hosts[1]
	before, err := h.Devices(ctx)
	if err != nil {
		return row, err
	}
	ear, err := listen(ctx, h)
	if err != nil {
		return row, err
	}
	l, err := startLoad(ctx, f.Ways(), h)
	if err != nil {
		return row, err
	}
	err = errors.Join(lab.Pause(ctx, away), do(ctx, h), lab.Pause(ctx, settle), l.stop(ctx, &row))
	row.Removed = ear.removed(ctx)
	after, lookErr := h.Devices(ctx)
	for name, index := range before {
		if after[name] != index {
			row.Recreated++
		}
	}
	return row, errors.Join(err, lookErr)
}

// load is what goes between containers meanwhile.
type load struct {
	flows   []*lab.Flow
	streams []*lab.Stream
}

// startLoad starts a flow in both directions, and a connection, for every way to
// the containers of h.
func startLoad(ctx context.Context, ways []lab.Way, h *lab.Host) (l load, err error) {
	for _, w := range ways {
		if w.From.Host == h {
			continue // a flow has both directions
		}
		flow, err := lab.StartFlow(context.WithoutCancel(ctx), w, rate)
		if err != nil {
			return l, err
		}
		stream, err := lab.StartStream(context.WithoutCancel(ctx), w)
		if err != nil {
			return l, err
		}
		l.flows, l.streams = append(l.flows, flow), append(l.streams, stream)
	}
	return l, nil
}

// stop counts into row.
func (l load) stop(ctx context.Context, row *Restart) error {
	for _, s := range l.streams {
		if s.Stop() != nil {
			row.Resets++
		}
	}
	var errs []error
	for _, flow := range l.flows {
		ways, err := flow.Stop(ctx)
		errs = append(errs, err)
		for _, w := range ways {
			row.Sent += w.Sent
			row.Lost += w.Lost
		}
	}
	return errors.Join(errs...)
}

// ear hears what is deleted in a host's kernel.
type ear []*lab.Monitor

func listen(ctx context.Context, h *lab.Host) (ear, error) {
	var e ear
	for _, command := range [][]string{
		{"ip", "-o", "monitor", "link", "address", "route", "neigh", "nexthop"},
		{"bridge", "monitor", "fdb"},
		{"nft", "monitor"},
	} {
		m, err := h.Monitor(ctx, command...)
		if err != nil {
			return nil, err
		}
		e = append(e, m)
	}
	return e, nil
}

// removed counts deletions of what may be ours. The kernel itself forgets what it
// has learned of neighbours; it never deletes a permanent entry.
func (e ear) removed(ctx context.Context) int {
	n := 0
	for _, m := range e {
		for line := range strings.Lines(m.Stop(ctx)) {
			line = strings.TrimSpace(line)
			deleted := strings.HasPrefix(line, "Deleted") || strings.HasPrefix(line, "delete ")
			ours := strings.Contains(line, "flannel") || strings.Contains(line, "proto 70") || strings.Contains(line, "PERMANENT")
			if deleted && ours {
				n++
			}
		}
	}
	return n
}
