package ipt_test

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
		Mode:        state.ModeIPTables,
		OtherMode:   state.ModeNFTables,
		Want:        traffictest.Want,
		ForwardOnly: traffictest.ForwardOnly,
		Masquerades: traffictest.Masquerades,
		New: func(o state.Owner, log *slog.Logger) reconcile.Driver {
			return ipt.New(ipt.Options{Owner: o, Log: log})
		},
		Other: func(o state.Owner, log *slog.Logger) reconcile.Driver {
			return nft.New(nft.Options{Owner: o, Log: log})
		},
		Show: "iptables-save | sed '/^[#:]/d'; ip6tables-save | sed '/^[#:]/d'",
		Drifts: map[string][]string{
			"rule inserted": {"iptables -t nat -I FLANNEL-POSTRTG 3 -j RETURN"},
			"rule appended": {"ip6tables -A FLANNEL-FWD -j DROP"},
			"rule deleted":  {"iptables -t nat -D FLANNEL-POSTRTG 1"},
			"chain emptied": {"iptables -F FLANNEL-FWD"},
			"order":         {"iptables -t nat -D FLANNEL-POSTRTG 1", `iptables -t nat -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN`},
			"jump deleted":  {"iptables -t nat -F POSTROUTING"},
			"jump doubled":  {`iptables -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD`},
			"jump limited":  {"iptables -F FORWARD", "iptables -A FORWARD -p tcp -j FLANNEL-FWD"},
			"gone to":       {"iptables -F FORWARD", `iptables -A FORWARD -m comment --comment "flanneld forward" -g FLANNEL-FWD`},
			"chain deleted": {"iptables -F FORWARD", "iptables -F FLANNEL-FWD", "iptables -X FLANNEL-FWD"},
			"plain masquerade": {
				"iptables -t nat -D FLANNEL-POSTRTG 5",
				`iptables -t nat -I FLANNEL-POSTRTG 5 -s 10.5.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE`,
			},
		},
	}.Run(t)
}
