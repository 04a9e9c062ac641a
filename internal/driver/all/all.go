// Package all lists the drivers that every host has, but for that of files:
// the engine writes subnet.env by itself, once everything else is in place.
//
// It owns nothing. The daemon calls it once, and adds the firewall drivers of
// its mode.
package all

import (
	"log/slog"
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/driver/addr"
	"github.com/flannel-ng/flannel-ng/internal/driver/fastpath"
	"github.com/flannel-ng/flannel-ng/internal/driver/fdb"
	"github.com/flannel-ng/flannel-ng/internal/driver/link"
	"github.com/flannel-ng/flannel-ng/internal/driver/neigh"
	"github.com/flannel-ng/flannel-ng/internal/driver/route"
	"github.com/flannel-ng/flannel-ng/internal/driver/sysctl"
	forwarder "github.com/flannel-ng/flannel-ng/internal/driver/tunnel"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

// Options are the settings of the drivers.
type Options struct {
	Owner state.Owner
	// Networks are the cluster networks (see package route).
	Networks []netip.Prefix
	// ClassicRoutes forgoes nexthop objects.
	ClassicRoutes bool
	// TakeOver replaces routes inside Networks that another program left on a
	// foreign link.
	TakeOver bool
	// Switches says where the values are noted that switches had before.
	Switches sysctl.Options
	// Forwarder is how the forwarder process is started, and where it answers
	// (state.TunnelSocket).
	Forwarder tunnel.Process
	// Wake asks for a pass soon: something ended that no notification tells of.
	Wake func()
	Log  *slog.Logger
}

// All returns the drivers in the order of kinds. Firewall drivers follow them.
func All(o Options) []reconcile.Driver {
	return []reconcile.Driver{
		link.New(o.Owner),
		sysctl.New(o.Switches),
		addr.New(o.Owner),
		neigh.New(o.Owner),
		fdb.New(o.Owner),
		forwarder.New(forwarder.Options{Owner: o.Owner, Process: o.Forwarder, Wake: o.Wake, Log: o.Log}),
		fastpath.New(fastpath.Options{Owner: o.Owner, Root: fastpath.Root}),
		route.New(route.Options{Owner: o.Owner, Networks: o.Networks, Classic: o.ClassicRoutes, TakeOver: o.TakeOver}),
	}
}
