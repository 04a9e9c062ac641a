package traffic

import (
	"net/netip"

	"github.com/flannel-ng/flannel-ng/internal/state"
)

// Packet is a forwarded packet as the rules see it.
type Packet struct {
	Src, Dst netip.Addr
	Mark     uint32
}

// Judgement is what a filter does to a packet.
type Judgement struct {
	Masqueraded bool // the source becomes the outgoing link's address
	Random      bool // with a fully random port
	Accepted    bool // forwarding is explicitly allowed
}

// Judge applies f to p: the one meaning that every rendering of f must have.
func Judge(f state.Filter, p Packet) Judgement {
	nat, forward := decide(f.Postrouting, p), decide(f.Forward, p)
	return Judgement{
		Masqueraded: nat == state.Masquerade || nat == state.MasqueradeRandom,
		Random:      nat == state.MasqueradeRandom,
		Accepted:    forward == state.Accept,
	}
}

// decide returns the verdict of the first match; falling off the end is the
// same as returning.
func decide(rules []state.Rule, p Packet) state.Verdict {
	for _, r := range rules {
		if r.Matches(p.Mark, p.Src, p.Dst) {
			return r.Verdict
		}
	}
	return state.Return
}
