package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// Host is a node that runs flanneld, or replays plain flannel.
type Host struct {
	*Node
	Index int // from 1

	fabric     *Fabric
	daemon     *process
	supervisor *supervisor
	replay     *replay                   // nil: runs flanneld
	was        *replay                   // until flanneld took over
	moved      addr.ByFamily[netip.Addr] // underlay address after Readdress
	ports      int                       // containers attached so far
	upgraded   bool                      // runs Binaries.Upgraded

	base      *Host   // the first daemon's, for an instance
	instance  string  // letter, empty for the first
	instances []*Host // others on this machine
}

// Replayed says whether the host stands for plain flannel.
func (h *Host) Replayed() bool { return h.replay != nil }

// Underlay is the host's uplink address.
func (h *Host) Underlay(f addr.Family) netip.Addr {
	if h.base != nil {
		return h.base.Underlay(f)
	}
	if a := h.moved.At(f); a.IsValid() {
		return a
	}
	return h.fabric.plan.at(f, h.Index).prefix.Addr()
}

// flanneld is the program that runs here.
func (h *Host) flanneld() string {
	if h.upgraded {
		return h.fabric.Options.Binaries.Upgraded
	}
	return h.fabric.Options.Binaries.Flanneld
}

// Upgrade makes the next start run another version.
func (h *Host) Upgrade() { h.upgraded = true }

var errNoForwarder = errors.New("no forwarder")

// KillForwarder kills the process that carries the packets of the udp backend.
func (h *Host) KillForwarder(ctx context.Context) error {
	out, err := h.Flannelctl(ctx, "status", "-o", "json")
	if err != nil {
		return err
	}
	var status struct{ Tunnel struct{ PID int } }
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		return fmt.Errorf("status of %s: %w", h.Name, err)
	}
	if status.Tunnel.PID <= 1 {
		return fmt.Errorf("%w on %s: %s", errNoForwarder, h.Name, out)
	}
	if err := syscall.Kill(status.Tunnel.PID, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill forwarder of %s: %w", h.Name, err)
	}
	return nil
}

// daemonArgs is how the lab calls flanneld, before what the caller adds.
func (h *Host) daemonArgs() []string {
	args := []string{
		h.flanneld(),
		"--healthz-ip=127.0.0.1", fmt.Sprintf("--healthz-port=%d", h.healthPort()),
	}
	args = append(args, h.storeArgs()...)
	if h.instance != "" { // the first one runs with the defaults
		args = append(args, "--etcd-prefix="+h.Prefix(), "--subnet-file="+h.SubnetFile())
	}
	return args
}

// Start starts flanneld with extra arguments and does not wait for it. A
// replayed host writes its lease and its own kernel objects instead.
func (h *Host) Start(ctx context.Context, args ...string) error {
	if h.replay != nil {
		return h.replay.start(ctx)
	}
	if h.daemon != nil && h.daemon.running() {
		return fmt.Errorf("flanneld on %s runs already", h.Name)
	}
	log, err := os.OpenFile(h.Path(h.LogFile()), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("log of %s: %w", h.Name, err)
	}
	defer func() { _ = log.Close() }() // the daemon has its own copy
	cmd := h.Command(ctx, append(h.daemonArgs(), args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if h.supervisor != nil {
		h.supervisor.close()
	}
	if h.supervisor, err = supervise(h); err != nil {
		return err
	}
	cmd.Env = append(cmd.Environ(), "NOTIFY_SOCKET="+h.notifySocket())
	h.daemon, err = h.spawn.background(cmd)
	return err
}

// RunDaemon runs flanneld to its own end (--dry-run, refusals) and returns
// what it wrote.
func (h *Host) RunDaemon(ctx context.Context, args ...string) (string, error) {
	cmd := h.Command(ctx, append(h.daemonArgs(), args...)...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	p, err := h.spawn.background(cmd)
	if err != nil {
		return "", err
	}
	<-p.done
	return out.String(), p.err
}

// Stop asks flanneld to stop and waits; a bad exit code is an error.
func (h *Host) Stop(ctx context.Context) error {
	if h.daemon == nil {
		return fmt.Errorf("no flanneld on %s", h.Name)
	}
	if err := h.daemon.end(ctx, syscall.SIGTERM); err != nil {
		return fmt.Errorf("flanneld on %s: %w", h.Name, err)
	}
	return nil
}

// Kill ends flanneld as a crash would.
func (h *Host) Kill(ctx context.Context) error {
	if h.daemon == nil {
		return fmt.Errorf("no flanneld on %s", h.Name)
	}
	err := h.daemon.end(ctx, syscall.SIGKILL)
	if ctx.Err() != nil {
		return err
	}
	return nil
}

// Crash ends flanneld by a signal that it does not expect.
func (h *Host) Crash(ctx context.Context, sig syscall.Signal) error {
	if h.daemon == nil {
		return fmt.Errorf("no flanneld on %s", h.Name)
	}
	if err := h.daemon.end(ctx, sig); err == nil {
		return fmt.Errorf("flanneld on %s took %s for an order", h.Name, sig)
	}
	return ctx.Err()
}

// abandon ends what still runs, without asking how it went.
func (h *Host) abandon(ctx context.Context) error {
	for _, i := range h.instances {
		if err := i.abandon(ctx); err != nil {
			return err
		}
	}
	if h.supervisor != nil {
		h.supervisor.close()
		h.supervisor = nil
	}
	if h.replay != nil {
		return h.replay.forwarder.end(ctx)
	}
	if h.daemon == nil || !h.daemon.running() {
		return nil
	}
	return h.Kill(ctx)
}

// Ready reports nil once the host's own part of the fabric stands: /readyz of
// flanneld says so. The error is its reason why not.
func (h *Host) Ready(ctx context.Context) error {
	if h.replay != nil {
		return nil
	}
	if h.daemon == nil || !h.daemon.running() {
		return fmt.Errorf("flanneld on %s does not run", h.Name)
	}
	_, err := h.get(ctx, "/readyz")
	return err
}

// Metrics is what flanneld tells Prometheus.
func (h *Host) Metrics(ctx context.Context) (string, error) { return h.get(ctx, "/metrics") }

func (h *Host) get(ctx context.Context, path string) (string, error) {
	client := http.Client{Timeout: attempt, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return h.Dial(ctx, Origin{}, network, address)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d%s", h.healthPort(), path), nil)
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", h.Name, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", fmt.Errorf("ask %s: %w", h.Name, err)
	}
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return "", errors.Join(fmt.Errorf("%s of %s: %s: %s", path, h.Name, resp.Status, body), err, resp.Body.Close())
	}
	return string(body), errors.Join(err, resp.Body.Close())
}

// WaitReady waits until Ready says so. A daemon that ended ends the wait.
func (h *Host) WaitReady(ctx context.Context) error {
	return Eventually(ctx, func(ctx context.Context) error {
		err := h.Ready(ctx)
		if err != nil && h.daemon != nil && !h.daemon.running() {
			return Permanent(errors.Join(err, h.daemon.err))
		}
		return err
	})
}

// SubnetEnv reads the host's subnet file.
func (h *Host) SubnetEnv() (map[string]string, error) {
	text, err := os.ReadFile(h.Path(h.SubnetFile()))
	if err != nil {
		return nil, fmt.Errorf("subnet file of %s: %w", h.Name, err)
	}
	env := map[string]string{}
	for line := range strings.Lines(string(text)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			return nil, fmt.Errorf("subnet file of %s: line %q has no =", h.Name, line)
		}
		env[key] = value
	}
	return env, nil
}

// Gateway is the first address of the host's subnet in f, with its length.
func (h *Host) Gateway(f addr.Family) (netip.Prefix, error) {
	env, err := h.SubnetEnv()
	if err != nil {
		return netip.Prefix{}, err
	}
	key := "FLANNEL_SUBNET"
	if f == addr.IPv6 {
		key = "FLANNEL_IPV6_SUBNET"
	}
	p, err := netip.ParsePrefix(env[key])
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%s of %s: %w", key, h.Name, err)
	}
	return p, nil
}

