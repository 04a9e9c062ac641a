package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/lab"
	"github.com/flannel-ng/flannel-ng/lab/traffic"
)

// pair is a row at work: two hosts, a container on each, a server in the second.
type pair struct {
	row
	hosts      [2]*lab.Host
	containers [2]*lab.Container
	server     *lab.Program
	lab        string // our own binary
}

// errUnknownOption says that this flanneld is not the one to measure that with.
var errUnknownOption = errors.New("this flanneld does not know the option")

// patience bounds what a healthy pair does in well under a second.
const patience = 30 * time.Second

// build sets a row up on two hosts of the fabric; index tells its addresses from
// those of the others.
func (p *pair) build(ctx context.Context, f *lab.Fabric, index int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p.lab = f.Options.Binaries.Lab
	p.hosts = [2]*lab.Host{f.Hosts[2*index], f.Hosts[2*index+1]}
	network := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(50 + index), 0, 0}), 16)
	var err error
	if p.backend == "" {
		err = p.plain.build(ctx, network, p.hosts, p.masq)
	} else {
		err = p.daemons(ctx, f, network)
	}
	if err != nil {
		return err
	}
	for i, h := range p.hosts {
		name := fmt.Sprintf("c%d", h.Index)
		if p.containers[i], err = f.Attach(ctx, h, name); err != nil {
			return err
		}
	}
	err = lab.Eventually(ctx, func(ctx context.Context) error {
		return p.containers[0].Ping(ctx, p.containers[1].Addr(addr.IPv4), 0)
	})
	if err != nil {
		return err
	}
	if err := p.fast(ctx); err != nil {
		return err
	}
	return p.serve(ctx)
}

// fast makes sure that what is measured as the kernel's path is one.
func (p *pair) fast(ctx context.Context) error {
	if p.option != optionBPF {
		return nil
	}
	for _, h := range p.hosts {
		path, err := h.FastPath(ctx)
		if err != nil {
			return err
		}
		if path.State != "on" {
			return fmt.Errorf("the kernel's path is off on %s: %s", h.Name, path.State)
		}
	}
	return nil
}

// daemons starts flanneld on both hosts, in a network of their own.
func (p *pair) daemons(ctx context.Context, f *lab.Fabric, network netip.Prefix) error {
	prefix := "/bench/" + p.name
	conf := fmt.Sprintf(`{"Network":%q,"EnableNFTables":true,"Backend":%s}`, network, p.backend)
	if err := f.Etcd.Put(ctx, prefix+"/config", conf); err != nil {
		return err
	}
	args := []string{"--etcd-prefix=" + prefix}
	if p.masq {
		args = append(args, "--ip-masq")
	}
	for _, h := range p.hosts {
		if err := h.Start(context.WithoutCancel(ctx), args...); err != nil { // it outlives the time for building
			return err
		}
	}
	for _, h := range p.hosts {
		if err := h.WaitReady(ctx); err != nil {
			return errors.Join(err, errors.New(h.Log()))
		}
		if p.option != "" && strings.Contains(h.Log(), "Backend."+p.option+": unknown key") {
			return fmt.Errorf("%w %s", errUnknownOption, p.option)
		}
	}
	return nil
}

// serve starts the receiver of all traffic. It outlives ctx.
func (p *pair) serve(ctx context.Context) error {
	var err error
	if p.server, err = p.containers[1].Launch(ctx, p.lab, "traffic", "serve"); err != nil {
		return err
	}
	line, err := p.server.Hear()
	if err == nil && line != "ready" {
		err = fmt.Errorf("receiver said %q", line)
	}
	return err
}

// mode switches what the uplinks segment. It makes no difference to rows
// without a tunnel.
func (p *pair) mode(ctx context.Context, m Mode) error {
	state := map[Mode]string{Whole: "on", Cut: "off"}[m]
	for _, h := range p.hosts {
		args := []string{"ethtool", "-K", "eth0"}
		for _, feature := range []string{"tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation", "tx-udp-segmentation"} {
			args = append(args, feature, state)
		}
		if _, err := h.Run(ctx, args...); err != nil {
			return fmt.Errorf("segmentation of the uplink: %w", err)
		}
	}
	return nil
}

// Times of one measurement. The first part is left out: TCP finds its window,
// and forwarders their pace.
const (
	warmUp = 300 * time.Millisecond
	window = 700 * time.Millisecond
	drain  = 100 * time.Millisecond
)

// counted is what came through a window.
type counted struct {
	bytes, datagrams  float64 // a second
	lab, others, wall time.Duration
	trips             traffic.Trips
}

// run sends one kind of traffic and counts.
func (p *pair) run(ctx context.Context, m *meter, kind ...string) (counted, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	args := append([]string{p.lab, "traffic", kind[0], p.containers[1].Addr(addr.IPv4).String()}, kind[1:]...)
	sender, err := p.containers[0].Launch(ctx, args...)
	if err != nil {
		return counted{}, err
	}
	c, err := p.watch(ctx, m)
	said, ended := sender.Finish(ctx)
	if err := errors.Join(err, ended); err != nil {
		return c, fmt.Errorf("%s: %w", kind[0], err)
	}
	if said != "" {
		if err := json.Unmarshal([]byte(said), &c.trips); err != nil {
			return c, fmt.Errorf("%s: answer %q: %w", kind[0], said, err)
		}
	}
	return c, pause(ctx, drain)
}

// watch counts for the length of a window.
func (p *pair) watch(ctx context.Context, m *meter) (counted, error) {
	if err := pause(ctx, warmUp); err != nil {
		return counted{}, err
	}
	cpu, err := m.read()
	if err != nil {
		return counted{}, err
	}
	before, err := p.count()
	if err != nil {
		return counted{}, err
	}
	if err := pause(ctx, window); err != nil {
		return counted{}, err
	}
	after, err := p.count()
	if err != nil {
		return counted{}, err
	}
	end, err := m.read()
	if err != nil {
		return counted{}, err
	}
	var c counted
	c.lab, c.others, c.wall = end.since(cpu)
	took := (after.At - before.At).Seconds()
	c.bytes = float64(after.Bytes-before.Bytes) / took
	c.datagrams = float64(after.Datagrams-before.Datagrams) / took
	return c, nil
}

func (p *pair) count() (traffic.Count, error) {
	var c traffic.Count
	if err := p.server.Tell("count"); err != nil {
		return c, err
	}
	line, err := p.server.Hear()
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal([]byte(line), &c); err != nil {
		return c, fmt.Errorf("receiver said %q: %w", line, err)
	}
	return c, nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
