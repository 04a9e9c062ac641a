package outage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// Options say what to measure.
type Options struct {
	Binaries lab.Binaries
	Length   time.Duration // of each outage
	Kinds    []string      // none is all
	Backend  string        // type, or JSON object; "" is vxlan
	Hosts    int           // 0 is 3
	Progress io.Writer
}

// Outage is how one kind of outage went.
type Outage struct {
	Kind      string
	CPU       time.Duration // while it lasted, of the host that used most
	Lines     int           // in the log of the host that wrote most, while it lasted
	LinesAll  int           // until it was over
	Sent      uint64        // packets, all directions together
	Lost      uint64
	Recovered time.Duration // from its end until every host was in step again
}

const (
	rate    = 1000 // packets a second each way
	settle  = 2 * time.Second
	patient = 90 * time.Second
	closing = time.Minute
)

// ErrUnknown is a kind of outage, or a case of a restart, that there is not.
var ErrUnknown = errors.New("unknown")

// Run measures one kind after the other, each in a fabric of its own. What was
// measured until an error is returned with it.
func Run(ctx context.Context, o Options) ([]Outage, error) {
	var rows []Outage
	for _, name := range o.Kinds {
		if !slices.ContainsFunc(kinds(), func(k kind) bool { return k.name == name }) {
			return nil, fmt.Errorf("outage %q: %w, there are %s", name, ErrUnknown, strings.Join(Kinds(), ", "))
		}
	}
	for _, k := range kinds() {
		if len(o.Kinds) > 0 && !slices.Contains(o.Kinds, k.name) {
			continue
		}
		_, _ = fmt.Fprintf(o.Progress, "etcd %s for %s\n", k.name, o.Length)
		row, err := measure(ctx, o, k)
		if err != nil {
			return rows, fmt.Errorf("etcd %s: %w", k.name, err)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// Kinds are the names of the outages.
func Kinds() []string {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return names
}

func measure(ctx context.Context, o Options, k kind) (row Outage, err error) {
	families := addr.Families()
	f, err := lab.New(ctx, lab.Options{
		Hosts: max(o.Hosts, 2), Families: families[:], Firewall: lab.NFTables, Underlay: lab.L2,
		Binaries: o.Binaries, Backend: o.Backend, TLS: k.tls, Relay: k.relay,
	})
	defer func() { err = errors.Join(err, closeFabric(ctx, f)) }()
	if err != nil {
		return row, err
	}
	if err := comeUp(ctx, f); err != nil {
		return row, err
	}
	flow, err := lab.StartFlow(context.WithoutCancel(ctx), f.Ways()[0], rate)
	if err != nil {
		return row, err
	}
	row, err = suffer(ctx, f, k, o.Length)
	ways, stopped := flow.Stop(ctx)
	for _, w := range ways {
		row.Sent += w.Sent
		row.Lost += w.Lost
	}
	return row, errors.Join(err, stopped)
}

// suffer lets the outage come and go.
func suffer(ctx context.Context, f *lab.Fabric, k kind, length time.Duration) (Outage, error) {
	row := Outage{Kind: k.name}
	if err := lab.Pause(ctx, settle); err != nil {
		return row, err
	}
	before, err := usage(f)
	if err != nil {
		return row, err
	}
	if err := k.begin(ctx, f); err != nil {
		return row, err
	}
	if err := lab.Pause(ctx, length); err != nil {
		return row, err
	}
	during, err := usage(f)
	if err != nil {
		return row, err
	}
	if err := k.end(ctx, f); err != nil {
		return row, err
	}
	ended := time.Now()
	if err := inStep(ctx, f); err != nil {
		return row, err
	}
	row.Recovered = time.Since(ended)
	after, err := usage(f)
	if err != nil {
		return row, err
	}
	for i := range before {
		row.CPU = max(row.CPU, during[i].CPU-before[i].CPU)
		row.Lines = max(row.Lines, during[i].Lines-before[i].Lines)
		row.LinesAll = max(row.LinesAll, after[i].Lines-before[i].Lines)
	}
	return row, nil
}

func usage(f *lab.Fabric) ([]lab.Usage, error) {
	var all []lab.Usage
	for _, h := range f.Hosts {
		u, err := h.Usage()
		if err != nil {
			return nil, err
		}
		all = append(all, u)
	}
	return all, nil
}

// comeUp starts everything and waits until all containers reach each other.
func comeUp(ctx context.Context, f *lab.Fabric) error {
	for _, h := range f.Hosts {
		if err := h.Start(context.WithoutCancel(ctx), "--ip-masq"); err != nil {
			return err
		}
	}
	return attach(ctx, f)
}

// attach gives every host a container, and waits until they reach each other.
func attach(ctx context.Context, f *lab.Fabric) error {
	wait, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	for _, h := range f.Hosts {
		if err := h.WaitReady(wait); err != nil {
			return err
		}
		if _, err := f.Attach(context.WithoutCancel(ctx), h, "c"+h.Name[1:]); err != nil {
			return err
		}
	}
	return lab.Each(wait, f.Ways(), lab.PingWay)
}

// inStep waits until every host holds its lease and follows the store.
func inStep(ctx context.Context, f *lab.Fabric) error {
	wait, cancel := context.WithTimeout(ctx, patient)
	defer cancel()
	return lab.Eventually(wait, func(ctx context.Context) error {
		for _, h := range f.Hosts {
			if err := follows(ctx, h); err != nil {
				return err
			}
		}
		pairs, err := f.Etcd.List(ctx, lab.Prefix+"/subnets/")
		if err == nil && len(pairs) != len(f.Hosts) {
			err = fmt.Errorf("%d leases of %d hosts", len(pairs), len(f.Hosts))
		}
		return err
	})
}

func follows(ctx context.Context, h *lab.Host) error {
	out, err := h.Flannelctl(ctx, "status", "-o", "json")
	if out == "" {
		return err
	}
	var s struct {
		Store struct {
			LastKnownGood bool
			Error         string
		}
		Lease struct{ State string }
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return fmt.Errorf("status of %s: %w", h.Name, err)
	}
	if s.Store.LastKnownGood || s.Store.Error != "" || s.Lease.State != "held" {
		return fmt.Errorf("%s: lease %s, %s", h.Name, s.Lease.State, s.Store.Error)
	}
	return nil
}

func closeFabric(ctx context.Context, f *lab.Fabric) error {
	if f == nil {
		return nil
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
	defer cancel()
	return f.Close(end)
}
