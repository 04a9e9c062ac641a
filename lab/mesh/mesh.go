package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// Options say what to measure.
type Options struct {
	Binaries lab.Binaries
	Hosts    int
	Backend  string // "" is vxlan
	// Leave is how many of the hosts leave and return, in percent; at least one
	// does.
	Leave    int
	Limit    time.Duration // for each step
	Progress io.Writer
}

const (
	// quiet is for how long the fabric is measured at rest, and settling how
	// long it is left alone before.
	quiet    = 5 * time.Second
	settling = 2 * time.Second
	closing  = time.Minute
)

// run is a measurement under way.
type run struct {
	Options
	fabric *lab.Fabric
	board  *board
	away   []*lab.Host // were stopped
	begin  time.Time
	result *Result
}

// Run measures. The result holds what was found until an error.
func Run(ctx context.Context, o Options) (*Result, error) {
	r := &run{Options: o, begin: time.Now(), result: newResult(o)}
	err := r.all(ctx)
	if r.fabric != nil {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
		defer cancel()
		err = errors.Join(err, r.fabric.Close(end))
	}
	return r.result, err
}

func (r *run) all(ctx context.Context) (err error) {
	r.progress("building %d hosts", r.Hosts)
	r.fabric, err = lab.New(ctx, lab.Options{
		Hosts: r.Hosts, Families: []addr.Family{addr.IPv4}, Firewall: lab.NFTables, Underlay: lab.L2,
		Binaries: r.Binaries, Backend: r.Backend,
	})
	if err != nil {
		return err
	}
	if r.board, err = watchRoutes(r.fabric.Hosts); err != nil {
		return err
	}
	defer r.board.close()
	for _, step := range []func(context.Context) error{r.join, r.rest, r.leave, r.comeBack} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return r.alive()
}

// join starts all daemons at once.
func (r *run) join(ctx context.Context) error {
	r.progress("all join")
	goal := r.Hosts * (r.Hosts - 1)
	s, err := r.measure(ctx, "join", goal, func(ctx context.Context) error { return start(ctx, r.fabric.Hosts) })
	if err == nil {
		r.result.Env, err = r.envs(s.began)
	}
	return err
}

func start(ctx context.Context, hosts []*lab.Host) error {
	errs := make([]error, len(hosts))
	var wg sync.WaitGroup
	for i, h := range hosts {
		wg.Go(func() { errs[i] = h.Start(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// envs says when the hosts were ready: when their subnet files were written.
func (r *run) envs(began time.Time) (Spread, error) {
	var took []float64
	for _, h := range r.fabric.Hosts {
		info, err := os.Stat(h.Path(h.SubnetFile()))
		if err != nil {
			return Spread{}, fmt.Errorf("%s: %w", h.Name, err)
		}
		took = append(took, info.ModTime().Sub(began).Seconds())
	}
	return spread(took), nil
}

// measure runs do, and waits until so many pairs are programmed.
func (r *run) measure(ctx context.Context, name string, pairs int, do func(context.Context) error) (stretch, error) {
	before, err := r.look(ctx)
	if err != nil {
		return stretch{}, err
	}
	s := stretch{began: time.Now()}
	if err := do(ctx); err != nil {
		return s, err
	}
	wait, cancel := context.WithTimeout(ctx, r.Limit) // daemons live as long as ctx
	defer cancel()
	half, last, err := r.board.await(wait, pairs, r.alive)
	if err != nil {
		return s, fmt.Errorf("%s: %w", name, err)
	}
	after, err := r.look(ctx)
	if err != nil {
		return s, err
	}
	step := after.since(before)
	step.Name, step.Pairs = name, pairs
	step.Half, step.Last = half.Sub(s.began).Seconds(), last.Sub(s.began).Seconds()
	r.result.Steps = append(r.result.Steps, step)
	r.progress("%s: %d pairs after %.2f s", name, pairs, step.Last)
	return s, nil
}

// stretch is a span of time that is measured.
type stretch struct{ began time.Time }

// rest measures a fabric in which nothing happens.
func (r *run) rest(ctx context.Context) error {
	r.progress("at rest")
	if err := lab.Pause(ctx, settling); err != nil {
		return err
	}
	before, err := r.look(ctx)
	if err != nil {
		return err
	}
	if err := lab.Pause(ctx, quiet); err != nil {
		return err
	}
	after, err := r.look(ctx)
	if err != nil {
		return err
	}
	step := after.since(before)
	step.Name, step.Pairs = "rest", r.board.programmed()
	r.result.Steps = append(r.result.Steps, step)
	r.result.RSS, r.result.PSS, err = memories(r.fabric.Hosts)
	r.result.EtcdRSS = after.etcd["process_resident_memory_bytes"] / 1e6
	return err
}

// leavers are the hosts that leave, spread over all.
func (r *run) leavers() []*lab.Host {
	n := max(1, r.Hosts*r.Leave/100)
	var hosts []*lab.Host
	for i := range n {
		hosts = append(hosts, r.fabric.Hosts[i*r.Hosts/n])
	}
	return hosts
}

// leave stops the leavers and ends their leases, as their expiry would. What
// they know themselves stays in their kernels.
func (r *run) leave(ctx context.Context) error {
	gone := r.leavers()
	r.result.Leavers = len(gone)
	r.progress("%d leave", len(gone))
	grants, err := r.grants(ctx, gone)
	if err != nil {
		return err
	}
	r.away = gone
	var wg sync.WaitGroup
	errs := make([]error, len(gone))
	for i, h := range gone {
		wg.Go(func() { errs[i] = h.Stop(ctx) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	rest := r.Hosts*(r.Hosts-1) - len(gone)*(r.Hosts-len(gone))
	_, err = r.measure(ctx, "leave", rest, func(ctx context.Context) error { return r.revoke(ctx, grants) })
	return err
}

// comeBack starts them again.
func (r *run) comeBack(ctx context.Context) error {
	r.progress("they return")
	_, err := r.measure(ctx, "return", r.Hosts*(r.Hosts-1), func(ctx context.Context) error {
		err := start(ctx, r.away)
		r.away = nil
		return err
	})
	return err
}

// alive names the daemons that ended by themselves.
func (r *run) alive() error {
	var errs []error
	for _, h := range r.fabric.Hosts {
		if h.DaemonPID() == 0 && !slices.Contains(r.away, h) {
			errs = append(errs, fmt.Errorf("flanneld on %s ended:\n%s", h.Name, h.Log()))
		}
	}
	r.result.Failed = len(errs)
	return errors.Join(errs...)
}

func (r *run) progress(format string, args ...any) {
	_, _ = fmt.Fprintf(r.Progress, "%6.1f s  %s\n", time.Since(r.begin).Seconds(), fmt.Sprintf(format, args...))
}
