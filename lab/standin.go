package lab

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"syscall"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// traceUDPPort is the default port of flannel's udp backend.
const traceUDPPort = 8285

// standIn takes the place of plain flannel's udp forwarder: `lab flannel-udp`,
// written from the recorded wire format. It shares no code with flannel-ng's,
// because it is the judge of it.
type standIn struct {
	proc   *process
	orders io.WriteCloser
}

// forward starts the stand-in and gives its device address and route as recorded.
func (r *replay) forward(ctx context.Context) error {
	side := r.trace.sides.At(addr.IPv4)
	listen := netip.AddrPortFrom(side.public, traceUDPPort)
	cmd := r.host.Command(context.WithoutCancel(ctx), r.host.fabric.Options.Binaries.Lab, "flannel-udp",
		"flannel0", side.subnet.Addr().String(), listen.String())
	var diag strings.Builder
	cmd.Stderr = &diag
	orders, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("flannel-udp: %w", err)
	}
	said, pipe := io.Pipe()
	cmd.Stdout = pipe
	r.forwarder = &standIn{orders: orders}
	if r.forwarder.proc, err = r.host.spawn.background(cmd); err != nil {
		return err
	}
	go func() { <-r.forwarder.proc.done; _ = pipe.Close() }()
	if _, err := bufio.NewReader(said).ReadString('\n'); err != nil {
		<-r.forwarder.proc.done
		return fmt.Errorf("flannel-udp did not start: %w: %s", err, diag.String())
	}
	return r.host.ip(ctx,
		fmt.Sprintf("link set flannel0 mtu %d up", r.trace.carrier.mtu()),
		fmt.Sprintf("addr add %s dev flannel0", addr.Single(side.subnet.Addr())),
		fmt.Sprintf("route add %s dev flannel0 scope global", side.network),
	)
}

// tell gives the forwarder its orders; nothing to tell needs no forwarder.
func (s *standIn) tell(lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	if _, err := io.WriteString(s.orders, strings.Join(lines, "\n")+"\n"); err != nil {
		return fmt.Errorf("flannel-udp: %w", err)
	}
	return nil
}

// end stops the forwarder, and its device goes with it.
func (s *standIn) end(ctx context.Context) error {
	if s == nil {
		return nil
	}
	return s.proc.end(ctx, syscall.SIGTERM)
}
