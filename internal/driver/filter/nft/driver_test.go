package nft_test

import (
	"log/slog"
	"testing"

	"github.com/flannel-ng/flannel-ng/internal/driver/filter/filtertest"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter/ipt"
	"github.com/flannel-ng/flannel-ng/internal/driver/filter/nft"
	"github.com/flannel-ng/flannel-ng/internal/reconcile"
	"github.com/flannel-ng/flannel-ng/internal/state"
	"github.com/flannel-ng/flannel-ng/internal/traffic/traffictest"
)

func TestConformance(t *testing.T) {
	filtertest.Subject{
		Mode:        state.ModeNFTables,
		OtherMode:   state.ModeIPTables,
		Want:        traffictest.Want,
		ForwardOnly: traffictest.ForwardOnly,
		Masquerades: traffictest.Masquerades,
		New: func(o state.Owner, log *slog.Logger) reconcile.Driver {
			return nft.New(nft.Options{Owner: o, Log: log})
		},
		Other: func(o state.Owner, log *slog.Logger) reconcile.Driver {
			return ipt.New(ipt.Options{Owner: o, Log: log})
		},
		// Replacing a table moves it to the end of the ruleset.
		Show: "for t in 'ip flannel-ipv4' 'ip6 flannel-ipv6'; do nft list table $t 2>/dev/null || :; done",
		Drifts: map[string][]string{
			"rule inserted":    {"nft insert rule ip flannel-ipv4 postrtg accept"},
			"rule appended":    {"nft add rule ip6 flannel-ipv6 forward drop"},
			"chain emptied":    {"nft flush chain ip flannel-ipv4 postrtg"},
			"order":            {"nft insert rule ip flannel-ipv4 forward ip daddr 10.5.0.0/16 accept", "nft delete rule ip flannel-ipv4 forward handle $(nft -a list chain ip flannel-ipv4 forward | sed -n '/daddr/s/.*handle //p' | tail -1)"},
			"policy":           {"nft 'chain ip flannel-ipv4 forward { policy drop; }'"},
			"table deleted":    {"nft delete table ip flannel-ipv4"},
			"foreign chain":    {"nft add chain ip flannel-ipv4 other"},
			"foreign set":      {"nft 'add set ip flannel-ipv4 other { type ipv4_addr; }'"},
			"dormant":          {"nft 'add table ip flannel-ipv4 { flags dormant; }'"},
			"plain masquerade": {"nft replace rule ip flannel-ipv4 postrtg handle $(nft -a list chain ip flannel-ipv4 postrtg | sed -n '/224/s/.*handle //p') ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade"},
			"unmasked mark":    {"nft replace rule ip flannel-ipv4 postrtg handle $(nft -a list chain ip flannel-ipv4 postrtg | sed -n '/mark/s/.*handle //p') meta mark 0x4000 return"},
		},
	}.Run(t)
}
