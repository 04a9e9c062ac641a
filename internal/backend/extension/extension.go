// Package extension leaves carrying packets to commands of the operator: they
// are told which hosts there are, and do the rest.
//
// It names commands and what they are told (reference §5.6); it never runs one.
// Called by the engine; the daemon runs the startup command, driver/hook the
// others.
package extension

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/backend"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/facts"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Type is the Backend.Type of this backend.
const Type = "extension"

// ErrNotAllowed says that the command line does not let the network config
// name commands.
var ErrNotAllowed = errors.New("commands are not allowed on this host")

// startupHook is the name of the hook that runs PostStartupCommand.
const startupHook = "startup"

// dataFamily is where the one backend data of a host is, whatever families it
// has: flannel publishes it as BackendData.
const dataFamily = addr.IPv4

type extension struct {
	opts     Options
	families []addr.Family
	networks addr.ByFamily[netip.Prefix]
}

// New makes the backend from its options.
func New(s backend.Setup) (backend.Backend, []string, error) {
	e := &extension{families: s.Families, networks: s.Networks}
	warnings, err := s.Options.Decode(&e.opts)
	if err != nil {
		return nil, warnings, err
	}
	if !s.Commands {
		return nil, warnings, fmt.Errorf("Backend.Type %s: %w: whoever may write the network config could run anything as "+
			"root here; if that is wanted, start flanneld with --allow-extension", Type, ErrNotAllowed)
	}
	return e, warnings, nil
}

// Startup is backend.Entry.Startup: the PreStartupCommand, or a command without
// words.
func Startup(b config.Backend) (state.Command, error) {
	var o Options
	if _, err := b.Decode(&o); err != nil {
		return state.Command{}, err
	}
	return o.command(o.PreStartupCommand), nil
}

// command splits a line as flannel does: at white space and nowhere else, no
// quotes.
func (o Options) command(line string) state.Command {
	words := strings.Fields(line)
	if len(words) == 0 {
		return state.Command{}
	}
	return state.Command{Words: words, Timeout: time.Duration(o.Timeout) * time.Second}
}

// Offer publishes what the startup command printed, as a JSON string.
func (e *extension) Offer(n facts.Node, _ *lease.Lease) (lease.Offer, error) {
	o := lease.Offer{Backend: Type}
	switch {
	case n.StartupPending != "":
		return lease.Offer{}, fmt.Errorf("extension: PreStartupCommand: %s", n.StartupPending)
	case !utf8.ValidString(n.Startup):
		return lease.Offer{}, errors.New("extension: PreStartupCommand: its output is not UTF-8 text, which backend data must be")
	case n.Startup == "":
		return o, nil
	}
	text, err := json.Marshal(n.Startup)
	if err != nil {
		return lease.Offer{}, fmt.Errorf("extension: encode backend data: %w", err)
	}
	o.Data.Put(dataFamily, string(text))
	return o, nil
}

// Local is the PostStartupCommand. The commands know what their packets need:
// without more knowledge the MTU is the uplink's.
func (e *extension) Local(self lease.Lease, n facts.Node) (state.Set, error) {
	s := state.Set{MTU: n.Uplink.MTU}
	run := e.opts.command(e.opts.PostStartupCommand)
	if len(run.Words) == 0 {
		return s, nil
	}
	run.Env = append([]string{
		variable("NETWORK", e.networks.At(addr.IPv4)),
		variable("IPV6NETWORK", e.networks.At(addr.IPv6)),
	}, e.environment(self.Subnets, n.Public)...)
	s.Hooks = []state.Hook{{Name: startupHook, Run: run}}
	return s, nil
}

// Peer is the SubnetAddCommand for p, undone by the SubnetRemoveCommand. It
// waits for the PostStartupCommand, which may make the device it needs. The
// backend data of p is whatever its host wrote: it goes to the input alone.
func (e *extension) Peer(_ lease.Lease, _ facts.Node, p lease.Lease, o lease.Offer) (state.Set, error) {
	var s state.Set
	text, err := decode(o.Data.At(dataFamily))
	if err != nil {
		return s, err
	}
	h := state.Hook{Run: e.opts.command(e.opts.SubnetAddCommand), Undo: e.opts.command(e.opts.SubnetRemoveCommand)}
	subnets, lacking := e.reachable(p)
	names := (lease.Lease{Subnets: subnets}).Prefixes()
	if len(h.Run.Words)+len(h.Undo.Words) == 0 || len(names) == 0 {
		return s, lacking
	}
	h.Name = join(names)
	if strings.TrimSpace(e.opts.PostStartupCommand) != "" {
		h.After = startupHook
	}
	env := e.environment(subnets, p.Public)
	for _, c := range []*state.Command{&h.Run, &h.Undo} {
		c.Env, c.Stdin = env, text+"\n"
	}
	s.Hooks = []state.Hook{h}
	return s, lacking
}

// reachable are the subnets of p in the families that it has an address for. A
// subnet without one would leave a hole in the command's words.
func (e *extension) reachable(p lease.Lease) (addr.ByFamily[netip.Prefix], error) {
	var out addr.ByFamily[netip.Prefix]
	var errs []error
	for _, f := range e.families {
		switch {
		case !p.Subnets.At(f).IsValid():
		case !p.Public.At(f).IsValid():
			errs = append(errs, fmt.Errorf("%s: no public address", f))
		default:
			out.Put(f, p.Subnets.At(f))
		}
	}
	return out, errors.Join(errs...)
}

// environment has every variable, empty for what there is not: one of the
// daemon's own environment must not show through.
func (e *extension) environment(subnets addr.ByFamily[netip.Prefix], public addr.ByFamily[netip.Addr]) []string {
	var kept addr.ByFamily[netip.Addr]
	for _, f := range e.families {
		if subnets.At(f).IsValid() {
			kept.Put(f, public.At(f))
		}
	}
	return []string{
		variable("SUBNET", subnets.At(addr.IPv4)),
		variable("IPV6SUBNET", subnets.At(addr.IPv6)),
		variable("PUBLIC_IP", kept.At(addr.IPv4)),
		variable("PUBLIC_IPV6", kept.At(addr.IPv6)),
	}
}

// value is an address or a prefix.
type value interface {
	IsValid() bool
	String() string
}

func variable(name string, v value) string {
	if !v.IsValid() {
		return name + "="
	}
	return name + "=" + v.String()
}

// decode reads backend data: a JSON string, or none.
func decode(text string) (string, error) {
	if text == "" {
		return "", nil
	}
	var s string
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return "", fmt.Errorf("backend data: must be a JSON string: %w", err)
	}
	return s, nil
}

func join(ps []netip.Prefix) string {
	words := make([]string, len(ps))
	for i, p := range ps {
		words[i] = p.String()
	}
	return strings.Join(words, ",")
}
