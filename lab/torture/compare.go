package torture

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// ledger is what is still expected at the receiver.
type ledger struct {
	whole  bool
	want   map[string]int
	puzzle puzzle
}

func newLedger(whole bool) *ledger { return &ledger{whole: whole, want: map[string]int{}} }

func (l *ledger) expect(raw []byte) {
	key, complete := l.key(raw)
	if complete {
		l.want[key]++
	}
}

// key is what is compared: every byte, or the parts that survive fragmenting.
// Not complete: a fragment of something that is not all there yet.
func (l *ledger) key(raw []byte) (key string, complete bool) {
	v, err := parse(raw)
	if !l.whole || err != nil {
		return string(raw), true
	}
	body := v.body
	if v.fragment() {
		if body, complete = l.puzzle.add(v); !complete {
			return "", false
		}
	}
	return fmt.Sprint(v.from, v.to, v.tos, v.ttl, v.proto, " ", string(body)), true
}

// settle takes a packet that arrived off the list; false: nobody expected it.
func (l *ledger) settle(raw []byte) bool {
	key, complete := l.key(raw)
	if !complete {
		return true
	}
	if l.want[key] == 0 {
		return false
	}
	if l.want[key]--; l.want[key] == 0 {
		delete(l.want, key)
	}
	return true
}

// missing are the packets that have not come.
func (l *ledger) missing() (count int, one string) {
	for key, n := range l.want {
		count += n
		one = key
	}
	return count, one
}

// nearest says where a packet that nobody expected differs from the one expected
// that is most like it.
func (l *ledger) nearest(raw []byte) string {
	best, at := -1, ""
	for key := range l.want {
		same := 0
		for i := range min(len(key), len(raw)) {
			if key[i] == raw[i] {
				same++
			}
		}
		if same > best {
			best, at = same, key
		}
	}
	if best < 0 {
		return "nothing else was expected"
	}
	for i := range min(len(at), len(raw)) {
		if at[i] != raw[i] {
			return fmt.Sprintf("most like one of %d bytes, from byte %d: got %x, want %x", len(at), i, clip(raw[i:]), clip([]byte(at[i:])))
		}
	}
	return fmt.Sprintf("most like one of %d bytes", len(at))
}

// clip shortens what is shown.
func clip(b []byte) []byte { return b[:min(len(b), 48)] }

// matches says whether an ICMP error is the expected one.
func (a answer) matches(v view, to netip.Addr) error {
	if len(v.body) < 8 {
		return fmt.Errorf("%w: %d bytes of ICMP", errPacket, len(v.body))
	}
	switch {
	case v.to != to:
		return fmt.Errorf("goes to %s", v.to)
	case !a.from.Contains(v.from):
		return fmt.Errorf("comes from %s, not from %s", v.from, a.from)
	case !v.summed():
		return fmt.Errorf("has a wrong checksum")
	case [2]byte(v.body) != a.kind:
		return fmt.Errorf("is %d/%d, want %d/%d", v.body[0], v.body[1], a.kind[0], a.kind[1])
	}
	if mtu := binary.BigEndian.Uint32(v.body[4:]); a.mtu != 0 && mtu != a.mtu {
		return fmt.Errorf("says %d bytes, want %d", mtu, a.mtu)
	}
	return a.quotes(v.body[8:])
}

// quotes wants as much of the packet as every router has to give back.
func (a answer) quotes(text []byte) error {
	least := min(len(a.quote), 28)
	if a.quote[0]>>4 == 6 {
		least = min(len(a.quote), 1280-48)
	}
	if len(text) < least || len(text) > len(a.quote) || string(text) != string(a.quote[:len(text)]) {
		return fmt.Errorf("quotes %d bytes %x, want at least %d of %x", len(text), clip(text), least, clip(a.quote))
	}
	return nil
}
