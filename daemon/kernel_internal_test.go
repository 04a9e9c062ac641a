package daemon

import (
	"net/netip"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/nl"
)

// routeTo says whether the kernel has a route to exactly p.
func routeTo(tb testing.TB, p netip.Prefix) bool {
	tb.Helper()
	c, err := nl.Dial()
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	found, errs := c.RoutesTo(tb.Context(), []nl.Lookup{{To: p.Addr().Next()}})
	return errs[0] == nil && found[0].Dst == p
}
