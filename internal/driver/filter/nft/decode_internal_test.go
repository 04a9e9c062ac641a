package nft

import (
	"net/netip"
	"testing"

	"github.com/google/nftables/expr"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

func match(s string, not bool) state.Match {
	return state.Match{Prefix: netip.MustParsePrefix(s), Not: not}
}

func TestRenderDecodes(t *testing.T) {
	for _, r := range []state.Rule{
		{Mark: 0x4000, Verdict: state.Return},
		{Mark: 0xc000, Src: match("10.5.0.0/16", false), Verdict: state.Accept},
		{Src: match("10.5.0.0/16", false), Dst: match("10.5.14.0/23", true), Verdict: state.Masquerade},
		{Src: match("10.5.1.1/32", true), Verdict: state.MasqueradeRandom},
		{Dst: match("0.0.0.0/0", false), Verdict: state.Return},
		{Src: match("fc00:5::/48", false), Dst: match("ff00::/8", true), Verdict: state.Masquerade},
		{Src: match("fc00:5:0:40::/61", true), Verdict: state.Accept},
		{Verdict: state.Accept},
	} {
		f := addr.IPv4
		for _, m := range []state.Match{r.Src, r.Dst} {
			if m.Prefix.IsValid() {
				f = addr.Of(m.Prefix.Addr())
			}
		}
		if got, ok := decode(f, render(r)); !ok || got != r {
			t.Errorf("%+v reads back as %+v, %v", r, got, ok)
		}
	}
}

func TestDecodeOtherWords(t *testing.T) {
	src := func(length uint32) expr.Any {
		return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offsetSrcIPv4, Len: length}
	}
	accept := &expr.Verdict{Kind: expr.VerdictAccept}
	for name, c := range map[string]struct {
		exprs []expr.Any
		want  state.Rule
		ok    bool
	}{
		"short load": {
			[]expr.Any{src(2), &expr.Cmp{Op: expr.CmpOpEq, Data: []byte{10, 5}}, accept},
			state.Rule{Src: match("10.5.0.0/16", false), Verdict: state.Accept},
			true,
		},
		"counter": {[]expr.Any{&expr.Counter{}, accept}, state.Rule{Verdict: state.Accept}, true},
		"whole mark": {
			[]expr.Any{&expr.Meta{Key: expr.MetaKeyMARK}, &expr.Cmp{Op: expr.CmpOpEq, Data: []byte{0, 0x40, 0, 0}}, accept},
			state.Rule{},
			false,
		},
		"other meta":     {[]expr.Any{&expr.Meta{Key: expr.MetaKeyIIF}, &expr.Cmp{Op: expr.CmpOpEq, Data: []byte{1, 0, 0, 0}}, accept}, state.Rule{}, false},
		"greater":        {[]expr.Any{src(2), &expr.Cmp{Op: expr.CmpOpGt, Data: []byte{10, 5}}, accept}, state.Rule{}, false},
		"holed mask":     {[]expr.Any{src(2), &expr.Bitwise{Mask: []byte{0xf0, 0xff}, Xor: []byte{0, 0}}, &expr.Cmp{Op: expr.CmpOpEq, Data: []byte{0, 5}}, accept}, state.Rule{}, false},
		"xor":            {[]expr.Any{src(2), &expr.Bitwise{Mask: []byte{0xff, 0xff}, Xor: []byte{0, 1}}, &expr.Cmp{Op: expr.CmpOpEq, Data: []byte{10, 5}}, accept}, state.Rule{}, false},
		"twice":          {[]expr.Any{src(1), &expr.Cmp{Op: expr.CmpOpEq, Data: []byte{10}}, src(1), &expr.Cmp{Op: expr.CmpOpEq, Data: []byte{10}}, accept}, state.Rule{}, false},
		"too long":       {[]expr.Any{src(5), &expr.Cmp{Op: expr.CmpOpEq, Data: []byte{10, 5, 0, 0, 0}}, accept}, state.Rule{}, false},
		"no verdict":     {[]expr.Any{src(2), &expr.Cmp{Op: expr.CmpOpEq, Data: []byte{10, 5}}}, state.Rule{}, false},
		"behind verdict": {[]expr.Any{accept, &expr.Counter{}}, state.Rule{}, false},
		"drop":           {[]expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}, state.Rule{}, false},
		"persistent":     {[]expr.Any{&expr.Masq{Persistent: true}}, state.Rule{}, false},
		"reject":         {[]expr.Any{&expr.Reject{}}, state.Rule{}, false},
		"lone compare":   {[]expr.Any{&expr.Cmp{Op: expr.CmpOpEq, Data: []byte{10, 5}}, accept}, state.Rule{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got, ok := decode(addr.IPv4, c.exprs); ok != c.ok || got != c.want {
				t.Errorf("%+v, %v", got, ok)
			}
		})
	}
}
