package daemon

import (
	"context"
	"net/netip"
	"testing"

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
