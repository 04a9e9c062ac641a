package nft

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"github.com/flannel-ng/flannel-ng/internal/state"
)

// register is where values are loaded for comparison; one is enough.
const register = 1

// Offsets of the addresses in the network header, in bytes (RFC 791, RFC 8200).
const (
	offsetSrcIPv4, offsetDstIPv4 = 12, 16
	offsetSrcIPv6, offsetDstIPv6 = 8, 24
)

// replaceTable queues our whole table anew. Kernel hooks change over when the
// transaction commits, all at once.
func replaceTable(conn *nftables.Conn, t *nftables.Table, want []wantedChain, exists bool) {
	if exists {
		conn.DelTable(t)
	}
	if len(want) == 0 {
		return
	}
	conn.AddTable(t)
	for _, w := range want {
		conn.AddChain(w.chain)
		for _, r := range w.rules {
			conn.AddRule(&nftables.Rule{Table: t, Chain: w.chain, Exprs: render(r)})
		}
	}
}

// render says r in nftables' words. Masquerading with fully random ports is
// as old as masquerading in nftables (Linux 3.18, 3.14), so it needs no probe.
func render(r state.Rule) []expr.Any {
	var out []expr.Any
	if r.Mark != 0 {
		out = append(out, renderMark(r.Mark)...)
	}
	out = append(out, renderAddr(r.Src, offsetSrcIPv4, offsetSrcIPv6)...)
	out = append(out, renderAddr(r.Dst, offsetDstIPv4, offsetDstIPv6)...)
	return append(out, renderVerdict(r.Verdict))
}

// renderMark compares only the bits of mark: others share the field.
func renderMark(mark uint32) []expr.Any {
	bits := binary.NativeEndian.AppendUint32(nil, mark)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Mask: bits, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: bits},
	}
}

func renderAddr(m state.Match, offset4, offset6 uint32) []expr.Any {
	if !m.Prefix.IsValid() {
		return nil
	}
	base := m.Prefix.Masked().Addr().AsSlice()
	offset := offset6
	if m.Prefix.Addr().Is4() {
		offset = offset4
	}
	op := expr.CmpOpEq
	if m.Not {
		op = expr.CmpOpNeq
	}
	size := uint32(len(base))
	return []expr.Any{
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: size, Mask: maskOf(m.Prefix), Xor: make([]byte, size)},
		&expr.Cmp{Op: op, Register: register, Data: base},
	}
}

func maskOf(p netip.Prefix) []byte {
	out := make([]byte, p.Addr().BitLen()/8)
	for i := range p.Bits() {
		out[i/8] |= 0x80 >> (i % 8)
	}
	return out
}

func renderVerdict(v state.Verdict) expr.Any {
	switch v {
	case state.Masquerade:
		return &expr.Masq{}
	case state.MasqueradeRandom:
		return &expr.Masq{FullyRandom: true}
	case state.Accept:
		return &expr.Verdict{Kind: expr.VerdictAccept}
	default:
		return &expr.Verdict{Kind: expr.VerdictReturn}
	}
}
