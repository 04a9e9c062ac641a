package lease_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/flannel-ng/flannel-ng/internal/addr"
	"github.com/flannel-ng/flannel-ng/internal/config"
	"github.com/flannel-ng/flannel-ng/internal/lease"
)

func updating() *flag.Flag { return flag.Lookup("update") }

func TestMain(m *testing.M) {
	flag.Bool("update", false, "rewrite the decisions in testdata; review the diff")
	m.Run()
}

// TestDecide runs every case of testdata: situations in words, the decision
// after "=>". The clock stands at noon.
func TestDecide(t *testing.T) {
	const file = "testdata/decide.txtar"
	ar, err := txtar.ParseFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range ar.Files {
		t.Run(f.Name, func(t *testing.T) {
			text, want, _ := strings.Cut(string(f.Data), "=>")
			got := decide(t, text)
			ar.Files[i].Data = []byte(text + "=> " + got + "\n")
			if got != strings.TrimSpace(want) && updating().Value.String() != "true" {
				t.Errorf("decided\n  %s\nwant\n  %s", got, strings.TrimSpace(want))
			}
		})
	}
	if updating().Value.String() == "true" {
		if err := os.WriteFile(file, txtar.Format(ar), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func noon() time.Time { return time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC) }

func decide(t *testing.T, text string) string {
	t.Helper()
	s := situation(t, text)
	d := lease.Decide(s)
	if again := lease.Decide(s); again.String() != d.String() {
		t.Errorf("two decisions on one situation: %s and %s", d, again)
	}
	if d.Wake.IsZero() {
		return d.String()
	}
	return fmt.Sprintf("%s [again in %s]", d, d.Wake.Sub(noon()))
}

// situation parses lines of a word and its arguments.
func situation(t *testing.T, text string) lease.Situation {
	t.Helper()
	s := lease.Situation{HostID: "me", Now: noon(), Grace: time.Hour}
	s.Snapshot = lease.Snapshot{Synced: true, Epoch: 1, Rev: 100}
	s.Ask.Network = network(t, `{"Network":"10.5.0.0/16"}`)
	s.Ask.Public = addrs("192.0.2.1")
	s.Ask.Offer = lease.Offer{Backend: "vxlan"}
	for line := range strings.Lines(text) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		args := options(rest)
		switch word {
		case "", "#":
		case "config":
			s.Ask.Network = network(t, rest)
		case "public":
			s.Ask.Public = addrs(rest)
		case "previous":
			s.Ask.Previous = prefixes(rest)
		case "offer":
			s.Ask.Offer.Backend = rest
		case "grace":
			s.Grace = args.duration("for")
		case "refused":
			s.Attempt++
			s.Refused = append(s.Refused, lease.Recent{Subnet: netip.MustParsePrefix(rest), Until: noon().Add(time.Minute)})
		case "snapshot":
			s.Snapshot.Rev, s.Snapshot.Epoch = args.number("rev", 100), args.number("epoch", 1)
			s.Snapshot.Synced, s.Snapshot.Origin.LastKnownGood = !args.has("partial"), args.has("stored")
		case "lease":
			s.Snapshot.Leases = append(s.Snapshot.Leases, new(args.lease()))
		case "recent":
			s.Snapshot.Recent = append(s.Snapshot.Recent, lease.Recent{
				Subnet: netip.MustParsePrefix(args[""]), Until: noon().Add(args.duration("for")),
			})
		case "bad":
			s.Snapshot.Bad = append(s.Snapshot.Bad, lease.Rejected{Key: rest, Reason: "is no lease"})
		case "holding":
			s.Holding = args.holding()
		default:
			t.Fatalf("unknown word %q", word)
		}
	}
	return s
}

type arguments map[string]string

func options(rest string) arguments {
	a := arguments{}
	for f := range strings.FieldsSeq(rest) {
		if k, v, ok := strings.Cut(f, "="); ok {
			a[k] = v
		} else {
			a[strings.Repeat("+", min(len(a[""]), 1))] = f
			a["is "+f] = f
		}
	}
	return a
}

func (a arguments) has(word string) bool { return a["is "+word] != "" }

func (a arguments) number(k string, or int64) int64 {
	if n, err := strconv.ParseInt(a[k], 10, 64); err == nil {
		return n
	}
	return or
}

func (a arguments) duration(k string) time.Duration {
	d, err := time.ParseDuration(a[k])
	if err != nil {
		panic(err)
	}
	return d
}

func (a arguments) lease() lease.Lease {
	l := lease.Lease{Subnets: prefixes(a[""]), Owner: a["owner"], Reserved: a.has("reserved"), Offer: lease.Offer{Backend: "vxlan"}}
	l.Public = addrs(a["public"])
	l.Modified = a.number("rev", 10)
	l.Created = a.number("created", l.Modified)
	l.Key = key(l.Subnets)
	return l
}

func (a arguments) holding() lease.Holding {
	states := map[string]lease.State{"held": lease.Owned, "expired": lease.Expired, "lost": lease.Lost}
	h := lease.Holding{State: states[a[""]], Epoch: 1, Since: noon().Add(-time.Minute)}
	h.Lease.Subnets = prefixes(a["subnet"])
	h.Lease.Key = key(h.Lease.Subnets)
	h.Lease.Token = lease.Token(a.number("token", 10))
	h.Asked = lease.Claim{Subnets: h.Lease.Subnets, Public: addrs("192.0.2.1"), Offer: lease.Offer{Backend: "vxlan"}}
	if a["public"] != "" {
		h.Asked.Public = addrs(a["public"])
	}
	if a["left"] != "" {
		h.Deadline = noon().Add(a.duration("left"))
	}
	if a["renew"] != "" {
		h.Renew = noon().Add(a.duration("renew"))
	}
	return h
}

func key(subnets addr.ByFamily[netip.Prefix]) string {
	var words []string
	for _, p := range (lease.Lease{Subnets: subnets}).Prefixes() {
		words = append(words, strings.ReplaceAll(p.String(), "/", "-"))
	}
	return strings.Join(words, "&")
}

func prefixes(s string) addr.ByFamily[netip.Prefix] {
	var b addr.ByFamily[netip.Prefix]
	for w := range strings.SplitSeq(s, ",") {
		if p, err := netip.ParsePrefix(w); err == nil {
			b.Put(addr.Of(p.Addr()), p)
		}
	}
	return b
}

func addrs(s string) addr.ByFamily[netip.Addr] {
	var b addr.ByFamily[netip.Addr]
	for w := range strings.SplitSeq(s, ",") {
		if a, err := netip.ParseAddr(w); err == nil {
			b.Put(addr.Of(a), a)
		}
	}
	return b
}

func network(tb testing.TB, text string) config.Network {
	tb.Helper()
	n, err := config.Parse([]byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	return n
}
