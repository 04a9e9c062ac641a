package etcd

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/lease"
	"github.com/flannel-ng/flannel-ng/internal/store/subnetkey"
)

// This file is the one place that knows what our keys and values look like
// (docs/lease-protocol.md). Leases are flannel's, byte for byte.

const (
	configKey  = "config"
	subnetsDir = "subnets/"
	// strayDir is what a plain flannel watches: it misses the slash, so that
	// keys beside subnets/ harm it too.
	strayDir    = "subnets"
	addressDir  = "ng/addresses/"
	sessionsDir = "ng/alive/"
	claimsDir   = "ng/claims/"
	recentDir   = "ng/recent/"

	// Every host watches from watchFrom to watchTo: leases, claims and notes.
	// The names above are such that this is one range and that addresses and
	// sessions, which only concern who claims them, lie outside.
	watchFrom = claimsDir
	watchTo   = "subnett"

	// defaultBackend is what a lease without a type means.
	defaultBackend = "udp"

	// What others write ends up in memory, logs and status, so it is bounded,
	// in bytes. Backend data of an extension may be a few KiB.
	maxValue  = 64 << 10
	maxName   = 64  // a backend type, a host id, a public address
	maxPublic = 2   // addresses of a lease
	maxReason = 200 // what is shown of a key or of a reason
)

var (
	errCanonical = errors.New("not in canonical form")
	errFamily    = errors.New("wrong address family")
	errLong      = errors.New("too long")
)

// atMost refuses a text of more than limit bytes without repeating it.
func atMost(limit int, what, s string) error {
	if len(s) > limit {
		return fmt.Errorf("%s of %d bytes, at most %d: %w", what, len(s), limit, errLong)
	}
	return nil
}

// clip shortens what others wrote for people.
func clip(s string) string {
	if len(s) <= maxReason {
		return s
	}
	return strings.ToValidUTF8(s[:maxReason], "") + "…"
}

// FormatKey is the name of a lease of these subnets, without its directory.
func FormatKey(subnets addr.ByFamily[netip.Prefix]) string { return subnetkey.Format(subnets) }

// ParseKey is the inverse of FormatKey.
func ParseKey(key string) (addr.ByFamily[netip.Prefix], error) { return subnetkey.Parse(key) }

// value is flannel's lease value; the order of the fields is the order of the
// bytes.
type value struct {
	PublicIP      *string         `json:"PublicIP"`
	PublicIPv6    *string         `json:"PublicIPv6"`
	BackendType   string          `json:"BackendType,omitempty"`
	BackendData   json.RawMessage `json:"BackendData,omitempty"`
	BackendV6Data json.RawMessage `json:"BackendV6Data,omitempty"`
}

// untyped are the backends whose leases carry no type.
func untyped(backend string) bool {
	return backend == defaultBackend || backend == "alloc" || backend == "tencent-vpc"
}

// FormatValue is the value of a lease. It fails only if o.Data is no JSON or
// makes a value that nobody would read.
func FormatValue(public addr.ByFamily[netip.Addr], o lease.Offer) (string, error) {
	none := netip.IPv4Unspecified().String()
	v := value{
		PublicIP:      &none,
		BackendData:   json.RawMessage(o.Data.At(addr.IPv4)),
		BackendV6Data: json.RawMessage(o.Data.At(addr.IPv6)),
	}
	if a := public.At(addr.IPv4); a.IsValid() {
		s := a.String()
		v.PublicIP = &s
	}
	if a := public.At(addr.IPv6); a.IsValid() {
		s := a.String()
		v.PublicIPv6 = &s
	}
	if !untyped(o.Backend) {
		v.BackendType = o.Backend
	}
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("lease value: %w", err)
	}
	return string(b), atMost(maxValue, "lease value", string(b))
}

// ParseValue reads a lease value. Unknown fields are ignored; "0.0.0.0", "::",
// null and absence all mean no address. Values of more than 64 KiB and backend
// types of more than 64 bytes are refused.
func ParseValue(s string) (addr.ByFamily[netip.Addr], lease.Offer, error) {
	var (
		v      value
		public addr.ByFamily[netip.Addr]
	)
	if err := atMost(maxValue, "lease value", s); err != nil {
		return public, lease.Offer{}, err
	}
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		return public, lease.Offer{}, fmt.Errorf("lease value: %w", err)
	}
	for _, f := range addr.Families() {
		text := addr.Pair(v.PublicIP, v.PublicIPv6).At(f)
		a, err := parsePublic(text, f)
		if err != nil {
			return addr.ByFamily[netip.Addr]{}, lease.Offer{}, fmt.Errorf("public %s address: %w", f, err)
		}
		public.Put(f, a)
	}
	o := lease.Offer{
		Backend: strings.ToLower(v.BackendType),
		Data:    addr.Pair(data(v.BackendData), data(v.BackendV6Data)),
	}
	if o.Backend == "" {
		o.Backend = defaultBackend
	}
	if err := atMost(maxName, "backend type", o.Backend); err != nil {
		return addr.ByFamily[netip.Addr]{}, lease.Offer{}, err
	}
	return public, o, nil
}

func data(raw json.RawMessage) string {
	if string(raw) == "null" {
		return ""
	}
	return string(raw)
}

func parsePublic(text *string, f addr.Family) (netip.Addr, error) {
	if text == nil || *text == "" {
		return netip.Addr{}, nil
	}
	if err := atMost(maxName, "address", *text); err != nil {
		return netip.Addr{}, err
	}
	a, err := netip.ParseAddr(*text)
	if err != nil {
		return netip.Addr{}, err
	}
	a = a.Unmap()
	switch {
	case a.Zone() != "":
		return netip.Addr{}, fmt.Errorf("%q has a zone: %w", *text, errCanonical)
	case addr.Of(a) != f:
		return netip.Addr{}, fmt.Errorf("%q: %w", *text, errFamily)
	case a.IsUnspecified():
		return netip.Addr{}, nil
	}
	return a, nil
}

// binding is the value of a claim and of an address record. The claim on the
// first subnet of a lease also carries the addresses of the lease and the extra
// of its offer.
type binding struct {
	Host   string          `json:"host"`
	Public []netip.Addr    `json:"public,omitempty"`
	Extra  json.RawMessage `json:"extra,omitempty"`
}

// presence is the value of a session.
type presence struct {
	Boot   string       `json:"boot"`
	Run    string       `json:"run"`
	Public []netip.Addr `json:"public"`
}

// tombstone is the value of a recent record. Its time is for ordering and for
// people; that the key exists is what counts.
type tombstone struct {
	Until time.Time `json:"until"`
}

// encode is for our own records, which marshal whatever they hold.
func encode(v any) string {
	b, err := json.Marshal(v) // an extra went through lease.FormatExtra
	if err != nil {
		panic(err)
	}
	return string(b)
}

func decode[T any](s string) (T, error) {
	var v T
	if err := atMost(maxValue, "record", s); err != nil {
		return v, err
	}
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		return v, fmt.Errorf("record: %w", err)
	}
	return v, nil
}
