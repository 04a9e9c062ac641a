package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Fabric is a set of hosts on an underlay with one etcd.
type Fabric struct {
	Options Options
	Hosts   []*Host
	Outside *Node // owns the world addresses; what the internet sees
	Switch  *Node // in the middle; a router on the routed underlay
	Etcd    *Etcd

	plan       plan
	authority  *authority // with Options.TLS
	spawn      *spawner
	containers []*Container
}

// ErrNotRoot is returned where namespaces cannot be made.
var ErrNotRoot = errors.New("needs root: the lab makes network namespaces")

// New builds the underlay, the hosts and etcd, and puts the network config
// into it. No daemon runs yet. Close the fabric even after an error.
func New(ctx context.Context, o Options) (*Fabric, error) {
	f := &Fabric{Options: o, plan: plan{underlay: o.Underlay, hosts: o.Hosts, wide: o.Wide}, spawn: newSpawner()}
	if os.Geteuid() != 0 {
		return f, ErrNotRoot
	}
	if err := f.plan.check(); err != nil {
		return f, err
	}
	if err := f.nodes(ctx); err != nil {
		return f, err
	}
	if err := f.wire(ctx); err != nil {
		return f, fmt.Errorf("underlay: %w", err)
	}
	for _, n := range f.listeners() {
		if err := n.respond(ctx); err != nil {
			return f, err
		}
	}
	return f, f.startEtcd(ctx)
}

// Host finds a host by name, or an instance on it (h1:b), which it makes.
func (f *Fabric) Host(name string) (*Host, error) {
	host, letter := hostAndInstance(name)
	for _, h := range f.Hosts {
		if h.Name == host && letter == "" {
			return h, nil
		}
		if h.Name == host {
			return h.Instance(letter)
		}
	}
	return nil, fmt.Errorf("no host %q in this fabric", name)
}

// daemons are the hosts and the instances on them.
func (f *Fabric) daemons() []*Host {
	var all []*Host
	for _, h := range f.Hosts {
		all = append(append(all, h), h.instances...)
	}
	return all
}

// Container finds a container by name.
func (f *Fabric) Container(name string) (*Container, error) {
	for _, c := range f.containers {
		if c.Name == name {
			return c, nil
		}
	}
	return nil, fmt.Errorf("no container %q in this fabric", name)
}

// Containers are all containers, in the order in which they were attached.
func (f *Fabric) Containers() []*Container { return slices.Clone(f.containers) }

// Close ends all processes, which takes the namespaces with it. It returns
// when they are gone, or when ctx ends.
func (f *Fabric) Close(ctx context.Context) error {
	var errs []error
	for _, h := range f.Hosts {
		errs = append(errs, h.abandon(ctx))
	}
	if f.Etcd != nil {
		errs = append(errs, f.Etcd.close(ctx))
	}
	for _, n := range f.everyNode() {
		errs = append(errs, n.close(ctx))
	}
	f.spawn.close()
	return errors.Join(errs...)
}

func (f *Fabric) everyNode() []*Node {
	var all []*Node
	for _, c := range f.containers {
		all = append(all, c.Node)
	}
	return append(all, f.underlayNodes()...)
}

func (f *Fabric) underlayNodes() []*Node {
	var all []*Node
	for _, h := range f.Hosts {
		all = append(all, h.Node)
	}
	if f.Etcd != nil {
		all = append(all, f.Etcd.Node)
	}
	return append(all, slices.DeleteFunc([]*Node{f.Outside, f.Switch}, func(n *Node) bool { return n == nil })...)
}

// listeners are the nodes that answer probes.
func (f *Fabric) listeners() []*Node {
	all := []*Node{f.Outside}
	for _, h := range f.Hosts {
		all = append(all, h.Node)
	}
	return all
}

// nodes makes all nodes of the underlay at once: each costs a process start.
func (f *Fabric) nodes(ctx context.Context) error {
	names := []string{"switch", "outside", "etcd"}
	for i := range f.Options.Hosts {
		names = append(names, fmt.Sprintf("h%d", i+1))
	}
	made := make([]*Node, len(names))
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { made[i], errs[i] = newNode(ctx, f.spawn, f.Options.Binaries.Lab, name) })
	}
	wg.Wait()
	f.adopt(made)
	return errors.Join(errs...)
}

// adopt gives the nodes that were made their roles, so that Close finds them.
func (f *Fabric) adopt(made []*Node) {
	f.Switch, f.Outside = made[0], made[1]
	if made[2] != nil {
		f.Etcd = &Etcd{Node: made[2]}
	}
	for i, n := range made[3:] {
		if n == nil {
			continue
		}
		h := &Host{Node: n, Index: i + 1, fabric: f}
		if i >= f.Options.Hosts-f.Options.Replayed {
			h.replay = newReplay(h)
		}
		f.Hosts = append(f.Hosts, h)
	}
}

// families calls do for each enabled family and stops at the first error.
func (f *Fabric) families(do func(addr.Family) error) error {
	for _, fam := range f.Options.Families {
		if err := do(fam); err != nil {
			return fmt.Errorf("%s: %w", fam, err)
		}
	}
	return nil
}
