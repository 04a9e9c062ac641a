package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
)

func (a *app) leaseCommand() *cobra.Command {
	cmd := group("lease", "List, reserve and release the subnets of hosts")
	cmd.AddCommand(a.leaseListCommand(), a.leaseReserveCommand(), a.leaseReleaseCommand())
	return cmd
}

func (a *app) leaseListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List all leases in the store",
		Long: `List all leases in the store.

KIND is flannel-ng or flannel, after the holder, or reserved: kept for a host
and never expiring. HOST says whether the holder is alive; a plain flannel host
does not show it.`,
		Args: none,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStore(cmd, func(s *Store) error {
				leases, err := s.Admin.Leases(cmd.Context())
				if err != nil {
					return err
				}
				rows := leaseViews(leases)
				return a.show(rows, func(w io.Writer) { writeLeases(w, rows) })
			})
		},
	}
}

// leaseView is a lease as programs see it.
type leaseView struct {
	Key      string   `json:"key"`
	Subnets  []string `json:"subnets"`
	Public   []string `json:"public"`
	Backend  string   `json:"backend"`
	Kind     string   `json:"kind"`            // flannel-ng, flannel, reserved
	Owner    string   `json:"owner,omitempty"` // host id, "" for plain flannel
	Alive    bool     `json:"alive"`           // of an owner
	TTL      int64    `json:"ttlSeconds,omitempty"`
	Revision int64    `json:"revision"`
}

// backendOf is what the holder carries packets with. A reservation that nobody
// has taken names no backend; read as flannel reads it, that is udp.
func backendOf(l Lease) string {
	if l.Reserved && l.Owner == "" && l.Offer.Backend == config.DefaultBackend {
		return ""
	}
	return l.Offer.Backend
}

func leaseViews(leases []Lease) []leaseView {
	out := []leaseView{} // [] for programs, not null
	for _, l := range leases {
		v := leaseView{
			Key: l.Key, Backend: backendOf(l), Owner: l.Owner, Alive: l.Alive,
			Kind: kindOf(l), TTL: int64(l.TTL / time.Second), Revision: l.Modified,
		}
		for _, p := range l.Prefixes() {
			v.Subnets = append(v.Subnets, p.String())
		}
		for _, f := range addr.Families() {
			if ip := l.Public.At(f); ip.IsValid() {
				v.Public = append(v.Public, ip.String())
			}
		}
		out = append(out, v)
	}
	return out
}

func kindOf(l Lease) string {
	switch {
	case l.Reserved:
		return "reserved"
	case l.Owner == "":
		return "flannel"
	default:
		return "flannel-ng"
	}
}

func writeLeases(w io.Writer, leases []leaseView) {
	rows := [][]string{{"SUBNETS", "NODE", "BACKEND", "KIND", "HOST", "EXPIRES", "REVISION"}}
	for _, l := range leases {
		expires := "never"
		if l.Kind != "reserved" {
			expires = "in " + span(time.Duration(l.TTL)*time.Second)
		}
		rows = append(rows, []string{
			strings.Join(l.Subnets, " "), strings.Join(l.Public, " "), l.Backend, l.Kind,
			life(l), expires, strconv.FormatInt(l.Revision, 10),
		})
	}
	table(w, rows)
}

func life(l leaseView) string {
	switch {
	case l.Alive:
		return "alive"
	case l.Owner != "":
		return "away"
	default:
		return ""
	}
}

func (a *app) leaseReserveCommand() *cobra.Command {
	var node string
	cmd := &cobra.Command{
		Use:   "reserve SUBNET[,SUBNET6] --node IP[,IP6]",
		Short: "Keep a subnet for a host, also before the host exists",
		Long: `Keep a subnet for the host with these public addresses, also before the host
exists. Give one subnet and one address for each family of the network. A
reservation never expires; flannelctl lease release ends it.`,
		Example: `  flannelctl lease reserve 10.5.34.0/24 --node 192.0.2.7
  flannelctl lease reserve 10.5.34.0/24,fc00:5:0:12::/64 --node 192.0.2.7,2001:db8::7`,
		Args: one("SUBNET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			subnets, err := parseSubnets(args[0])
			if err != nil {
				return err
			}
			public, err := parseNode(node)
			if err != nil {
				return fmt.Errorf("--node: %w", err)
			}
			return a.withStore(cmd, func(s *Store) error {
				if err := checkReservation(cmd.Context(), s.Configs, subnets, public); err != nil {
					return fmt.Errorf("reserve %s for %s: %w", args[0], node, err)
				}
				if err := s.Admin.Reserve(cmd.Context(), subnets, public); err != nil {
					return err
				}
				return a.done("reserved", args[0]+" for "+node)
			})
		},
	}
	cmd.Flags().StringVar(&node, "node", "", "public address of the host, per family, separated by commas")
	// The flag exists: it was made one line above.
	_ = cmd.MarkFlagRequired("node")
	return cmd
}

