package nl

import (
	"golang.org/x/sys/unix"

	"github.com/flannel-ng/flannel-ng/internal/addr"
)

// VisitRules reads a datagram of the nftables group.
func VisitRules(v RuleVisitor, datagram []byte) error { return v.visit(datagram) }

// DumpSeq is the sequence number that ReadDump expects.
const DumpSeq = 7

// ReadDump reads datagrams as the answer to a dump: how many objects came, and
// whether it came to its end.
func ReadDump(datagrams ...[]byte) (objects int, done bool, err error) {
	a := answer{seq: DumpSeq, visit: func([]byte) error { objects++; return nil }}
	for _, b := range datagrams {
		if err := eachMessage(b, a.message); err != nil {
			return objects, a.done, err
		}
	}
	return objects, a.done, a.result()
}

// DecodeAll runs every decoder on the messages of a datagram.
func DecodeAll(datagram []byte) error {
	return eachMessage(datagram, func(h header, body []byte) error {
		_ = parseError(h, body)
		_, _ = decodeEvent(h, body)
		_, _ = decodeEvent(header{typ: unix.RTM_NEWNEIGH}, body)
		_, _ = decodeLink(body)
		_, _ = decodeAddress(body)
		_, _ = decodeRoute(body)
		_, _ = decodeNexthop(body)
		if len(body) >= neighbourHeader {
			_ = decodeNdm(body)
			_, _, _ = decodeNeighbour(body, addr.IPv4, 1)
			_, _, _ = decodeFDB(body, 1)
		}
		return nil
	})
}
