package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
)

// commands is the vocabulary of the scripts (docs/testing.md explains it).
func commands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"fabric":       command(false, buildFabric),
		"start":        command(false, start),
		"ready":        command(true, ready),
		"sync":         command(false, syncReplayed),
		"replace":      command(false, replace),
		"docker":       command(false, docker),
		"halt":         command(false, halt),
		"crash":        command(false, crash),
		"daemon":       command(true, daemon),
		"containers":   command(false, containers),
		"container":    command(false, container),
		"on":           command(true, on),
		"shows":        command(true, shows),
		"status":       command(false, status),
		"metrics":      command(false, metrics),
		"subnetenv":    command(true, subnetenv),
		"heard":        command(false, heard),
		"subnetof":     command(false, subnetof),
		"gone":         command(false, gone),
		"save":         command(false, save),
		"same":         command(true, same),
		"restored":     command(false, restored),
		"cut":          command(false, cut),
		"heal":         command(false, heal),
		"readdr":       command(false, readdr),
		"etcd":         command(false, etcd),
		"leases":       command(false, leases),
		"carry":        command(false, carry),
		"ping":         command(true, ping),
		"bigping":      command(false, bigping),
		"unfragmented": command(false, unfragmented),
		"tcp":          command(false, tcp),
		"source":       command(false, source),
		"route":        command(false, route),
		"flow":         command(false, flow),
		"capture":      command(true, capture),
		"address":      command(false, addressOf),
		"upgrade":      command(false, upgrade),
		"forwarder":    command(false, forwarder),
		"datagram":     command(false, datagram),
		"store":        command(false, store),
		"certify":      command(false, certify),
		"reboot":       command(false, reboot),
		"quiet":        command(false, quiet),
		"handback":     command(false, handBack),
		"expire":       command(false, expire),
	}
}

// fabric hosts=N embedded=N family=4|6|dual firewall=nft|iptables underlay=l2|routed mix=own|mixed|flannel backend=TYPE|JSON netconf=JSON tls=on relay=on
func buildFabric(_ context.Context, s *stage, c call) error {
	o := lab.Options{Hosts: 3, Firewall: lab.NFTables, Underlay: lab.L2, Binaries: s.bin}
	set := map[string]string{"family": "dual", "mix": "own"}
	for _, arg := range c.args {
		key, value, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q is not key=value", arg)
		}
		set[key] = value
	}
	var err error
	if text, ok := set["hosts"]; ok {
		if o.Hosts, err = strconv.Atoi(text); err != nil {
			return err
		}
	}
	if text, ok := set["embedded"]; ok {
		if o.Embedded, err = strconv.Atoi(text); err != nil {
			return err
		}
	}
	if o.Families, err = lab.ParseFamilies(set["family"]); err != nil {
		return err
	}
	if text, ok := set["firewall"]; ok {
		o.Firewall = lab.Firewall(text)
	}
	if text, ok := set["underlay"]; ok {
		o.Underlay = lab.Underlay(text)
	}
	o.NetConf, o.Backend = set["netconf"], set["backend"]
	o.TLS, o.Relay = set["tls"] == "on", set["relay"] == "on"
	replayed, ok := map[string]int{"own": 0, "mixed": 1, "flannel": o.Hosts}[set["mix"]]
	if !ok {
		return fmt.Errorf("mix=%s: want own, mixed or flannel", set["mix"])
	}
	o.Replayed = replayed
	// The processes outlive this command, so its deadline is not theirs.
	s.fabric, err = lab.New(context.Background(), o)
	if err == nil {
		c.ts.Setenv("ETCD", s.fabric.Etcd.Endpoint)
	}
	return err
}

// hosts resolves names; "all" is every host, "own" those that run flanneld.
func (s *stage) hosts(names []string) ([]*lab.Host, error) {
	var hs []*lab.Host
	for _, name := range names {
		switch name {
		case "all":
			hs = append(hs, s.fabric.Hosts...)
		case "own":
			hs = append(hs, s.own()...)
		default:
			h, err := s.fabric.Host(name)
			if err != nil {
				return nil, err
			}
			hs = append(hs, h)
		}
	}
	if len(hs) == 0 {
		return nil, errUsage
	}
	return hs, nil
}