// Log is what flanneld wrote so far, over all its starts.
func (h *Host) Log() string {
	text, err := os.ReadFile(h.Path(h.LogFile()))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Flannelctl runs flannelctl on the host.
func (h *Host) Flannelctl(ctx context.Context, args ...string) (string, error) {
	return h.Run(ctx, append([]string{h.fabric.Options.Binaries.Flannelctl, "--socket=" + h.controlSocket()}, args...)...)
}

// Readdress gives the uplink another address, as a new DHCP lease would: the
// old one goes first and takes its routes along.
func (h *Host) Readdress(ctx context.Context, to netip.Addr) error {
	f := addr.Of(to)
	at := h.fabric.plan.at(f, h.Index)
	err := h.ip(ctx,
		fmt.Sprintf("addr del %s dev eth0", netip.PrefixFrom(h.Underlay(f), at.prefix.Bits())),
		fmt.Sprintf("addr add %s dev eth0%s", netip.PrefixFrom(to, at.prefix.Bits()), nodad(f)),
		fmt.Sprintf("route replace default via %s", at.gateway),
	)
	h.moved.Put(f, to)
	return err
}

// Replace ends the replay: from now on flanneld runs here, and finds what plain
// flannel left (a stopped flannel takes only the udp backend's device along).
func (h *Host) Replace(ctx context.Context) error {
	if h.replay == nil {
		return fmt.Errorf("%s does not replay flannel", h.Name)
	}
	h.was, h.replay = h.replay, nil
	return h.was.forwarder.end(ctx)
}

// HandBack ends flanneld, and has plain flannel start on what it left.
func (h *Host) HandBack(ctx context.Context) error {
	if h.was == nil {
		return fmt.Errorf("%s never replayed flannel", h.Name)
	}
	if err := h.Stop(ctx); err != nil {
		return err
	}
	h.replay, h.was = h.was, nil
	return h.replay.restart(ctx)
}

// Docker does to the firewall what dockerd does: FORWARD drops what nobody
// accepts, and users get a chain of their own.
func (h *Host) Docker(ctx context.Context) error {
	for _, tool := range []string{"iptables-restore", "ip6tables-restore"} {
		err := h.feed(ctx, `*filter
:FORWARD DROP [0:0]
:DOCKER-USER - [0:0]
:DOCKER-FORWARD - [0:0]
-I FORWARD -j DOCKER-FORWARD
-I FORWARD -j DOCKER-USER
-A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER-USER -j RETURN
COMMIT
`, tool, "--noflush", "--wait")
		if err != nil {
			return err
		}
	}
	return nil
}

// HasRoute says whether the main table has a route for exactly this subnet.
func (h *Host) HasRoute(ctx context.Context, subnet netip.Prefix) (bool, error) {
	out, err := h.Run(ctx, "ip", "route", "show", "exact", subnet.String())
	return strings.TrimSpace(out) != "", err
}
