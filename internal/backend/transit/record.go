package transit

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// Limits of a record. Every host keeps that of every other.
const (
	// MaxCarriers is how many ways of receiving a host has at most.
	MaxCarriers = 3
	// maxEntries leaves later versions room for more.
	maxEntries = 8
	maxName    = 64 // of a wire, in bytes
)

// ErrRecord says that a record cannot be understood.
var ErrRecord = errors.New("carriers record")

// Record is what a host of ours publishes beside its lease: how it can be
// reached. It stands in lease.Offer.Extra (docs/lease-protocol.md).
type Record struct {
	// Entries: the first is the primary, whose type and data stand in the lease
	// itself.
	Entries []Entry
}

// Entry is one way to reach a host.
type Entry struct {
	Wire    string          // backend.Wire.Name
	Backend json.RawMessage // as in a network config
	// ReceiveOnly: the host sends nobody anything by it, and will not before it
	// has said otherwise.
	ReceiveOnly bool
	// Data and Extra are those of the offer, unless it is the primary's.
	Data  addr.ByFamily[string]
	Extra string
}

// entryText is an Entry as it is written.
type entryText struct {
	Wire        string          `json:"wire"`
	Backend     json.RawMessage `json:"backend"`
	ReceiveOnly bool            `json:"receiveOnly,omitempty"`
	Data        *dataText       `json:"data,omitempty"`
	Extra       json.RawMessage `json:"extra,omitempty"`
}

type dataText struct {
	IPv4 json.RawMessage `json:"ipv4,omitempty"`
	IPv6 json.RawMessage `json:"ipv6,omitempty"`
}

// carriersKey is the record's place among what else an extra holds.
const carriersKey = "carriers"

// Parse reads the record in an extra. A host that has none says nothing of
// other ways than that of its lease. The error is ErrRecord.
func Parse(extra string) (Record, error) {
	if extra == "" {
		return Record{}, nil
	}
	var x struct {
		Carriers []entryText `json:"carriers"`
	}
	if err := json.Unmarshal([]byte(extra), &x); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if len(x.Carriers) > maxEntries {
		return Record{}, fmt.Errorf("%w: %d carriers, at most %d", ErrRecord, len(x.Carriers), maxEntries)
	}
	var r Record
	for _, t := range x.Carriers {
		if t.Wire == "" || len(t.Wire) > maxName || r.find(t.Wire) != nil {
			return Record{}, fmt.Errorf("%w: wire %.64q is empty, too long, or there twice", ErrRecord, t.Wire)
		}
		e := Entry{Wire: t.Wire, Backend: t.Backend, ReceiveOnly: t.ReceiveOnly, Extra: string(t.Extra)}
		if t.Data != nil {
			e.Data = addr.Pair(string(t.Data.IPv4), string(t.Data.IPv6))
		}
		r.Entries = append(r.Entries, e)
	}
	return r, nil
}

// Format writes r into the extra of the primary's offer, "" for none.
func (r Record) Format(extra string) (string, error) {
	all := map[string]json.RawMessage{}
	if extra != "" {
		if err := json.Unmarshal([]byte(extra), &all); err != nil {
			return "", fmt.Errorf("extra of the offer: %w", err)
		}
	}
	var list []entryText
	for i, e := range r.Entries {
		t := entryText{Wire: e.Wire, Backend: e.Backend, ReceiveOnly: e.ReceiveOnly}
		if i > 0 {
			t.Extra = json.RawMessage(e.Extra)
			if e.Data != (addr.ByFamily[string]{}) {
				t.Data = &dataText{IPv4: json.RawMessage(e.Data.At(addr.IPv4)), IPv6: json.RawMessage(e.Data.At(addr.IPv6))}
			}
		}
		list = append(list, t)
	}
	text, err := json.Marshal(list)
	if err != nil {
		return "", fmt.Errorf("encode carriers: %w", err)
	}
	all[carriersKey] = text
	if text, err = json.Marshal(all); err != nil {
		return "", fmt.Errorf("encode carriers: %w", err)
	}
	return lease.FormatExtra(string(text))
}

// find is the entry of a wire, or nil.
func (r *Record) find(wire string) *Entry {
	i := slices.IndexFunc(r.Entries, func(e Entry) bool { return e.Wire == wire })
	if i < 0 {
		return nil
	}
	return &r.Entries[i]
}

// offer is how the holder of an offer with record r is reached by a wire.
func (r *Record) offer(o lease.Offer, wire, backend string) (lease.Offer, bool) {
	i := slices.IndexFunc(r.Entries, func(e Entry) bool { return e.Wire == wire })
	switch {
	case i < 0:
		return lease.Offer{}, false
	case i == 0:
		return o, true
	default:
		e := r.Entries[i]
		return lease.Offer{Backend: backend, Data: e.Data, Extra: e.Extra}, true
	}
}

// primary is the wire of the first entry, "" without one.
func (r *Record) primary() string {
	if r == nil || len(r.Entries) == 0 {
		return ""
	}
	return r.Entries[0].Wire
}

// lists says whether the host receives by wire; sends, whether it may send by it.
func (r *Record) lists(wire string) bool { return r != nil && r.find(wire) != nil }

func (r *Record) sends(wire string) bool {
	if r == nil {
		return false
	}
	e := r.find(wire)
	return e != nil && !e.ReceiveOnly
}
