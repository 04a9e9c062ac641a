package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// closing bounds the clean-up after the demo.
const closing = 20 * time.Second

// show is a running demo.
type show struct {
	out    io.Writer
	fabric *lab.Fabric
	begin  time.Time
	step   int
}

// demo builds a fabric and proves in public that it carries.
func demo(ctx context.Context, args []string) error {
	options, keep, err := demoFlags(args)
	if err != nil {
		return err
	}
	s := &show{out: os.Stdout, begin: time.Now()}
	err = s.run(ctx, options, keep)
	if s.fabric != nil {
		// The demo may have ended by an interrupt: cleaning up has its own time.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
		defer cancel()
		if err != nil && ctx.Err() == nil {
			s.fabric.Dump(end, os.Stderr)
		}
		err = errors.Join(err, s.fabric.Close(end))
	}
	if ctx.Err() != nil {
		s.printf("\nInterrupted; everything is removed.\n")
		return nil
	}
	return err
}

func demoFlags(args []string) (o lab.Options, keep bool, err error) {
	flags := flag.NewFlagSet("lab demo", flag.ContinueOnError)
	family := flags.String("family", "dual", "address family: 4, 6 or dual")
	firewall := flags.String("firewall", "nft", "nft or iptables")
	hosts := flags.Int("hosts", 3, "number of hosts, at least 2")
	flags.StringVar(&o.Backend, "backend", "vxlan", "type of the backend: vxlan, host-gw, udp")
	flags.BoolVar(&keep, "keep", false, "keep the fabric until Ctrl-C")
	if err := parse(flags, args); err != nil {
		return o, false, err
	}
	o.Hosts, o.Firewall, o.Underlay = *hosts, lab.Firewall(*firewall), lab.L2
	if !slices.Contains(backends(), o.Backend) {
		return o, false, fmt.Errorf("--backend=%s: want one of %s", o.Backend, strings.Join(backends(), ", "))
	}
	if o.Firewall != lab.NFTables && o.Firewall != lab.IPTables {
		return o, false, fmt.Errorf("--firewall=%s: want %s or %s", *firewall, lab.NFTables, lab.IPTables)
	}
	if *hosts < 2 {
		return o, false, fmt.Errorf("--hosts=%d: want at least 2", *hosts)
	}
	o.Embedded = members(*hosts)
	if o.Families, err = lab.ParseFamilies(*family); err != nil {
		return o, false, fmt.Errorf("--family: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return o, false, fmt.Errorf("find my own directory: %w", err)
	}
	o.Binaries, err = lab.BinariesIn(filepath.Dir(self))
	return o, keep, err
}

// backends are those that carry packets without help from outside.
func backends() []string { return []string{"vxlan", "host-gw", "udp"} }

// members is how many of the hosts carry the store: three survive the loss of
// one, and two would be worse than one.
func members(hosts int) int {
	const enough = 3
	if hosts < enough {
		return 1
	}
	return enough
}

func (s *show) run(ctx context.Context, o lab.Options, keep bool) error {
	for _, act := range []func(context.Context) error{
		func(ctx context.Context) error { return s.build(ctx, o) },
		s.start, s.attach, s.pings, s.transfer, s.world, s.subnets, s.status, s.store,
	} {
		if err := act(ctx); err != nil {
			return err
		}
	}
	s.printf("\nAll of it works, in %.1f s.\n", time.Since(s.begin).Seconds())
	if !keep {
		s.printf("Next: make demo KEEP=1 keeps it running to look around; BACKEND=vxlan|host-gw|udp,\n" +
			"FAMILY=4|6|dual, FIREWALL=nft|iptables and HOSTS=n change it. docs/testing.md tells more.\n")
		return nil
	}
	s.doors()
	<-ctx.Done()
	return nil
}

func (s *show) printf(format string, args ...any) { _, _ = fmt.Fprintf(s.out, format, args...) }

// progress does one step under a headline and prints how long it took.
func (s *show) progress(headline string, do func() error) error {
	s.step++
	begin := time.Now()
	s.printf("%d. %-64s", s.step, headline)
	err := do()
	mark := "ok"
	if err != nil {
		mark = "FAILED"
	}
	s.printf(" %s %5.1f s\n", mark, time.Since(begin).Seconds())
	return err
}

func (s *show) build(ctx context.Context, o lab.Options) error {
	title := fmt.Sprintf("%d hosts (network namespaces) on one segment, and nothing else", o.Hosts)
	return s.progress(title, func() (err error) {
		s.fabric, err = lab.New(ctx, o)
		return err
	})
}

func (s *show) start(ctx context.Context) error {
	title := fmt.Sprintf("flanneld on every host, the store inside %d of them, until ready", s.fabric.Options.Embedded)
	return s.progress(title, func() error {
		for _, h := range s.fabric.Hosts {
			if err := h.Start(ctx, "--ip-masq"); err != nil {
				return err
			}
		}
		for _, h := range s.fabric.Hosts {
			if err := s.patiently(ctx, h.WaitReady); err != nil {
				return err
			}
		}
		return nil
	})
}

// patience bounds what a healthy fabric does in well under a second.
const patience = time.Minute

func (s *show) patiently(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return do(ctx)
}

func (s *show) attach(ctx context.Context) error {
	return s.progress("a bridge and a container on every host, from its subnet.env", func() error {
		for _, h := range s.fabric.Hosts {
			if _, err := s.fabric.Attach(ctx, h, fmt.Sprintf("c%d", h.Index)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *show) pings(ctx context.Context) error {
	ways := s.fabric.Ways()
	title := fmt.Sprintf("every container pings every other: %d ways", len(ways))
	err := s.progress(title, func() error {
		return s.patiently(ctx, func(ctx context.Context) error { return lab.Each(ctx, ways, lab.PingWay) })
	})
	if err != nil {
		return err
	}
	for _, f := range s.fabric.Options.Families {
		s.matrix(ctx, f)
	}
	return nil
}

// matrix pings once more, with the largest packets, and prints who reached whom.
func (s *show) matrix(ctx context.Context, f addr.Family) {
	all := s.fabric.Containers()
	table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	head := []string{"   " + f.String(), "address"}
	for _, to := range all {
		head = append(head, "→ "+to.Name)
	}
	_, _ = fmt.Fprintln(table, strings.Join(head, "\t"))
	for _, from := range all {
		row := []string{fmt.Sprintf("   %s on %s", from.Name, from.Host.Name), from.Addr(f).String()}
		for _, to := range all {
			row = append(row, reach(ctx, lab.Way{From: from, To: to, Family: f}))
		}
		_, _ = fmt.Fprintln(table, strings.Join(row, "\t"))
	}
	_ = table.Flush()
}

func reach(ctx context.Context, w lab.Way) string {
	if w.From == w.To {
		return "·"
	}
	if err := lab.BigPingWay(ctx, w); err != nil {
		return "no answer"
	}
	return w.From.MTU + " bytes"
}

func (s *show) transfer(ctx context.Context) error {
	const megabytes = 64
	all := s.fabric.Containers()
	for _, f := range s.fabric.Options.Families {
		var took time.Duration
		title := fmt.Sprintf("TCP over %s: %d MB from c1 to c2, hash compared", f, megabytes)
		err := s.progress(title, func() (err error) {
			_, took, err = all[0].Transfer(ctx, lab.Origin{}, all[1].Addr(f), megabytes<<20)
			return err
		})
		if err != nil {
			return err
		}
		s.printf("   %.1f Gbit/s, hashing included\n", megabytes*8.389e-3/took.Seconds())
	}
	return nil
}

func (s *show) world(ctx context.Context) error {
	from := s.fabric.Containers()[0]
	for _, f := range s.fabric.Options.Families {
		title := fmt.Sprintf("c1 calls the world over %s as its host (masquerade)", f)
		err := s.progress(title, func() error {
			seen, _, err := from.Transfer(ctx, lab.Origin{}, lab.World(f), 1)
			if err == nil && seen != from.Host.Underlay(f) {
				err = fmt.Errorf("%s saw %s, want %s", lab.World(f), seen, from.Host.Underlay(f))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *show) subnets(context.Context) error {
	for _, h := range s.fabric.Hosts {
		text, err := os.ReadFile(h.Path(h.SubnetFile()))
		if err != nil {
			return fmt.Errorf("subnet file of %s: %w", h.Name, err)
		}
		s.printf("\n%s$ cat %s\n%s", h.Name, h.SubnetFile(), text)
	}
	return nil
}

func (s *show) status(ctx context.Context) error {
	h := s.fabric.Hosts[0]
	out, err := h.Flannelctl(ctx, "status")
	s.printf("\n%s$ flannelctl status\n%s", h.Name, out)
	return err
}

// store looks into the store of the first host, with etcd's own tool.
func (s *show) store(ctx context.Context) error {
	h := s.fabric.Hosts[0]
	out, err := h.Flannelctl(ctx, "store", "members")
	s.printf("\n%s$ flannelctl store members\n%s", h.Name, out)
	if err != nil {
		return err
	}
	out, err = h.Run(ctx, "env", "ETCDCTL_API=3", "etcdctl", "get", "--prefix", lab.Prefix)
	s.printf("\n%s$ etcdctl get --prefix %s\n%s", h.Name, lab.Prefix, out)
	return err
}

// doors prints how to get into every node.
func (s *show) doors() {
	s.printf("\nIt keeps running until Ctrl-C. The doors (as root):\n")
	for _, h := range s.fabric.Hosts {
		s.door(h.Node)
	}
	for _, c := range s.fabric.Containers() {
		s.door(c.Node)
	}
	h, c := s.fabric.Hosts[0], s.fabric.Containers()[1]
	s.printf("Try:  inside h1   %s status; ip route; cat %s\n", s.fabric.Options.Binaries.Flannelctl, h.LogFile())
	s.printf("      inside c1   ping %s\n", c.Addr(s.fabric.Options.Families[0]))
	s.printf("      inside %s   ip link del flannel.1   (with vxlan; and watch it come back)\n", h.Name)
	s.printf("      inside %s   %s store members; ETCDCTL_API=3 etcdctl get --prefix %s\n", h.Name, s.fabric.Options.Binaries.Flannelctl, lab.Prefix)
}

func (s *show) door(n *lab.Node) {
	s.printf("  %-5s nsenter -t %d --net --mount --uts --wd=/ bash\n", n.Name, n.PID())
}
