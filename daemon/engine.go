package daemon

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	backends "github.com/flannel-ng/flannel-ng/internal/backend/all"
	"github.com/flannel-ng/flannel-ng/internal/backend/hostgw"
	"github.com/flannel-ng/flannel-ng/internal/backend/transit"
	drivers "github.com/flannel-ng/flannel-ng/internal/driver/all"
	"github.com/flannel-ng/flannel-ng/internal/driver/file"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter/ipt"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter/nft"
	"github.com/flannel-ng/flannel-ng/internal/driver/hook"
	"github.com/flannel-ng/flannel-ng/internal/driver/sysctl"
	"github.com/flannel-ng/flannel-ng/internal/engine"
	"github.com/flannel-ng/flannel-ng/internal/probe"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/report"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/subnetenv"
	"github.com/flannel-ng/flannel-ng/internal/traffic"
	"github.com/flannel-ng/flannel-ng/internal/tunnel"
)

func newEngine(c Config, p *parts, w engine.World) *engine.Engine {
	owner := p.world.owner
	tables := nft.New(nft.Options{Owner: owner, Log: c.Log})
	p.hooks = hook.New(hook.Options{
		Journal: state.HookJournal(c.Options.SubnetFile), Allowed: c.Options.AllowExtension,
		Wake: func() { p.engine.Ring() }, Log: c.Log,
	})
	return engine.New(engine.Config{
		World: w,
		NewDrivers: func(networks []netip.Prefix) []reconcile.Driver {
			kernel := drivers.All(drivers.Options{
				Owner: owner, Networks: networks, TakeOver: c.Options.TakeOver, ClassicRoutes: c.Options.Classic,
				Switches: sysctl.Options{Record: state.SwitchRecord(c.Options.SubnetFile), Owner: owner},
				Forwarder: tunnel.Process{
					Socket: state.TunnelSocket(c.Options.SubnetFile), Build: c.Version,
					Flags: []string{"--log-format", string(c.Options.LogFormat)},
				},
				Wake: p.engine.Ring, Log: c.Log,
			})
			return append(kernel, tables, ipt.New(ipt.Options{Owner: owner, Log: c.Log, Host: ipt.System{Started: p.children.Add}}), p.hooks)
		},
		Files: file.New(),
		NewBackend: func(s backend.Setup) (backend.Backend, []string, error) {
			s.Commands = c.Options.AllowExtension
			return backends.New(s)
		},
		Wire:  backends.Wire,
		Owner: owner,
		Policy: engine.Policy{
			Traffic: traffic.Options{
				Masquerade: c.Options.IPMasq, RandomFully: c.Options.RandomFully, Forward: c.Options.ForwardRules,
			},
			Blackhole:  c.Options.Blackhole,
			SubnetFile: c.Options.SubnetFile,
		},
		Previous: previousSubnets(c.Log, c.Options.SubnetFile),
		Resync:   c.Options.Resync,
		Log:      c.Log,
		Event:    p.ring.Add,
		Ready:    p.ready,
		Conditions: func(ctx context.Context, want *state.Set) []string {
			found, err := tables.Warnings(ctx, want)
			if err != nil {
				c.Log.Debug("conditions are not known", "err", err)
			}
			found = append(found, bridgeNetfilter(want)...)
			return append(found, strictUplink(p.engine.Summary())...)
		},
		Base: base(c, p.world),
	})
}

// strictUplink warns that packets are lost while hosts go to host-gw or leave it:
// on the uplink they come without a tunnel, while the answer still leaves by one.
// The uplink's switch is the administrator's.
func strictUplink(s report.Status) []string {
	if s.Change.Phase == string(transit.Steady) || !slices.Contains(s.Change.Receives, hostgw.Type) {
		return nil
	}
	if strict, err := probe.Strict(s.Uplink.Name); err != nil || !strict {
		return nil
	}
	return []string{fmt.Sprintf("the uplink %s drops packets whose answer leaves by another link (rp_filter 1), as it does while "+
		"hosts change their backend: sysctl -w net.ipv4.conf.%s.rp_filter=2 until that is done", s.Uplink.Name, s.Uplink.Name)}
}

// bridgeNetfilter warns that bridged packets pass no rules. Only a proxy or a
// policy engine needs them to; routed traffic is not concerned.
func bridgeNetfilter(want *state.Set) []string {
	ipv4, ipv6 := probe.BridgeNetfilter()
	there := addr.Pair(ipv4, ipv6)
	for _, f := range want.Filters {
		if !there.At(f.Family) {
			return []string{"br_netfilter is not loaded: traffic between containers on one bridge passes no " +
				"firewall rule (modprobe br_netfilter if a proxy or policy engine needs that)"}
		}
	}
	return nil
}

// previousSubnets are those that this host had, by the file it left: the
// containers on it still use them.
func previousSubnets(log *slog.Logger, path string) addr.ByFamily[netip.Prefix] {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return addr.ByFamily[netip.Prefix]{}
	}
	if err != nil {
		log.Warn("previous subnet file is not readable", "err", err)
		return addr.ByFamily[netip.Prefix]{}
	}
	env, err := subnetenv.Parse(raw)
	if err != nil {
		log.Warn("previous subnet file is not understood", "path", path, "err", err)
	}
	for _, f := range addr.Families() {
		if p := env.Subnets.At(f); p.IsValid() {
			env.Subnets.Put(f, p.Masked())
		}
	}
	return env.Subnets
}

// seed spreads what hosts would otherwise do at the same moment.
func seed(host string) uint64 {
	b, err := hex.DecodeString(host)
	if err != nil || len(b) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
