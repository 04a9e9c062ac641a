package daemon

import (
	"bufio"
	"context"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/nl"
)

// kernel is asked what the daemon has done.
type kernel struct {
	ctx  func() context.Context
	conn *nl.Conn
}

func dialKernel(tb testing.TB) kernel {
	tb.Helper()
	c, err := nl.Dial()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return kernel{ctx: tb.Context, conn: c}
}

// leads says whether there is a route to exactly p.
func (k kernel) leads(p netip.Prefix) bool {
	found, errs := k.conn.RoutesTo(k.ctx(), []nl.Lookup{{To: p.Addr().Next()}})
	return errs[0] == nil && found[0].Dst == p
}

// follow asks `ip monitor` when routes of ours appear, until there were so many
// or none for a while. The daemon's own subscription does not hear of them.
func follow(ctx context.Context, routes int) map[netip.Prefix]time.Time {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out := map[netip.Prefix]time.Time{}
	c := exec.CommandContext(ctx, "ip", "-rcvbuf", "33554432", "-4", "monitor", "route")
	pipe, err := c.StdoutPipe()
	if err != nil || c.Start() != nil {
		return out
	}
	defer func() { _ = c.Wait() }()
	silence := time.AfterFunc(time.Minute, cancel)
	for lines := bufio.NewScanner(pipe); len(out) < routes && lines.Scan(); {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		if p, err := netip.ParsePrefix(word); err == nil && strings.Contains(rest, "proto 70") {
			out[p] = time.Now()
			silence.Reset(time.Minute)
		}
	}
	cancel()
	return out
}
