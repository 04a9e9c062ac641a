package nft

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"github.com/google/nftables/expr"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/state"
)

// field is what a rule has loaded last.
type field int

const (
	fieldNone field = iota
	fieldMark
	fieldSrc
	fieldDst
)

// decoder reads expressions back into a rule. Comparing meanings instead of
// encodings means that rules which plain flannel or a newer nft wrote in other
// words, and that mean the same, stay untouched.
type decoder struct {
	family addr.Family
	rule   state.Rule
	field  field
	mask   []byte // nil: all bits of what was loaded
	done   bool   // a verdict was seen
}

// decode returns the meaning of a rule, or false if it is none that we have
// words for.
func decode(f addr.Family, exprs []expr.Any) (state.Rule, bool) {
	d := decoder{family: f}
	for _, e := range exprs {
		if d.done || !d.step(e) {
			return state.Rule{}, false
		}
	}
	if !d.done {
		return state.Rule{}, false
	}
	return d.rule, true
}

func (d *decoder) step(e expr.Any) bool {
	switch e := e.(type) {
	case *expr.Counter:
		return true
	case *expr.Match:
		return e.Name == "comment"
	case *expr.Meta:
		d.field, d.mask = fieldMark, nil
		return e.Key == expr.MetaKeyMARK && !e.SourceRegister
	case *expr.Payload:
		return d.load(e)
	case *expr.Bitwise:
		d.mask = e.Mask
		return d.field != fieldNone && allZero(e.Xor)
	case *expr.Cmp:
		return d.compare(e)
	default:
		d.done = true
		d.rule.Verdict = verdictOf(e)
		return d.rule.Verdict != ""
	}
}

func (d *decoder) load(p *expr.Payload) bool {
	src, dst := uint32(offsetSrcIPv6), uint32(offsetDstIPv6)
	if d.family == addr.IPv4 {
		src, dst = offsetSrcIPv4, offsetDstIPv4
	}
	d.mask = nil
	switch p.Offset {
	case src:
		d.field = fieldSrc
	case dst:
		d.field = fieldDst
	default:
		return false
	}
	return p.OperationType == expr.PayloadLoad && p.Base == expr.PayloadBaseNetworkHeader
}

// compare ends one condition. A second one on the same field has no words.
func (d *decoder) compare(c *expr.Cmp) bool {
	f := d.field
	d.field = fieldNone
	if c.Op != expr.CmpOpEq && c.Op != expr.CmpOpNeq {
		return false
	}
	if f == fieldMark {
		return d.compareMark(c)
	}
	p, ok := d.prefix(c.Data)
	if !ok {
		return false
	}
	m := state.Match{Prefix: p, Not: c.Op == expr.CmpOpNeq}
	switch {
	case f == fieldSrc && !d.rule.Src.Prefix.IsValid():
		d.rule.Src = m
	case f == fieldDst && !d.rule.Dst.Prefix.IsValid():
		d.rule.Dst = m
	default:
		return false
	}
	return true
}

// compareMark accepts only "these bits are set": comparing the whole mark, as
// plain flannel does, is another meaning.
func (d *decoder) compareMark(c *expr.Cmp) bool {
	if len(c.Data) != 4 || len(d.mask) != 4 || c.Op != expr.CmpOpEq || d.rule.Mark != 0 {
		return false
	}
	d.rule.Mark = binary.NativeEndian.Uint32(c.Data)
	return d.rule.Mark == binary.NativeEndian.Uint32(d.mask)
}

// prefix reads a compared address. Prefixes on byte boundaries may be loaded
// short and without a mask.
func (d *decoder) prefix(data []byte) (netip.Prefix, bool) {
	size := d.family.Bits() / 8
	if len(data) == 0 || len(data) > size {
		return netip.Prefix{}, false
	}
	length := 8 * len(data)
	if d.mask != nil {
		var ok bool
		if length, ok = maskLen(d.mask); !ok || len(d.mask) != len(data) {
			return netip.Prefix{}, false
		}
	}
	a, ok := netip.AddrFromSlice(append(append([]byte{}, data...), make([]byte, size-len(data))...))
	p := netip.PrefixFrom(a, length)
	return p, ok && p == p.Masked()
}

// maskLen counts the leading ones of a mask that has no others.
func maskLen(mask []byte) (int, bool) {
	n := 0
	for _, b := range mask {
		n += bits.LeadingZeros8(^b)
		if b != 0xff {
			break
		}
	}
	total := 0
	for _, b := range mask {
		total += bits.OnesCount8(b)
	}
	return n, n == total
}

func verdictOf(e expr.Any) state.Verdict {
	switch e := e.(type) {
	case *expr.Verdict:
		switch e.Kind {
		case expr.VerdictReturn:
			return state.Return
		case expr.VerdictAccept:
			return state.Accept
		default:
			return ""
		}
	case *expr.Masq:
		switch *e {
		case expr.Masq{}:
			return state.Masquerade
		case expr.Masq{FullyRandom: true}:
			return state.MasqueradeRandom
		default:
			return ""
		}
	default:
		return ""
	}
}

func allZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
