package lastgood

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

// The file is one line, "flannel-ng-last-known-good VERSION SHA256", and a
// JSON document that the checksum is of.
const (
	magic   = "flannel-ng-last-known-good"
	version = 1
)

var (
	errFormat   = errors.New("not a last-known-good file")
	errVersion  = errors.New("written by a newer version")
	errChecksum = errors.New("damaged: its checksum is wrong")
	errIdentity = errors.New("is of another fabric")
)

// picture is the document.
type picture struct {
	Saved    time.Time `json:"saved"`
	Identity string    `json:"identity"`
	Cluster  string    `json:"cluster"`
	Rev      int64     `json:"rev"`
	Config   *string   `json:"config"` // null: there was none
	Leases   []record  `json:"leases"`
	Recent   []expired `json:"recent,omitempty"`
}

// record is a lease. Absent families are null.
type record struct {
	Key      string          `json:"key"`
	Subnets  [2]netip.Prefix `json:"subnets"`
	Public   [2]netip.Addr   `json:"public"`
	Backend  string          `json:"backend"`
	Data     [2]string       `json:"data"`
	Extra    string          `json:"extra,omitempty"`
	Owner    string          `json:"owner,omitempty"`
	Reserved bool            `json:"reserved,omitempty"`
	Created  int64           `json:"created"`
	Modified int64           `json:"modified"`
}

type expired struct {
	Subnet netip.Prefix `json:"subnet"`
	Until  time.Time    `json:"until"`
}

func newPicture(s lease.Snapshot, identity string, now time.Time) picture {
	p := picture{Saved: now.UTC(), Identity: identity, Cluster: s.Cluster, Rev: s.Rev, Leases: []record{}}
	if s.Config != nil {
		text := string(s.Config)
		p.Config = &text
	}
	for _, l := range s.Leases {
		p.Leases = append(p.Leases, record{
			Key: l.Key, Subnets: both(l.Subnets), Public: both(l.Public),
			Backend: l.Offer.Backend, Data: both(l.Offer.Data), Extra: l.Offer.Extra,
			Owner: l.Owner, Reserved: l.Reserved, Created: l.Created, Modified: l.Modified,
		})
	}
	for _, r := range s.Recent {
		p.Recent = append(p.Recent, expired(r))
	}
	return p
}

func both[T any](b addr.ByFamily[T]) [2]T { return [2]T{b.At(addr.IPv4), b.At(addr.IPv6)} }

func pair[T any](b [2]T) addr.ByFamily[T] { return addr.Pair(b[0], b[1]) }

// snapshot is p as it was seen, but not live.
func (p *picture) snapshot() lease.Snapshot {
	s := lease.Snapshot{Cluster: p.Cluster, Rev: p.Rev}
	if p.Config != nil {
		s.Config = []byte(*p.Config)
	}
	for _, r := range p.Leases {
		s.Leases = append(s.Leases, lease.Lease{
			Key: r.Key, Subnets: pair(r.Subnets), Public: pair(r.Public),
			Offer: lease.Offer{Backend: r.Backend, Data: pair(r.Data), Extra: r.Extra},
			Owner: r.Owner, Reserved: r.Reserved, Created: r.Created, Modified: r.Modified,
		})
	}
	for _, r := range p.Recent {
		s.Recent = append(s.Recent, lease.Recent(r))
	}
	return s
}

func encode(p picture) ([]byte, error) {
	body, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("last known good picture: %w", err)
	}
	body = append(body, '\n')
	return append(fmt.Appendf(nil, "%s %d %s\n", magic, version, sum(body)), body...), nil
}

func sum(body []byte) string {
	digest := sha256.Sum256(body)
	return hex.EncodeToString(digest[:])
}

// decode refuses whatever encode did not write.
func decode(text []byte) (*picture, error) {
	line, body, _ := bytes.Cut(text, []byte("\n"))
	words := strings.Split(string(line), " ")
	if len(words) < 2 || words[0] != magic {
		return nil, errFormat
	}
	v, err := strconv.Atoi(words[1])
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: version %q", errFormat, words[1])
	case v > version:
		return nil, fmt.Errorf("%w: version %d, not %d", errVersion, v, version)
	case v != version || len(words) != 3:
		return nil, fmt.Errorf("%w: header %q", errFormat, line)
	case words[2] != sum(body):
		return nil, errChecksum
	}
	p := &picture{}
	if err := json.Unmarshal(body, p); err != nil {
		return nil, fmt.Errorf("%w: %w", errFormat, err)
	}
	return p, nil
}
