package chaos

import (
	"context"
	"fmt"
	"strings"

	"github.com/flannel-ng/flannel-ng/lab/bench"
)

// crowdConfig is the network config of a large fabric.
func crowdConfig(v variant) string { return bench.CrowdConfig(v.carrier) }

// crowd puts the leases of the hosts that are not there into the store, and
// waits until all that are there have routes to all of them.
func (s *scene) crowd(ctx context.Context) error {
	missing := s.peers - real3
	if missing <= 0 {
		return nil
	}
	if err := bench.Populate(ctx, s.fabric.Etcd, s.carrier, missing); err != nil {
		return err
	}
	for _, e := range s.eyes {
		if err := poll(ctx, func(ctx context.Context) error { return e.routes(ctx, s.peers-1) }); err != nil {
			return err
		}
	}
	return nil
}

// routes demands that many to peers.
func (e *eye) routes(ctx context.Context, want int) error {
	now, err := e.look(ctx)
	if err != nil {
		return err
	}
	routes := 0
	for _, line := range now {
		if strings.HasPrefix(line, "route 10.") && strings.Contains(line, " proto=70 ") {
			routes++
		}
	}
	if routes < want {
		return fmt.Errorf("%s has %d routes to %d peers", e.host.Name, routes, want)
	}
	return nil
}