func (s *stage) own() []*lab.Host {
	var hs []*lab.Host
	for _, h := range s.fabric.Hosts {
		if !h.Replayed() {
			hs = append(hs, h)
		}
	}
	return hs
}

// each runs do for the named hosts at once.
func (s *stage) each(names []string, do func(*lab.Host) error) error {
	hs, err := s.hosts(names)
	if err != nil {
		return err
	}
	errs := make([]error, len(hs))
	var wg sync.WaitGroup
	for i, h := range hs {
		wg.Go(func() { errs[i] = do(h) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// start HOSTS… [-- ARGS…]
func start(_ context.Context, s *stage, c call) error {
	names, args := c.dashes()
	return s.each(names, func(h *lab.Host) error { return h.Start(context.Background(), args...) })
}

// replace HOST [-- ARGS…]: flanneld takes over from the replayed flannel.
func replace(ctx context.Context, s *stage, c call) error {
	names, args := c.dashes()
	return s.each(names, func(h *lab.Host) error {
		return errors.Join(h.Replace(ctx), h.Start(context.Background(), args...))
	})
}

// handback HOST: plain flannel starts again where flanneld took over.
func handBack(ctx context.Context, s *stage, c call) error {
	return s.each(c.args, func(h *lab.Host) error { return h.HandBack(ctx) })
}

// upgrade HOSTS…: the next start runs another version of flanneld.
func upgrade(_ context.Context, s *stage, c call) error {
	return s.each(c.args, func(h *lab.Host) error { h.Upgrade(); return nil })
}

// forwarder kill HOSTS…: kill -9 of the process that carries udp's packets.
func forwarder(ctx context.Context, s *stage, c call) error {
	if c.arg(0) != "kill" {
		return errUsage
	}
	return s.each(c.args[1:], func(h *lab.Host) error { return h.KillForwarder(ctx) })
}

// docker HOSTS…: dockerd's part of the firewall.
func docker(ctx context.Context, s *stage, c call) error {
	return s.each(c.args, func(h *lab.Host) error { return h.Docker(ctx) })
}

// [!] ready HOSTS…
func ready(ctx context.Context, s *stage, c call) error {
	begin := time.Now()
	defer func() { c.ts.Logf("waited %.2f s", time.Since(begin).Seconds()) }()
	return s.each(c.args, func(h *lab.Host) error {
		if !c.neg {
			return h.WaitReady(ctx)
		}
		return lab.Eventually(ctx, func(ctx context.Context) error {
			if h.Ready(ctx) == nil {
				return fmt.Errorf("%s is still ready", h.Name)
			}
			return nil
		})
	})
}

// sync
func syncReplayed(ctx context.Context, s *stage, _ call) error {
	for _, h := range s.fabric.Hosts {
		if !h.Replayed() {
			continue
		}
		if err := h.Sync(ctx); err != nil {
			return err
		}
	}
	return nil
}

// halt HOSTS…: orderly, with exit code 0.
func halt(ctx context.Context, s *stage, c call) error {
	return s.each(c.args, func(h *lab.Host) error { return h.Stop(ctx) })
}

// crash HOSTS…: kill -9.
func crash(ctx context.Context, s *stage, c call) error {
	return s.each(c.args, func(h *lab.Host) error { return h.Kill(ctx) })
}

// [!] daemon HOST [ARGS…]: runs flanneld until it ends by itself.
func daemon(ctx context.Context, s *stage, c call) error {
	h, err := s.fabric.Host(c.arg(0))
	if err != nil {
		return err
	}
	out, err := h.RunDaemon(ctx, c.args[1:]...)
	fmt.Fprint(c.ts.Stdout(), out)
	return negated(c, err)
}

// containers [HOSTS…]: one on each host, c1 on h1.
func containers(ctx context.Context, s *stage, c call) error {
	names := c.args
	if len(names) == 0 {
		names = []string{"all"}
	}
	hs, err := s.hosts(names)
	if err != nil {
		return err
	}
	for _, h := range hs {
		if _, err := s.fabric.Attach(context.WithoutCancel(ctx), h, fmt.Sprintf("c%d", h.Index)); err != nil {
			return err
		}
	}
	return nil
}

// container NAME HOST
func container(ctx context.Context, s *stage, c call) error {
	h, err := s.fabric.Host(c.arg(1))
	if err != nil {
		return err
	}
	_, err = s.fabric.Attach(context.WithoutCancel(ctx), h, c.arg(0))
	return err
}

// [!] on NODE COMMAND…; NODE is a host, a container, etcd, outside or switch. The
// command "flannelctl" is the built one.
func on(ctx context.Context, s *stage, c call) error {
	if len(c.args) < 2 {
		return errUsage
	}
	n, err := s.node(c.arg(0))
	if err != nil {
		return err
	}
	out, err := n.Run(ctx, s.command(c.args[1:])...)
	fmt.Fprint(c.ts.Stdout(), out)
	if failed := (*lab.CommandError)(nil); errors.As(err, &failed) {
		fmt.Fprint(c.ts.Stderr(), failed.Stderr)
	}
	return negated(c, err)
}

// [!] shows PATTERN NODE COMMAND…: waits until what the command prints matches,
// or, with "!", until it no longer does.
func shows(ctx context.Context, s *stage, c call) error {
	if len(c.args) < 3 {
		return errUsage
	}
	n, err := s.node(c.arg(1))
	if err != nil {
		return err
	}
	look := matches
	if c.neg {
		look = matchesNone
	}
	return lab.Eventually(ctx, func(ctx context.Context) error {
		out, err := n.Run(ctx, s.command(c.args[2:])...)
		return errors.Join(err, look(out, c.args[:1]))
	})
}

// command is args with the path of the built flannelctl.
func (s *stage) command(args []string) []string {
	if args[0] == "flannelctl" {
		return append([]string{s.bin.Flannelctl}, args[1:]...)
	}
	return args
}

func negated(c call, err error) error {
	switch {
	case !c.neg:
		return err
	case err == nil:
		return errors.New("succeeded, but should not")
	default:
		return nil
	}
}

func (s *stage) node(name string) (*lab.Node, error) {
	switch name {
	case "outside":
		return s.fabric.Outside, nil
	case "etcd":
		return s.fabric.Etcd.Node, nil
	case "switch":
		return s.fabric.Switch, nil
	}
	if h, err := s.fabric.Host(name); err == nil {
		return h.Node, nil
	}
	c, err := s.fabric.Container(name)
	if err != nil {
		return nil, fmt.Errorf("no node %q in this fabric", name)
	}
	return c.Node, nil
}

// status HOST PATTERN…: waits until the JSON status matches every pattern.
func status(ctx context.Context, s *stage, c call) error {
	if len(c.args) < 2 {
		return errUsage
	}
	return s.each(c.args[:1], func(h *lab.Host) error {
		return lab.Eventually(ctx, func(ctx context.Context) error {
			// A host that is not ready says so by its exit code, too.
			out, err := h.Flannelctl(ctx, "status", "-o", "json")
			if out == "" {
				return err
			}
			return matches(out, c.args[1:])
		})
	})
}

// metrics HOST PATTERN…: waits until the metrics match every pattern.
func metrics(ctx context.Context, s *stage, c call) error {
	h, err := s.fabric.Host(c.arg(0))
	if err != nil {
		return err
	}
	return lab.Eventually(ctx, func(ctx context.Context) error {
		out, err := h.Metrics(ctx)
		return errors.Join(err, matches(out, c.args[1:]))
	})
}

// matchesNone is the opposite of matches: no pattern may match.
func matchesNone(text string, patterns []string) error {
	for _, p := range patterns {
		re, err := regexp.Compile(p)
		if err != nil {
			return err
		}
		if found := re.FindString(text); found != "" {
			return fmt.Errorf("%q matches %q in:\n%s", p, found, text)
		}
	}
	return nil
}

func matches(text string, patterns []string) error {
	for _, p := range patterns {
		re, err := regexp.Compile(p)
		if err != nil {
			return lab.Permanent(err)
		}
		if !re.MatchString(text) {
			return fmt.Errorf("no match for %q in:\n%s", p, text)
		}
	}
	return nil
}

// [!] subnetenv HOST [KEY=VALUE…]: waits until the file holds the lines; with
// "!" until it is gone.
func subnetenv(ctx context.Context, s *stage, c call) error {
	h, err := s.fabric.Host(c.arg(0))
	if err != nil {
		return err
	}
	return lab.Eventually(ctx, func(context.Context) error {
		env, err := h.SubnetEnv()
		if c.neg {
			return negated(c, err)
		}
		if err != nil {
			return err
		}
		for _, want := range c.args[1:] {
			key, value, _ := strings.Cut(want, "=")
			if env[key] != value {
				return fmt.Errorf("%s of %s is %q, want %q", key, h.Name, env[key], value)
			}
		}
		return nil
	})
}

// heard HOST MESSAGE: waits until flanneld has told its supervisor.
func heard(ctx context.Context, s *stage, c call) error {
	h, err := s.fabric.Host(c.arg(0))
	if err != nil {
		return err
	}
	return lab.Eventually(ctx, func(context.Context) error { return h.Heard(c.arg(1)) })
}

// subnetof HOST 4|6 NAME: puts the host's subnet into a variable.
func subnetof(_ context.Context, s *stage, c call) error {
	h, err := s.fabric.Host(c.arg(0))
	if err != nil {
		return err
	}
	families, err := lab.ParseFamilies(c.arg(1))
	if err != nil {
		return err
	}
	gateway, err := h.Gateway(families[0])
	c.ts.Setenv(c.arg(2), gateway.Masked().String())
	return err
}

// gone HOST SUBNET: waits until the host has no route to the subnet.
func gone(ctx context.Context, s *stage, c call) error {
	h, err := s.fabric.Host(c.arg(0))
	if err != nil {
		return err
	}
	subnet, err := netip.ParsePrefix(c.arg(1))
	if err != nil {
		return err
	}
	return lab.Eventually(ctx, func(ctx context.Context) error {
		has, err := h.HasRoute(ctx, subnet)
		if has {
			err = fmt.Errorf("%s still has a route to %s", h.Name, subnet)
		}
		return err
	})
}

// look takes a picture of what "save" and "same" compare.
func (s *stage) look(ctx context.Context, what string, h *lab.Host) (string, error) {
	if pattern, ok := strings.CutPrefix(what, "kernel~"); ok {
		return linesOf(h.Kernel(ctx), pattern)
	}
	switch what {
	case "subnet":
		env, err := h.SubnetEnv()
		return env["FLANNEL_SUBNET"] + " " + env["FLANNEL_IPV6_SUBNET"], err
	case "picture":
		return s.fabric.Picture(ctx, h)
	case "kernel":
		return h.Kernel(ctx), nil
	case "everything":
		return h.Everything(ctx)
	case "macs":
		return h.MACs(ctx)
	default:
		return "", fmt.Errorf("cannot look at %q: want subnet, picture, everything, kernel, kernel~PATTERN or macs", what)
	}
}

// linesOf are the lines of text that match.
func linesOf(text, pattern string) (string, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		if re.MatchString(line) {
			b.WriteString(line)
		}
	}
	if b.Len() == 0 {
		return "", fmt.Errorf("nothing in the kernel matches %q", pattern)
	}
	return b.String(), nil
}

// save subnet|picture|everything|kernel[~PATTERN]|macs HOST
func save(ctx context.Context, s *stage, c call) error {
	h, err := s.fabric.Host(c.arg(1))
	if err != nil {
		return err
	}
	s.saved[c.arg(0)+h.Name], err = s.look(ctx, c.arg(0), h)
	return err
}

// [!] same subnet|picture|everything|kernel[~PATTERN]|macs HOST: is it as it was saved?
func same(ctx context.Context, s *stage, c call) error {
	h, err := s.fabric.Host(c.arg(1))
	if err != nil {
		return err
	}
	was, ok := s.saved[c.arg(0)+h.Name]
	if !ok {
		return fmt.Errorf("nothing was saved as %s of %s", c.arg(0), h.Name)
	}
	is, err := s.look(ctx, c.arg(0), h)
	if err != nil {
		return err
	}
	if is != was && c.arg(0) == "everything" {
		return negated(c, fmt.Errorf("%s changed\n%s", h.Name, differing(was, is)))
	}
	if is != was {
		return negated(c, fmt.Errorf("%s of %s changed\n--- before\n%s\n--- now\n%s", c.arg(0), h.Name, was, is))
	}
	return negated(c, nil)
}

// differing are the lines of two dumps that one has oftener than the other,
// with - and + before them.
func differing(was, is string) string {
	count := map[string]int{}
	for line := range strings.Lines(is) {
		count[line]++
	}
	var b strings.Builder
	for line := range strings.Lines(was) {
		if count[line]--; count[line] < 0 {
			b.WriteString("- " + line)
		}
	}
	for line := range strings.Lines(is) {
		if count[line] > 0 {
			b.WriteString("+ " + line)
			count[line]--
		}
	}
	if b.Len() == 0 {
		return "the order of lines\n"
	}
	return b.String()
}

// restored WHAT NODE: soon as it was saved.
func restored(ctx context.Context, s *stage, c call) error {
	return lab.Eventually(ctx, func(ctx context.Context) error { return same(ctx, s, c) })
}

// cut NODE: its cable is out; etcd has one, too.
func cut(ctx context.Context, s *stage, c call) error {
	n, err := s.node(c.arg(0))
	if err != nil {
		return err
	}
	return s.fabric.Cut(ctx, n)
}

// heal NODE
func heal(ctx context.Context, s *stage, c call) error {
	n, err := s.node(c.arg(0))
	if err != nil {
		return err
	}
	return s.fabric.Heal(ctx, n)
}

// readdr HOST ADDRESS
func readdr(ctx context.Context, s *stage, c call) error {
	h, err := s.fabric.Host(c.arg(0))
	if err != nil {
		return err
	}
	to, err := netip.ParseAddr(c.arg(1))
	if err != nil {
		return err
	}
	return h.Readdress(ctx, to)
}

// etcd put KEY VALUE | del KEY | list, with keys below the prefix unless they are absolute.
func etcd(ctx context.Context, s *stage, c call) error {
	key := c.arg(1)
	if !strings.HasPrefix(key, "/") {
		key = lab.Prefix + "/" + key
	}
	switch c.arg(0) {
	case "put":
		return s.fabric.Etcd.Put(ctx, key, c.arg(2))
	case "del":
		return s.fabric.Etcd.Delete(ctx, key)
	case "list":
		pairs, err := s.fabric.Etcd.List(ctx, lab.Prefix)
		for _, p := range pairs {
			fmt.Fprintln(c.ts.Stdout(), p.Key, p.Value)
		}
		return err
	default:
		return errUsage
	}
}

// leases N: waits until etcd holds N leases and no subnet is in two of them.
func leases(ctx context.Context, s *stage, c call) error {
	want, err := strconv.Atoi(c.arg(0))
	if err != nil {
		return errUsage
	}
	return lab.Eventually(ctx, func(ctx context.Context) error {
		pairs, err := s.fabric.Etcd.List(ctx, lab.Prefix+"/subnets/")
		if err != nil {
			return err
		}
		if len(pairs) != want {
			return fmt.Errorf("%d leases, want %d", len(pairs), want)
		}
		return distinct(pairs)
	})
}

func distinct(pairs []lab.Pair) error {
	owner := map[string]string{}
	for _, p := range pairs {
		for subnet := range strings.SplitSeq(strings.TrimPrefix(p.Key, lab.Prefix+"/subnets/"), "&") {
			if other, ok := owner[subnet]; ok && subnet != "0.0.0.0-0" {
				return lab.Permanent(fmt.Errorf("subnet %s is in %s and in %s", subnet, other, p.Key))
			}
			owner[subnet] = p.Key
		}
	}
	return nil
}

// address NAME 4|6 VARIABLE: puts the address of a node into a variable.
func addressOf(_ context.Context, s *stage, c call) error {
	families, err := lab.ParseFamilies(c.arg(1))
	if err != nil {
		return err
	}
	a, err := s.address(c.arg(0), families[0])
	c.ts.Setenv(c.arg(2), a.String())
	return err
}

// address is where packets to the named node go.
func (s *stage) address(name string, f addr.Family) (netip.Addr, error) {
	if name == "outside" {
		return lab.World(f), nil
	}
	if base, ok := strings.CutSuffix(name, ".tunnel"); ok {
		h, err := s.fabric.Host(base)
		if err != nil {
			return netip.Addr{}, err
		}
		gateway, err := h.Gateway(f)
		return gateway.Masked().Addr(), err
	}
	if h, err := s.fabric.Host(name); err == nil {
		return h.Underlay(f), nil
	}
	c, err := s.fabric.Container(name)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("no node %q in this fabric", name)
	}
	return c.Addr(f), nil
}