// checkReservation judges a reservation by the stored config.
func checkReservation(ctx context.Context, configs Configs, subnets addr.ByFamily[netip.Prefix], public addr.ByFamily[netip.Addr]) error {
	data, _, err := configs.Get(ctx)
	if err != nil {
		return err
	}
	if data == nil {
		return errNoConfig
	}
	n, err := config.Parse(data)
	if err != nil {
		return fmt.Errorf("the stored config is not valid: %w", err)
	}
	var errs []error
	for _, f := range addr.Families() {
		errs = append(errs, fits(n.Pools.At(f), f, subnets.At(f), public.At(f)))
	}
	return errors.Join(errs...)
}

// fits says why the host could not use the reservation: a daemon takes only
// what it could also have picked itself.
func fits(pool config.Pool, f addr.Family, subnet netip.Prefix, public netip.Addr) error {
	switch {
	case !pool.Network.IsValid() && (subnet.IsValid() || public.IsValid()):
		return fmt.Errorf("the network has no %s", f)
	case !pool.Network.IsValid():
		return nil
	case !subnet.IsValid():
		return fmt.Errorf("the network has %s: give a subnet of %s too", f, pool.Network)
	case !public.IsValid():
		return fmt.Errorf("the network has %s: give the host's %s address in --node too", f, f)
	case subnet.Bits() != pool.SubnetLen:
		return fmt.Errorf("subnet %s: subnets of this network have /%d", subnet, pool.SubnetLen)
	case subnet.Addr().Less(pool.Min.Addr()) || pool.Max.Addr().Less(subnet.Addr()):
		return fmt.Errorf("subnet %s: hosts get subnets from %s to %s", subnet, pool.Min, pool.Max)
	default:
		return nil
	}
}

// parseSubnets reads one subnet per family, separated by a comma.
func parseSubnets(text string) (addr.ByFamily[netip.Prefix], error) {
	var out addr.ByFamily[netip.Prefix]
	for part := range strings.SplitSeq(text, ",") {
		p, err := netip.ParsePrefix(part)
		if err != nil || p.Addr().Is4In6() {
			return out, fmt.Errorf("subnet %q: want one such as 10.5.34.0/24", part)
		}
		if p != p.Masked() {
			return out, fmt.Errorf("subnet %s has bits behind its length: did you mean %s?", p, p.Masked())
		}
		f := addr.Of(p.Addr())
		if out.At(f).IsValid() {
			return out, fmt.Errorf("two %s subnets: a lease has one of each family", f)
		}
		out.Put(f, p)
	}
	return out, nil
}

// parseNode reads one address per family, separated by a comma.
func parseNode(text string) (addr.ByFamily[netip.Addr], error) {
	var out addr.ByFamily[netip.Addr]
	for part := range strings.SplitSeq(text, ",") {
		ip, err := netip.ParseAddr(part)
		if err != nil || ip.Zone() != "" || ip.IsUnspecified() || ip.IsMulticast() {
			return out, fmt.Errorf("%q: want an address of a host such as 192.0.2.7", part)
		}
		ip = ip.Unmap()
		f := addr.Of(ip)
		if out.At(f).IsValid() {
			return out, fmt.Errorf("two %s addresses: a host has one of each family", f)
		}
		out.Put(f, ip)
	}
	return out, nil
}

func (a *app) leaseReleaseCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "release SUBNET",
		Short: "Give a lease or a reservation back",
		Long: `Give a lease or a reservation back. A lease whose host is alive is
only released with --force: its containers lose their peers until the host has
a new lease. The reservation of a living host becomes an ordinary lease.`,
		Args: one("SUBNET"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withStore(cmd, func(s *Store) error {
				leases, err := s.Admin.Leases(cmd.Context())
				if err != nil {
					return err
				}
				l, err := find(leases, args[0])
				if err != nil {
					return err
				}
				if err := s.Admin.Release(cmd.Context(), l.Key, force); err != nil {
					return err
				}
				return a.done("released", args[0]+" of "+l.Node())
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "release also a lease whose host may be alive")
	return cmd
}

// find looks a lease up by one of its subnets, all of them, or its key.
func find(leases []Lease, what string) (Lease, error) {
	subnets, bad := parseSubnets(what)
	for _, l := range leases {
		if l.Key == what || bad == nil && covers(l, subnets) {
			return l, nil
		}
	}
	if bad != nil {
		return Lease{}, bad
	}
	return Lease{}, fmt.Errorf("no lease for %s: flannelctl lease list shows what there is", what)
}

// covers says whether l has each of the given subnets.
func covers(l Lease, subnets addr.ByFamily[netip.Prefix]) bool {
	for _, f := range addr.Families() {
		if p := subnets.At(f); p.IsValid() && p != l.Subnets.At(f) {
			return false
		}
	}
	return true
}

// done reports a change that was made.
func (a *app) done(verb, object string) error {
	return a.show(map[string]string{verb: object}, func(w io.Writer) { put(w, "%s %s\n", verb, object) })
}
